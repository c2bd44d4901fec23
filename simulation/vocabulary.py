# SPDX-License-Identifier: Apache-2.0
"""A simulated league agrees on its vocabulary before its first round, over the asked run's cohort.

The merchants' workers answer as in any other round, on homes of a run of its own: in a secure league nobody sees
what one of them carries, this machine's platform neither.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from data.catalogue import Vocabulary
from server.vocabulary import ask_vocabulary
from simulation.config import Config
from simulation.federation import Federation, open_homes
from simulation.grid import InProcessGrid
from simulation.league import PreparedLeague, catalogue_file, vocabulary_file, write_league
from simulation.nodes import nodes
from simulation.plans import counting, workers
from simulation.pool import executor


def agreed(config: Config, folder: Path, league: PreparedLeague) -> PreparedLeague:
    """The league with its shared vocabulary, which is counted once and written.

    Raises:
        CohortFailed: too few merchants answered.
        data.errors.PreparationError: no item is carried by enough merchants.
    """
    path = vocabulary_file(folder / "league")
    if not path.exists():
        _count(counting(config, folder, league), league, workers(config)).save(path)
    league = replace(league, items=Vocabulary.load(path).size)
    write_league(league, folder / "league")
    return league


def _count(run: Federation, league: PreparedLeague, workers: int) -> Vocabulary:
    candidates = Vocabulary.load(catalogue_file(run.league))
    shutil.rmtree(run.folder, ignore_errors=True)  # of a count that was killed half way
    open_homes(run, league, catalogue_file(run.league))
    pool = executor(nodes(run.nodes), workers)
    try:
        kept = ask_vocabulary(
            InProcessGrid(league.names, pool),
            run.cohort(),
            candidates.size,
            run.settings.proposal(),
            run.carriers,
            run.settings.rounds.round_timeout_s,
        )
    finally:
        pool.close()
    return candidates.shared(kept, run.carriers)
