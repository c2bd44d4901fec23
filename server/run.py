# SPDX-License-Identifier: Apache-2.0
"""A whole run on the platform: the league's popularity once, then the rounds; fresh or from a checkpoint.

The same code runs under Flower's ServerApp and in the simulation. It sees sums over the cohort alone, and it
needs no code of the task: the starting model is arrays.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from models.popularity import log_popularity
from privacy.plan import PrivacyPlan
from privacy.secure_exchange import MAX_WEIGHT
from server.checkpoints import Checkpoint, CheckpointFolder
from server.cohorts import SECURE
from server.gate import ask_sum
from server.rounds import Observer, RoundsConfig, gather, run_rounds
from strategies.build import StrategyConfig
from strategies.cohort import Cohort, Expected
from strategies.cohort_grid import CohortGrid

BUYERS = "buyers"
MAX_EXAMPLES = 2**20
TRAIN_STATISTICS: Mapping[str, tuple[int, ...]] = {"loss": (), "users": ()}


@dataclass(frozen=True, slots=True)
class RunSettings:
    """All that the platform proposes for a run.

    Attributes:
        run: name of the run, the same when it is resumed.
        config_hash: fixes which checkpoints belong to it.
        plan: the privacy plan that each merchant recomputes and judges by itself.
        training: settings of the merchants' training, as plain data.
        popularity: name of the fixed array that holds the league's log-popularity, "" for tasks without one.
        aggregation: `plain` or `secure`; merchants hold it against their policy.
        vocabulary: digest of the vocabulary that the run is over; merchants hold it against their own.
    """

    run: str
    config_hash: str
    strategy: StrategyConfig
    rounds: RoundsConfig
    plan: PrivacyPlan
    training: Mapping[str, Any]
    popularity: str
    aggregation: str
    vocabulary: str

    def proposal(self) -> dict[str, str | int]:
        """What every message of the run carries; the size of the cohort joins it when it is asked."""
        secure = {"max-weight": 1 if self.plan.private else MAX_WEIGHT} if self.aggregation == SECURE else {}
        return {
            "run": self.run,
            "plan": json.dumps(self.plan.to_dict(), sort_keys=True),
            "training": json.dumps(dict(self.training), sort_keys=True),
            "aggregation": self.aggregation,
            "vocabulary": self.vocabulary,
            **secure,
        }


def conduct(
    grid: Grid, cohort: Cohort, settings: RunSettings, start: Checkpoint, folder: Path, observe: Observer
) -> Checkpoint:
    """Run to the end, from the newest checkpoint in `folder` where there is one, else from `start`.

    Raises:
        ServerError: the league did not gather, every round failed, or the checkpoints are another run's.
        CohortFailed: too few merchants answered the popularity query.
    """
    checkpoints = CheckpointFolder(folder, settings.config_hash)
    gather(grid, settings.rounds.min_merchants, settings.rounds.gather_timeout_s)
    proposal = settings.proposal()
    state = checkpoints.newest()
    if state is None:
        state = _with_popularity(
            grid, cohort, settings, replace(start, config_hash=settings.config_hash), proposal
        )
        checkpoints.save(state)
    observe(state)
    statistics, max_weight = ({}, 1) if settings.plan.private else (TRAIN_STATISTICS, MAX_EXAMPLES)
    cohort_grid = CohortGrid(grid, cohort, statistics, max_weight, state.fixed)
    quantile = settings.plan.clipping_quantile
    return run_rounds(
        settings.strategy, grid, cohort_grid, state, settings.rounds, proposal, checkpoints, observe, quantile
    )


def _with_popularity(
    grid: Grid, cohort: Cohort, settings: RunSettings, start: Checkpoint, proposal: dict[str, str | int]
) -> Checkpoint:
    """Set the league's popularity from one summed histogram; a plan that gives it no budget leaves it flat."""
    plan = settings.plan
    if not settings.popularity or (plan.private and not plan.popularity_noise_multiplier):
        return start
    shape = start.fixed[settings.popularity].shape
    asked = proposal | {"server-round": 0}
    total = ask_sum(
        grid,
        cohort,
        "popularity",
        {},
        asked,
        Expected({BUYERS: shape}, {}, max_weight=1),
        settings.rounds.round_timeout_s,
    )
    counts = (total.mean[BUYERS].astype(np.float64) * total.weight).astype(np.float32)
    noise = plan.merchant_noise("popularity") * math.sqrt(total.survivors)
    prior = log_popularity(counts, floor=max(0.5, noise))
    return replace(start, fixed={**start.fixed, settings.popularity: prior})
