# SPDX-License-Identifier: Apache-2.0
"""What stays at the merchant, measured: a vector per item, and the choice between the release and an own formula.

    python -m benchmarks.local_parts [--quick]     --quick: one round, few merchants: rows mean little

Seed 0, test weeks, ndcg@10 paired over the same users. `worse off`: merchants whose own local-only model ranks new
items better than what they are served; `beyond noise`: by more than two standard errors over their users. Choices
are made on the validation weeks.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Row, row, table, write
from client.choice import STANDARD_ERRORS, choose, fit_chosen
from client.runtime import Runtime, RuntimeSettings, open_runtime, read_runtime
from client.wire import Request
from data.samples import EvaluationSet
from models.metrics import ViewMetrics
from models.parameters import load_public, shared_arrays
from server.checkpoints import CheckpointFolder
from simulation.league import Merchant, open_league
from simulation.nodes import RUNTIME
from simulation.research import KS, LOCAL_ONLY, TEST, VALID, Researcher, unpack_views

METRIC, VIEWS = "ndcg@10", ("novel", "all")
ALONE, RELEASE = "local-only", "the release"
JOB = (
    *("privacy=none", "serve=false", "compare.baselines=false", "compare.local_only=false"),
    "compare.centralised=false",
)
QUICK = ("rounds=1", "model.training.steps_per_round=2")
QUICK_MERCHANTS = 20
SHARED = "model.options.item_id=shared"

Views = Mapping[str, ViewMetrics]
Floats = NDArray[np.float64]


def main() -> int:
    """Run two leagues and print the rows."""
    quick = "--quick" in sys.argv
    most, more = (QUICK_MERCHANTS, QUICK) if quick else (None, ())
    found = _measured(_League.served, most, *more)
    found["a vector per item, shared"] = _measured(_League.release, most, SHARED, *more)[RELEASE]
    rows = [line for name, merchants in found.items() for line in _rows(name, merchants, found)]
    print(table(rows))
    write("local_parts", rows)
    return 0


def _measured(ways: "Ways", most: int | None, *overrides: str) -> dict[str, list[Views]]:
    """Run a league; for each of the ways to serve its release, the figures of every merchant."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "simulate.py", f"output={folder}", *JOB, *overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        league = _League(next(Path(folder).glob("*/runs/federated")))
        merchants = [dict(ways(league, merchant)) for merchant in league.merchants[:most]]
    return {name: [one[name] for one in merchants] for name in merchants[0]}


class _League:
    """A finished run, opened again: its merchants, its release, and what each merchant makes of it."""

    def __init__(self, run: Path) -> None:
        job = run.parent.parent
        prepared, settings = open_league(job / "league"), read_runtime(run / "homes" / RUNTIME)
        saved = json.loads((job / "config.json").read_text("utf-8"))
        final = CheckpointFolder(run / "checkpoints", saved["hash"]).newest()
        assert final is not None
        self.merchants = prepared.merchants
        self._public, self._settings = final.model, settings
        self._plain = self._opened(settings)
        self._researcher = Researcher(job / "league", prepared, open_runtime(settings))
        start = shared_arrays(self._plain.task.build(seed=0), self._plain.spec)
        self._alone = Request(LOCAL_ONLY, "", 0, {**start, **final.fixed}, _local_only(saved["config"]["model"]))

    @cached_property
    def _with_residual(self) -> Runtime:
        options = {**self._settings.options, "item_id": "local"}
        return self._opened(replace(self._settings, options=options))

    def _opened(self, settings: RuntimeSettings) -> Runtime:
        runtime = open_runtime(settings)
        load_public(runtime.model, runtime.spec, self._public)
        return runtime

    def release(self, merchant: Merchant) -> Iterator[tuple[str, Views]]:
        """The release as it is."""
        self._plain.task.fit_local(self._plain.model, self._researcher.known(merchant, TEST))
        yield RELEASE, self._figures(self._plain, self._researcher.window(merchant, TEST))

    def served(self, merchant: Merchant) -> Iterator[tuple[str, Views]]:
        """All that a merchant may be served."""
        before, now = (self._researcher.known(merchant, window) for window in (VALID, TEST))
        weeks, judged = (self._researcher.window(merchant, window) for window in (VALID, TEST))
        plain, own = self._plain, self._with_residual
        yield from self.release(merchant)
        own.task.fit_local(own.model, now)
        yield "a vector per item, local", self._figures(own, judged)
        plain.task.fit_alone(plain.model, now)
        yield "own formula", self._figures(plain, judged)
        choice = choose(plain, before, weeks)
        fit_chosen(plain, now, choice)
        yield "choice beyond two standard errors", self._figures(plain, judged)
        (plain.task.fit_alone if choice.lead > 0 else plain.task.fit_local)(plain.model, now)
        yield "choice of the larger mean", self._figures(plain, judged)
        yield ALONE, unpack_views(self._researcher.answer(merchant, self._alone).arrays)

    @staticmethod
    def _figures(runtime: Runtime, judged: EvaluationSet) -> Views:
        return runtime.task.evaluate(runtime.model, judged, KS)


Ways = Callable[[_League, Merchant], Iterator[tuple[str, Views]]]


def _local_only(model: Mapping[str, Any]) -> dict[str, str | int]:
    training = {**model["training"], **model["local_only"]}
    return {
        "training": json.dumps(training),
        "seed": 0,
        "popularity": model["popularity"],
        "window": TEST,
    }


def _rows(name: str, merchants: list[Views], found: Mapping[str, list[Views]]) -> list[Row]:
    rows = []
    for view in VIEWS:
        ours, release = (np.concatenate(_per_user(each, view)) for each in (merchants, found[RELEASE]))
        error = float((ours - release).std(ddof=1) / np.sqrt(len(ours)))
        figure = f"ndcg10_{view}: {name}"
        rows.append(row(figure, float(ours.mean()), METRIC, len(ours), float(release.mean()), RELEASE))
        if merchants is not found[RELEASE]:
            rows.append(row(f"{figure}, standard error of the difference", error, METRIC, len(ours)))
    lead = [a - b for a, b in zip(_per_user(merchants, "novel"), _per_user(found[ALONE], "novel"), strict=True)]
    lead = [one for one in lead if len(one)]
    beyond = [one.mean() < -STANDARD_ERRORS * one.std(ddof=1) / np.sqrt(len(one)) for one in lead if len(one) > 1]
    rows.append(row(f"worse off: {name}", float(sum(one.mean() < 0 for one in lead)), "count", len(lead)))
    rows.append(row(f"worse off beyond noise: {name}", float(sum(beyond)), "count", len(lead)))
    return rows


def _per_user(merchants: list[Views], view: str) -> list[Floats]:
    return [one[view].per_user[METRIC] for one in merchants]


if __name__ == "__main__":
    raise SystemExit(main())
