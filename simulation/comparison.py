# SPDX-License-Identifier: Apache-2.0
"""The comparison at the end of a run: every method on the same users of the test weeks, in the same table.

This process reads one merchant at a time and keeps what `simulation.tally` keeps.
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
from data.samples import EvaluationSet
from models.baselines import BASELINES, NEIGHBOURS, evaluate_baselines
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
from simulation.research import KS, TEST, Researcher
from simulation.results import method_row, paired_rows, uplift_row
from simulation.tally import Audience, Scored, Tally, audience

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
    comparer = _Comparer(config, league, audience(_windows(researcher, league)), display)
    scored: list[Scored] = []
    for name, run in runs.items():
        scored += comparer.run(name, run)
    if ORDINARY in runs:
        scored += comparer.references(runs[ORDINARY])
    if config.compare.baselines:
        scored = comparer.baselines(researcher) + scored
    paired = paired_rows(scored)
    return Comparison([method_row(method) for method in scored], paired, _uplift(scored, paired, league))


def _researcher(folder: Path, league: PreparedLeague, federation: Federation) -> Researcher:
    runtime = open_runtime(read_runtime(federation.nodes.homes / RUNTIME))
    return Researcher(folder / "league", league, runtime)


def _windows(researcher: Researcher, league: PreparedLeague) -> Iterator[tuple[str, EvaluationSet]]:
    return ((merchant.name, researcher.window(merchant, TEST)) for merchant in league.merchants)


@dataclass(frozen=True, slots=True)
class _EachMerchant(Generic[Read]):
    """What is read of each merchant, one at a time, anew whenever it is gone through."""

    league: PreparedLeague
    read: Callable[[Merchant, str], Read]

    def __iter__(self) -> Iterator[Read]:
        return (self.read(merchant, TEST) for merchant in self.league.merchants)


@dataclass(frozen=True, slots=True)
class _Comparer:
    """Measures every method on the same audience; each is scored, and its sums let go, before the next."""

    config: Config
    league: PreparedLeague
    who: Audience
    display: Display

    def baselines(self, researcher: Researcher) -> list[Scored]:
        """Baselines learn from everything before the test weeks, the validation weeks included."""
        items = self.league.items
        neighbours = items <= LARGEST_FOR_NEIGHBOURS
        self.display.say(f"baselines: popularity, own repeats{', ItemKNN' if neighbours else ''} …")
        if not neighbours:
            self.display.say(
                f"ItemKNN is left out: {items:,} items are more than {LARGEST_FOR_NEIGHBOURS:,}, for which its "
                "matrix of similarities fits in memory"
            )
        names = [name for name in BASELINES if neighbours or name not in NEIGHBOURS]
        tallies = {name: Tally(self.who, name, "baseline") for name in names}
        known, windows = (
            _EachMerchant(self.league, researcher.known),
            _EachMerchant(self.league, researcher.window),
        )
        found = evaluate_baselines(known, windows, items, KS, neighbours=neighbours)
        for merchant, views in zip(self.league.names, found, strict=True):
            for name, tally in tallies.items():
                tally.add(merchant, views[name])
        return [tally.scored(self.config.seed) for tally in tallies.values()]

    def run(self, name: str, run: FederatedRun) -> list[Scored]:
        """A federated run's model, and what the ordinary one says before it has learnt anything."""
        final = run.final.model
        untrained = {**starting_model(run.federation).arrays, **run.final.fixed}
        with _pool(self.config, run.federation) as pool:
            found = [self._evaluate(pool, final, name, Tally(self.who, name, name, private=name == PRIVATE))]
            if name == ORDINARY and self.config.compare.baselines:
                mix = Tally(self.who, UNTRAINED_MIX, "baseline")
                found.append(self._evaluate(pool, _without_tower(untrained), "untrained mix", mix))
        return found

    def references(self, run: FederatedRun) -> list[Scored]:
        """Each merchant's own model, and the centralised one, as far as the settings ask for them."""
        compare, model, names = self.config.compare, self.config.model, self.league.names
        if not (compare.local_only or compare.centralised):
            return []
        start = {**starting_model(run.federation).arrays, **run.final.fixed}
        ordinary = training(self.config, Mode.NONE)
        alone, together = (
            _reference_settings(self.config, run, {**ordinary, **laid_over}) if asked else None
            for asked, laid_over in (
                (compare.local_only, model.local_only),
                (compare.centralised, model.centralised),
            )
        )
        local = Tally(self.who, "local_only", "local_only")
        found: list[Scored] = []
        with _pool(self.config, run.federation) as pool:
            jobs = (len(names) if alone else 0) + (1 if together else 0)
            with self.display.stage("train references", jobs) as stage:
                arrays = references.train(pool, names, start, alone, together, local.add, stage)
            if alone:
                found.append(local.scored(self.config.seed))
            if arrays:
                tally = Tally(self.who, "centralised", "centralised")
                found.append(self._evaluate(pool, arrays, "centralised", tally))
        return found

    def _evaluate(self, pool: Executor, arrays: Mapping[str, Array], title: str, tally: Tally) -> Scored:
        with self.display.stage(f"measure {title.replace('_', ' ')}", len(self.league.names)) as stage:
            references.evaluate(pool, self.league.names, arrays, TEST, tally.add, stage)
        return tally.scored(self.config.seed)


def _reference_settings(config: Config, run: FederatedRun, own: dict[str, Any]) -> dict[str, str | int]:
    return {
        "training": json.dumps(own),
        "seed": config.seed,
        "popularity": config.model.popularity,
        "window": TEST,
    }


def _uplift(scored: list[Scored], paired: list[dict[str, Any]], league: PreparedLeague) -> list[dict[str, Any]]:
    by_name = {method.name: method for method in scored}
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
