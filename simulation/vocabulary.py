# SPDX-License-Identifier: Apache-2.0
"""A simulated league agrees on its vocabulary before its first round, over the asked run's cohort.

The merchants' workers answer as in any other round, on homes of a run of its own, over the engine that was asked
for: in a secure league nobody sees what one of them carries, this machine's platform neither.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.catalogue import Vocabulary
from server.app import write_run
from server.vocabulary import Count, count_vocabulary, read_shared
from simulation.config import Config
from simulation.federation import Federation, open_homes, run_file
from simulation.flower_runtime import count_on_flower
from simulation.grid import InProcessGrid
from simulation.league import PreparedLeague, catalogue_file, vocabulary_file, write_league
from simulation.nodes import nodes
from simulation.plans import counting, workers
from simulation.pool import executor


def agreed(config: Config, folder: Path, league: PreparedLeague) -> PreparedLeague:
    """The league with its shared vocabulary, which is counted once and written.

    Raises:
        CohortFailed: too few merchants answered.
        RunFailed: the same, on Flower's runtime.
        data.errors.PreparationError: no item is carried by enough merchants.
    """
    path = vocabulary_file(folder / "league")
    if not path.exists():
        _count(config, counting(config, folder, league), league).save(path)
    league = replace(league, items=Vocabulary.load(path).size)
    write_league(league, folder / "league")
    return league


def _count(config: Config, run: Federation, league: PreparedLeague) -> Vocabulary:
    candidates = Vocabulary.load(catalogue_file(run.league))
    count = Count(candidates.size, run.carriers)
    shutil.rmtree(run.folder, ignore_errors=True)  # of a count that was killed half way
    open_homes(run, league, catalogue_file(run.league))
    if config.engine.name == "ray":
        write_run(run.folder, run_file(run, count))
        count_on_flower(run, league, workers(config))
    else:
        _count_in_process(run, league, count, workers(config))
    shared = read_shared(run.folder)
    return candidates.shared(np.isin(np.arange(candidates.size) + 1, shared.items), shared.carriers)


def _count_in_process(run: Federation, league: PreparedLeague, count: Count, workers: int) -> None:
    pool = executor(nodes(run.nodes), workers)
    try:
        grid = InProcessGrid(league.names, pool)
        count_vocabulary(grid, run.cohort(), run.settings, count, run.folder)
    finally:
        pool.close()
