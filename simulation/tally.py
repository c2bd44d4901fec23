# SPDX-License-Identifier: Apache-2.0
"""What is kept of a method's figures while merchant after merchant is measured.

One row of sums per person and method, until its intervals are known; then a few figures per method, and one mean
per merchant. Persons: equal user ids are one person, whose rows at several merchants rise and fall together.

Guarantees:
- two methods are compared on the same users only
- the order in which merchants answer changes no figure
- what a merchant was shown and its users' figures are not kept
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from data.samples import EvaluationSet
from models.metrics import (
    VIEWS,
    Interval,
    ViewMetrics,
    both_shown,
    coverage_interval,
    mean_interval,
    resampled_means,
)

PAIRED_METRIC = "ndcg@10"
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A merchant's users of one view: `users` int32 [U'] rows of its window, `persons` int32 [U'] who they are."""

    users: npt.NDArray[np.int32]
    persons: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Audience:
    """Whom every method is measured on: view to merchant to its rows, and how many persons a view has."""

    rows: Mapping[str, Mapping[str, Rows]]
    persons: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredView:
    """One method in one view.

    Attributes:
        figures: metric to mean and interval over the league; nothing where nobody was measured.
        resampled: mean of PAIRED_METRIC in each resample of persons, float64 [R].
        merchants: mean of PAIRED_METRIC of each merchant that has users in this view.
    """

    figures: Mapping[str, Interval]
    resampled: Floats
    merchants: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One method, measured at every merchant."""

    name: str
    kind: str
    private: bool
    views: Mapping[str, ScoredView]


def audience(windows: Iterable[tuple[str, EvaluationSet]]) -> Audience:
    """The users of merchants' windows, read one at a time; persons are numbered in the order of their ids."""
    ids: dict[str, pl.Series] = {}
    users: dict[str, dict[str, npt.NDArray[np.int32]]] = {view: {} for view in VIEWS}
    for name, window in windows:
        ids[name] = pl.Series(window.histories.user_ids, dtype=pl.String)
        for view, targets in (("all", window.targets_all), ("novel", window.targets_novel)):
            users[view][name] = np.flatnonzero(np.diff(targets.offsets)).astype(np.int32)
    number = pl.concat([*ids.values(), pl.Series(dtype=pl.String)]).rank("dense").to_numpy()
    places = np.cumsum([0, *map(len, ids.values())])
    person = {
        name: number[place : place + len(own)] for (name, own), place in zip(ids.items(), places, strict=False)
    }
    rows = {view: _rows(users[view], person) for view in VIEWS}
    return Audience({view: found for view, (found, _) in rows.items()}, {view: n for view, (_, n) in rows.items()})


def _rows(
    users: Mapping[str, npt.NDArray[np.int32]], person: Mapping[str, npt.NDArray[np.uint32]]
) -> tuple[dict[str, Rows], int]:
    """A view's rows, with its own persons numbered from 0; and how many persons it has."""
    everybody, numbers = np.unique(
        np.concatenate([np.zeros(0, np.uint32), *(person[name][own] for name, own in users.items())]),
        return_inverse=True,
    )
    ends = np.cumsum([len(own) for own in users.values()])[:-1]
    parts = np.split(numbers.astype(np.int32), ends)
    return {name: Rows(own, part.copy()) for (name, own), part in zip(users.items(), parts, strict=False)}, len(
        everybody
    )


class Tally:
    """Adds up one method's figures, merchant by merchant."""

    def __init__(self, who: Audience, name: str, kind: str, *, private: bool = False) -> None:
        self._who, self._method = who, (name, kind, private)
        self._metrics: tuple[str, ...] = ()
        self._sums: dict[str, Floats] = {}
        self._shown: dict[tuple[str, int], npt.NDArray[np.int32]] = {}
        self._means: dict[str, dict[str, float]] = {view: {} for view in VIEWS}

    def add(self, merchant: str, views: Mapping[str, ViewMetrics]) -> None:
        """Count a merchant in, once; raises ValueError where it was measured on other users than the audience."""
        self._metrics = self._metrics or tuple(sorted(views[VIEWS[0]].per_user))
        for view in VIEWS:
            self._add(merchant, view, views[view])

    def _add(self, merchant: str, view: str, found: ViewMetrics) -> None:
        rows = self._who.rows[view][merchant]
        if not np.array_equal(found.users, rows.users):
            raise ValueError(
                f"view {view!r}: expected the {len(rows.users)} users of {merchant}'s window, found "
                f"{len(found.users)} others of {self._method[0]!r}: measure all methods on the same windows"
            )
        if view not in self._sums:
            self._sums[view] = np.zeros((self._who.persons[view], len(self._metrics)))
        # Sums of float32 figures are exact in float64, whatever their order.
        values = np.stack([found.per_user[name] for name in self._metrics], axis=1).astype(np.float32)
        self._sums[view][rows.persons] += values  # a merchant's users are different persons
        for k, shown in found.shown.items():
            league = np.where(shown < 0, shown, rows.persons[shown] if len(rows.persons) else shown)
            before = self._shown.get((view, k))
            self._shown[view, k] = league if before is None else both_shown(before, league)
        if len(rows.users):
            self._means[view][merchant] = float(found.per_user[PAIRED_METRIC].mean())

    def scored(self, seed: int) -> Scored:
        """The league's figures, with intervals over persons."""
        return Scored(*self._method, {view: self._view(view, seed) for view in VIEWS})

    def _view(self, view: str, seed: int) -> ScoredView:
        persons = self._who.persons[view]
        counts = np.zeros(persons)
        for rows in self._who.rows[view].values():
            counts[rows.persons] += 1.0
        sums = self._sums[view]
        resampled = resampled_means(sums, counts, seed=seed)
        figures = {
            name: mean_interval(float(total / counts.sum()), resampled[:, column])
            for column, (name, total) in enumerate(zip(self._metrics, sums.sum(axis=0), strict=True))
            if persons
        }
        for (of, k), shown in sorted(self._shown.items()):
            if of == view:
                figures[f"coverage@{k}"] = coverage_interval(shown[1:], persons)
        return ScoredView(figures, resampled[:, self._metrics.index(PAIRED_METRIC)].copy(), self._means[view])
