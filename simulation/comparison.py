# SPDX-License-Identifier: Apache-2.0
"""The comparison at the end of a run: every method on the same users of the test weeks, in the same table.

This process reads one merchant at a time and keeps figures and user ids alone.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from client.runtime import open_runtime, read_runtime
from client.wire import Array
from data.samples import EvaluationSet, Ragged, UserHistories
from models.baselines import evaluate_baselines
from privacy.plan import Mode
from simulation import references
from simulation.config import Config
from simulation.federation import FederatedRun, Federation, starting_model
from simulation.league import Merchant, PreparedLeague
from simulation.measured import UNTRAINED_MIX
from simulation.nodes import RUNTIME, nodes
from simulation.plans import ORDINARY, PRIVATE, training, workers
from simulation.pool import Executor, executor
from simulation.progress import Display
from simulation.references import PerMerchant
from simulation.research import KS, TEST, Researcher
from simulation.results import Measured, Scored, method_row, paired_rows, persons_of, persons_of_rows, uplift_row

LARGEST_FOR_NEIGHBOURS = 20_000  # items: the similarities are a dense matrix
TOWER = "tower."
Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows of `results.json`."""

    methods: list[dict[str, Any]]
    paired: list[dict[str, Any]]
    uplift: list[dict[str, Any]]


def compare(
    config: Config, folder: Path, league: PreparedLeague, runs: Mapping[str, FederatedRun], display: Display
) -> Comparison:
    """Measure all that `config.compare` asks for beside the federated runs."""
    researcher = _researcher(folder, league, next(iter(runs.values())).federation)
    measured: list[Measured] = []
    for name, run in runs.items():
        measured += _measure_run(config, name, run, league, display)
    if ORDINARY in runs:
        measured += _references(config, runs[ORDINARY], league, display)
    scored = [method.scored() for method in measured]
    if config.compare.baselines:
        scored = _baselines(researcher, league, display) + scored
    users = {merchant.name: _users_alone(researcher.window(merchant, TEST)) for merchant in league.merchants}
    rows = persons_of_rows(measured[0].per_merchant, persons_of(users))
    methods = [method_row(method, rows, config.seed) for method in scored]
    paired = paired_rows(scored, rows, config.seed)
    return Comparison(methods, paired, _uplift(measured, paired, league))


def _researcher(folder: Path, league: PreparedLeague, federation: Federation) -> Researcher:
    runtime = open_runtime(read_runtime(federation.nodes.homes / RUNTIME))
    return Researcher(folder / "league", league, runtime)


def _users_alone(window: EvaluationSet) -> EvaluationSet:
    """Who is in a window, without events."""
    users = len(window)
    nothing = Ragged(np.zeros(users + 1, np.int64), np.zeros(0, np.int32))
    none = np.zeros(0, np.float32)
    histories = UserHistories(window.histories.user_ids, nothing.offsets, nothing.items, none, none)
    return EvaluationSet(histories, nothing, nothing, nothing, window.cut_day)


@dataclass(frozen=True, slots=True)
class _EachMerchant(Generic[Read]):
    """What is read of each merchant, one at a time, anew whenever it is gone through."""

    league: PreparedLeague
    read: Callable[[Merchant, str], Read]

    def __iter__(self) -> Iterator[Read]:
        return (self.read(merchant, TEST) for merchant in self.league.merchants)


def _baselines(researcher: Researcher, league: PreparedLeague, display: Display) -> list[Scored]:
    """Baselines learn from everything before the test weeks, the validation weeks included."""
    neighbours = league.items <= LARGEST_FOR_NEIGHBOURS
    display.say(f"baselines: popularity, own repeats{', ItemKNN' if neighbours else ''} …")
    if not neighbours:
        display.say(
            f"ItemKNN is left out: {league.items:,} items are more than {LARGEST_FOR_NEIGHBOURS:,}, for which its "
            "matrix of similarities fits in memory"
        )
    known, windows = _EachMerchant(league, researcher.known), _EachMerchant(league, researcher.window)
    found = evaluate_baselines(known, windows, league.items, KS, neighbours=neighbours)
    return [Scored(name, "baseline", False, views) for name, views in found.items()]


def _measure_run(
    config: Config, name: str, run: FederatedRun, league: PreparedLeague, display: Display
) -> list[Measured]:
    final = run.final.model
    untrained = {**starting_model(run.federation).arrays, **run.final.fixed}
    with _pool(config, run.federation) as pool:
        found = [Measured(name, name, name == PRIVATE, _evaluate(pool, league, final, name, display))]
        if name == ORDINARY and config.compare.baselines:
            views = _evaluate(pool, league, _without_tower(untrained), "untrained mix", display)
            found.append(Measured(UNTRAINED_MIX, "baseline", False, views))
    return found


def _evaluate(
    pool: Executor, league: PreparedLeague, arrays: Mapping[str, Array], title: str, display: Display
) -> PerMerchant:
    with display.stage(f"measure {title.replace('_', ' ')}", len(league.merchants)) as stage:
        return references.evaluate(pool, league.names, arrays, TEST, stage)


def _references(config: Config, run: FederatedRun, league: PreparedLeague, display: Display) -> list[Measured]:
    start = {**starting_model(run.federation).arrays, **run.final.fixed}
    ordinary = training(config, Mode.NONE)
    settings = {
        name: _reference_settings(config, run, {**ordinary, **laid_over})
        for name, laid_over in (("alone", config.model.local_only), ("together", config.model.centralised))
    }
    alone = settings["alone"] if config.compare.local_only else None
    together = settings["together"] if config.compare.centralised else None
    found: list[Measured] = []
    with _pool(config, run.federation) as pool:
        jobs = (len(league.names) if alone else 0) + (1 if together else 0)
        with display.stage("train references", jobs) as stage:
            views, arrays = references.train(pool, league.names, start, alone, together, stage)
        if views:
            found.append(Measured("local_only", "local_only", False, views))
        if arrays:
            views = _evaluate(pool, league, arrays, "centralised", display)
            found.append(Measured("centralised", "centralised", False, views))
    return found


def _reference_settings(config: Config, run: FederatedRun, own: dict[str, Any]) -> dict[str, str | int]:
    return {
        "training": json.dumps(own),
        "seed": config.seed,
        "popularity": config.model.popularity,
        "window": TEST,
    }


def _uplift(
    measured: list[Measured], paired: list[dict[str, Any]], league: PreparedLeague
) -> list[dict[str, Any]]:
    by_name = {method.name: method for method in measured}
    return [
        uplift_row(by_name[row["method"]], by_name["local_only"], row, league)
        for row in paired
        if row["against"] == "local_only"
    ]


def _without_tower(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The mix alone: what the model says before it has learnt anything."""
    return {name: np.zeros_like(array) if name.startswith(TOWER) else array for name, array in arrays.items()}


@contextmanager
def _pool(config: Config, federation: Federation) -> Iterator[Executor]:
    pool = executor(nodes(federation.nodes), workers(config))
    try:
        yield pool
    finally:
        pool.close()
