# SPDX-License-Identifier: Apache-2.0
"""The rounds of a run: ask the cohort, aggregate, checkpoint, go on.

Flower's `Strategy.start` has no checkpoint, no resume and waits for ever for its nodes, so the loop is ours
and calls the same public steps of the strategy.

Guarantees:
- Every finished round is on disk before the next one starts.
- A failed round leaves the model as it was; a run in which every round failed raises.
- A resumed run draws the same cohorts as an undisturbed one.
"""

import hashlib
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from privacy.adaptive_clipping import SCALE, WITHIN, scale_after
from server.checkpoints import Arrays, Checkpoint, CheckpointFolder, RoundRecord
from server.errors import NotEnoughMerchants, RunFailed
from strategies.averaging import averaged
from strategies.build import StrategyConfig, build
from strategies.cohort_grid import CohortGrid
from strategies.errors import CohortFailed
from strategies.state import restore, state_of

Observer = Callable[[Checkpoint], None]


@dataclass(frozen=True, slots=True)
class RoundsConfig:
    """How a run is conducted.

    Attributes:
        rounds: how many rounds the run has.
        seed: fixes which merchants are asked when not all are.
        round_timeout_s: deadline of one round; who answers later is dropped.
        gather_timeout_s: how long to wait for the league before the run fails.
        min_merchants: fewest merchants online for the run to begin.
    """

    rounds: int
    seed: int
    round_timeout_s: float
    gather_timeout_s: float
    min_merchants: int


def gather(grid: Grid, min_merchants: int, timeout_s: float, poll_s: float = 0.2) -> list[int]:
    """The node ids online once there are enough.

    Raises:
        NotEnoughMerchants: the deadline passed.
    """
    deadline = time.monotonic() + timeout_s
    while len(nodes := sorted(grid.get_node_ids())) < min_merchants:
        if time.monotonic() > deadline:
            raise NotEnoughMerchants(
                f"{len(nodes)} merchants online after {timeout_s:g} s, {min_merchants} are required: "
                "start more nodes or lower cohort.min_merchants"
            )
        time.sleep(poll_s)
    return nodes


def run_rounds(
    chosen: StrategyConfig,
    league: Grid,
    grid: CohortGrid,
    start: Checkpoint,
    config: RoundsConfig,
    train_config: Mapping[str, str | int],
    checkpoints: CheckpointFolder,
    observe: Observer,
    quantile: float = 0.0,
) -> Checkpoint:
    """Run the rounds that `start` still lacks and return the final state.

    `grid` runs the cohort over `league`; a round for which the league does not gather in time is a failed round.
    `quantile`: of the users' gradient norms, which the clipping norm follows; 0 where it is fixed.

    Raises:
        RunFailed: no round of the whole run succeeded.
    """
    strategy = build(chosen)
    restore(strategy, start.strategy)
    state = start
    for number in range(start.round + 1, config.rounds + 1):
        asked = {**train_config, **_clipping(quantile, state)}
        state = _one_round(number, strategy, league, grid, state, config, asked)
        done = sum(not record.failure for record in state.history)
        if chosen.averaging and not state.history[-1].failure:
            state = replace(state, averaged=averaged(state.averaged, state.arrays, done, chosen.averaging))
        checkpoints.save(state)
        observe(state)
    if state.history and all(record.failure for record in state.history):
        raise RunFailed(f"all {len(state.history)} rounds failed; the last: {state.history[-1].failure}")
    return state


def _one_round(
    number: int,
    strategy: Strategy,
    league: Grid,
    grid: CohortGrid,
    state: Checkpoint,
    config: RoundsConfig,
    train_config: Mapping[str, str | int | float],
) -> Checkpoint:
    began = time.monotonic()
    _seed_cohort_draw(config.seed, number)
    try:
        grid.gather(gather(league, config.min_merchants, config.gather_timeout_s))
        model, settings = _record(state.arrays), ConfigRecord({**train_config})
        messages = strategy.configure_train(number, model, settings, grid)
        replies = grid.send_and_receive(messages, timeout=config.round_timeout_s)
        arrays, _ = strategy.aggregate_train(number, replies)
    except (CohortFailed, NotEnoughMerchants) as failed:
        return _failed(state, number, failed, time.monotonic() - began)
    total = grid.last
    assert arrays is not None
    assert total is not None
    record = RoundRecord(
        round=number,
        survivors=total.survivors,
        dropped=dict(total.dropped),
        statistics={name: float(value) for name, value in total.statistics.items()},
        wall_s=time.monotonic() - began,
    )
    return replace(
        state,
        round=number,
        arrays={name: array.numpy().astype(np.float32) for name, array in arrays.items()},
        strategy=state_of(strategy),
        history=(*state.history, record),
    )


def _clipping(quantile: float, state: Checkpoint) -> dict[str, float]:
    """The clipping norm to ask for next: it follows from the history, so a resumed run asks for the same."""
    if not quantile:
        return {}
    return {SCALE: scale_after(quantile, (r.statistics[WITHIN] for r in state.history if not r.failure))}


def _failed(state: Checkpoint, number: int, failed: Exception, wall_s: float) -> Checkpoint:
    dropped = failed.dropped if isinstance(failed, CohortFailed) else {}
    survivors = failed.survivors if isinstance(failed, CohortFailed) else 0
    record = RoundRecord(number, survivors, dropped, {}, wall_s, failure=str(failed))
    return replace(state, round=number, history=(*state.history, record))


def _record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(arrays[name])) for name in sorted(arrays)})


def _seed_cohort_draw(seed: int, number: int) -> None:
    """Flower draws cohorts from Python's global generator: seeded per round, a resume draws alike."""
    digest = hashlib.sha256(f"hansa.cohort/1|{seed}|{number}".encode()).digest()
    random.seed(int.from_bytes(digest, "big"))
