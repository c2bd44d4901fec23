# SPDX-License-Identifier: Apache-2.0
"""What a secure round costs beside plain averaging in the simulation: the whole engine, and no training.

Two runs of one league: real workers on real homes, the simulation's grid, Flower's strategy, the cohort that a
run opens. A merchant's one user is never drawn: its update is zero, and what is left is the exchange. Rounds of
both runs take turns; the first of each, with start and set-up in it, does not count.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from benchmarks.measure import Row, alternate, row
from data.catalogue import build_vocabulary
from data.split import TimeSplit
from privacy.plan import Mode, PrivacyPlan, Unit
from server.cohorts import PLAIN, SECURE
from server.rounds import RoundsConfig
from server.run import RunSettings, conduct
from simulation.federation import Federation, set_up
from simulation.grid import InProcessGrid
from simulation.league import FORMAT, Merchant, PreparedLeague, events_file, vocabulary_file, write_league
from simulation.nodes import nodes
from simulation.pool import executor
from strategies.build import StrategyConfig

MERCHANTS, ROWS, DIMENSION, CARRIERS = 10, 93_750, 64, 3
SPLIT = TimeSplit(*(datetime(2025, month, 1, tzinfo=UTC) for month in (3, 4, 5)))
NO_PRIVACY = PrivacyPlan(Mode.NONE, Unit.USER_MERCHANT, float("inf"), 1e-5, 1.0, 0.0, 1.0, 1, 1)
NO_TRAINING = {"steps_per_round": 1, "sampling_rate": 1e-12, "learning_rate": 1.0, "optimiser": "sgd"}


def surcharge_rows(rounds: int) -> list[Row]:
    """Medians over `rounds` rounds of each kind: the surcharge is their difference. 6 million parameters."""
    with TemporaryDirectory() as folder:
        league, vocabulary = _write(Path(folder))
        runs = {name: _Run(Path(folder), league, vocabulary, name) for name in (PLAIN, SECURE)}
        seconds = alternate({name: run.round for name, run in runs.items()}, 1 + rounds)
    plain, secure = (median(seconds[name][1:]) for name in (PLAIN, SECURE))
    return [
        row("in_process_surcharge_6e6_n10", secure - plain, "s", rounds),
        row("in_process_secure_6e6_n10", secure, "s", rounds, plain, "plain averaging"),
    ]


class _Run:
    """A run that goes on by one round at a time."""

    def __init__(self, folder: Path, league: PreparedLeague, vocabulary: str, aggregation: str) -> None:
        rounds = RoundsConfig(0, seed=0, round_timeout_s=300, gather_timeout_s=10, min_merchants=2)
        self._settings = RunSettings(
            *(aggregation, "benchmark", StrategyConfig(), rounds, NO_PRIVACY, NO_TRAINING, "", aggregation),
            vocabulary,
        )
        federation = Federation(
            *(folder / aggregation, folder, "recommendation", {"dimension": DIMENSION, "trained": ["table"]}),
            *("cpu", self._settings, 1.0, CARRIERS, 0),
        )
        self._start = set_up(federation, league)
        self._checkpoints = federation.folder / "checkpoints"
        self._cohort = federation.cohort()
        self._grid = InProcessGrid(league.names, executor(nodes(federation.nodes), 1))

    def round(self) -> float:
        """Seconds of the next round, without those of its checkpoint."""
        before = self._settings
        self._settings = replace(before, rounds=replace(before.rounds, rounds=before.rounds.rounds + 1))
        done = conduct(
            self._grid, self._cohort, self._settings, self._start, self._checkpoints, lambda state: None
        )
        if done.history[-1].survivors != MERCHANTS:
            raise RuntimeError(f"expected {MERCHANTS} merchants in the sum, found {done.history[-1]}")
        return done.history[-1].wall_s


def _write(folder: Path) -> tuple[PreparedLeague, str]:
    """A league and its vocabulary's digest; the model has a row for each item's attribute, one for "unknown"."""
    items = [f"item-{number:06d}" for number in range(1, ROWS)]
    catalogue = pl.DataFrame({"item_id": items, "kind": items})
    vocabulary = build_vocabulary(catalogue).shared(np.ones(len(items), np.bool_), carriers=CARRIERS)
    vocabulary.save(vocabulary_file(folder))
    purchase = pl.DataFrame(
        {
            "user_id": ["one"],
            "item_id": items[:1],
            "timestamp": [SPLIT.train_end - timedelta(days=9)],
            "event": ["purchase"],
            "quantity": [1.0],
            "price": [1.0],
        }
    )
    members = tuple(Merchant(f"merchant-{k}", 1, 1, f"{k:05d}.parquet") for k in range(MERCHANTS))
    (folder / "events").mkdir()
    for member in members:
        purchase.write_parquet(events_file(folder, member))
    league = PreparedLeague(FORMAT, "benchmark", "", SPLIT, 8, members, len(items), 0, 1)
    write_league(league, folder)
    return league, vocabulary.digest
