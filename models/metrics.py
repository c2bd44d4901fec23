# SPDX-License-Identifier: Apache-2.0
"""Ranking figures over the whole catalogue, per user, and intervals of their means over a league.

Two views: `all` (the next basket, repeats allowed) and `novel` (what the user never bought at this merchant; what
they did buy is masked out, for every method alike). recall@k = hits / targets; ndcg@k: gain 1 per hit, against the
ideal list of min(k, targets) hits; hit_rate@k = any hit; coverage@k = share of the catalogue in somebody's list.

A league is one row of sums per person, P of them: what is kept of it does not grow with its merchants.

Guarantees:
- figures equal a slow reference over the whole catalogue
- in the novel view no seen item is ever recommended
- an interval depends on the values and the seed alone
- figures in chunks of users equal the figures of all users at once
- the interval of coverage holds the figure and errs to the wide side
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.inputs import Evaluation, ItemRows

__all__ = [
    "NOBODY",
    "SEVERAL",
    "VIEWS",
    "Interval",
    "ViewMetrics",
    "both_shown",
    "coverage_interval",
    "difference_interval",
    "evaluate_in_chunks",
    "evaluate_scores",
    "mean_interval",
    "merge_views",
    "ratio_interval",
    "resampled_means",
]

VIEWS = ("all", "novel")
RESAMPLES = 1000
LEVEL = 0.95
NORMAL = 1.959964  # the normal distribution's quantile at (1 + LEVEL) / 2
USERS_AT_ONCE = 256
DRAWN_AT_ONCE = 2**18  # numbers, 8 bytes each
NOBODY, SEVERAL = -1, -2

Floats = NDArray[np.float64]
Shown = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class ViewMetrics:
    """One view of one or several merchants.

    `users` int64 [U']: rows of the evaluation set that have a target in this view. `per_user`: metric name
    ("ndcg@10") to float64 [U']. `shown`: k to int32 [V+1], in whose first k an item is: NOBODY, SEVERAL, or the
    place in `users` of the only one.
    """

    users: NDArray[np.int64]
    per_user: Mapping[str, Floats]
    shown: Mapping[int, Shown]

    def __repr__(self) -> str:
        return f"ViewMetrics(users={len(self.users)}, metrics={sorted(self.per_user)})"

    def recommended(self, k: int) -> NDArray[np.bool_]:
        """Whether each item is in anybody's first k, bool [V+1]."""
        found: NDArray[np.bool_] = self.shown[k] != NOBODY
        return found


def evaluate_scores(scores_UV: Tensor, evaluation: Evaluation, ks: Sequence[int]) -> dict[str, ViewMetrics]:
    """Both views from one merchant's scores, float [U, V+1]; row u is user u of `evaluation`.

    Column 0 is never recommended. Equal scores rank in the order that `torch.topk` gives them, so a method that
    wants a tie broken must break it.
    """
    if len(scores_UV) != len(evaluation):
        raise ValueError(f"expected a row for each of {len(evaluation)} users, found {len(scores_UV)}")
    return _both_views(scores_UV, evaluation, 0, ks)


def evaluate_in_chunks(
    scores: Callable[[NDArray[np.int64]], Tensor],
    evaluation: Evaluation,
    ks: Sequence[int],
    users_at_once: int = USERS_AT_ONCE,
) -> dict[str, ViewMetrics]:
    """As `evaluate_scores`, with the scores of `users_at_once` users in memory at a time.

    `scores` takes rows of `evaluation`, int64 [B], and gives their scores, float [B, V+1].
    """
    everybody = np.arange(len(evaluation), dtype=np.int64)
    chunks = np.split(everybody, range(users_at_once, len(everybody), users_at_once))
    return merge_views(_both_views(scores(users), evaluation, int(users[:1].sum()), ks) for users in chunks)


def _both_views(
    scores_BV: Tensor, evaluation: Evaluation, first: int, ks: Sequence[int]
) -> dict[str, ViewMetrics]:
    """Both views of the B users whose rows in `evaluation` count from `first`."""
    stop = first + len(scores_BV)
    scores_BV = scores_BV.clone()
    scores_BV[:, 0] = -torch.inf
    result = {"all": _view(scores_BV, evaluation.targets_all, first, ks)}
    rows, items = _pairs(evaluation.seen, first, stop, scores_BV.device)
    scores_BV[rows, items] = -torch.inf
    result["novel"] = _view(scores_BV, evaluation.targets_novel, first, ks)
    return result


def merge_views(parts: Iterable[Mapping[str, ViewMetrics]]) -> dict[str, ViewMetrics]:
    """Several merchants as one league: their users one after the other, in the order given."""
    parts = tuple(parts)
    merged: dict[str, ViewMetrics] = {}
    for view in parts[0]:
        views = [part[view] for part in parts]
        places = np.cumsum([0, *(len(one.users) for one in views)])
        merged[view] = ViewMetrics(
            users=np.concatenate([one.users for one in views]),
            per_user={name: np.concatenate([one.per_user[name] for one in views]) for name in views[0].per_user},
            shown={
                k: reduce(
                    both_shown,
                    (
                        np.where(one.shown[k] < 0, one.shown[k], one.shown[k] + place).astype(np.int32)
                        for one, place in zip(views, places, strict=False)
                    ),
                )
                for k in views[0].shown
            },
        )
    return merged


def both_shown(first_V: Shown, second_V: Shown) -> Shown:
    """To whom two lots of lists show each item, int32 [V]: NOBODY, SEVERAL, or the only one."""
    one_of_them = np.where(first_V == NOBODY, second_V, first_V)
    shared = (first_V != NOBODY) & (second_V != NOBODY) & (first_V != second_V)
    return np.where(shared, np.int32(SEVERAL), one_of_them)


def resampled_means(sums_PM: Floats, rows_P: Floats, *, seed: int = 0, resamples: int = RESAMPLES) -> Floats:
    """The mean over users of each figure in each bootstrap resample, float64 [R, M].

    `sums_PM`: sum of each person's rows; `rows_P`: how many rows (users) a person is. Persons are resampled with
    replacement, as the rows of one person (a customer of several merchants) are not independent (cluster
    bootstrap, Davison & Hinkley 1997, §3.8). The same persons and seed give the same draws: methods are paired.
    """
    persons = len(sums_PM)
    weighted = np.column_stack([sums_PM, rows_P])
    rng, equal = np.random.default_rng(seed), np.full(persons, 1.0 / max(persons, 1))
    at_once = max(1, DRAWN_AT_ONCE // max(persons, 1))
    totals = np.zeros((resamples, weighted.shape[1]))
    for first in range(0, resamples if persons else 0, at_once):
        drawn = rng.multinomial(persons, equal, size=min(at_once, resamples - first)).astype(np.float64)
        totals[first : first + at_once] = drawn @ weighted
    means: Floats = totals[:, :-1] / totals[:, -1:] if persons else np.full_like(totals[:, :-1], np.nan)
    return means


def mean_interval(mean: float, means_R: Floats) -> Interval:
    """A mean with the percentile interval of its resamples, float64 [R]; NaN without any persons."""
    low, high = np.quantile(means_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(mean), float(low), float(high))


def difference_interval(ours: float, theirs: float, ours_R: Floats, theirs_R: Floats) -> Interval:
    """The mean of ours - theirs over the same users, both from the same resamples."""
    return mean_interval(ours - theirs, ours_R - theirs_R)


def ratio_interval(ours: float, theirs: float, ours_R: Floats, theirs_R: Floats) -> Interval:
    """mean(ours) / mean(theirs) - 1, both from the same resamples; NaN where theirs is zero or unknown."""
    if not theirs or np.isnan(theirs):
        return Interval(np.nan, np.nan, np.nan)
    return mean_interval(ours / theirs - 1.0, ours_R / np.maximum(theirs_R, np.finfo(np.float64).tiny) - 1.0)


def coverage_interval(shown_V: Shown, persons: int) -> Interval:
    """The share of the V items that are shown to anybody, int32 [V] as in `ViewMetrics`, to places of P persons.

    It is the interval of the coverage that as many persons, drawn anew, would have on average. Resamples of a
    bootstrap hold some 63 % of the persons, so their union is too small and its percentiles lie below the figure.
    The jackknife needs no resample: without person j, coverage falls by the items that j alone is shown. Its
    variance errs upwards (Efron & Stein 1981). The interval is normal about the figure itself, cut to 0 … 1.
    """
    if not len(shown_V) or not persons:
        return Interval(0.0, 0.0, 0.0)
    share = float((shown_V != NOBODY).mean())
    alone_P = np.bincount(shown_V[shown_V >= 0], minlength=persons) / len(shown_V)
    half = NORMAL * float(np.sqrt((persons - 1) * alone_P.var()))
    return Interval(share, max(share - half, 0.0), min(share + half, 1.0))


def _view(scores_BV: Tensor, targets: ItemRows, first: int, ks: Sequence[int]) -> ViewMetrics:
    device, size, stop = scores_BV.device, scores_BV.shape[1], first + len(scores_BV)
    counts = np.diff(targets.offsets[first : stop + 1])
    users = np.flatnonzero(counts)
    rows, items = _pairs(targets, first, stop, device)
    wanted_BV = torch.zeros(scores_BV.shape, dtype=torch.bool, device=device)
    wanted_BV[rows, items] = True
    chosen = torch.from_numpy(users).to(device)
    longest = min(max(ks), size - 1)
    values, top_UK = torch.topk(scores_BV[chosen], longest, dim=1)
    shown_UK = torch.isfinite(values)
    hits_UK = (wanted_BV[chosen].gather(1, top_UK) & shown_UK).cpu().numpy()
    top, shown = top_UK.cpu().numpy(), shown_UK.cpu().numpy()
    per_user: dict[str, Floats] = {}
    shown_to: dict[int, Shown] = {}
    for k in ks:
        per_user.update(_figures(hits_UK[:, :k], counts[users], k))
        shown_to[k] = _to_whom(top[:, :k], shown[:, :k], size)
    return ViewMetrics(first + users, per_user, shown_to)


def _to_whom(top_UK: NDArray[np.int64], shown_UK: NDArray[np.bool_], size: int) -> Shown:
    places, items = np.nonzero(shown_UK)[0], top_UK[shown_UK]
    result = np.full(size, NOBODY, np.int32)
    result[items] = places
    result[np.bincount(items, minlength=size) > 1] = SEVERAL
    return result


def _figures(hits_UK: NDArray[np.bool_], targets_U: NDArray[np.int64], k: int) -> dict[str, Floats]:
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discounts)[np.minimum(targets_U, k) - 1]
    return {
        f"recall@{k}": hits_UK.sum(axis=1) / targets_U,
        f"ndcg@{k}": (hits_UK * discounts[: hits_UK.shape[1]]).sum(axis=1) / ideal,
        f"hit_rate@{k}": hits_UK.any(axis=1).astype(np.float64),
    }


def _pairs(rows: ItemRows, first: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row (counted from `first`) and item of each entry in the rows first … stop-1."""
    offsets = rows.offsets[first : stop + 1]
    users = np.repeat(np.arange(stop - first), np.diff(offsets))
    items = rows.items[offsets[0] : offsets[-1]].astype(np.int64)
    return torch.from_numpy(users).to(device), torch.from_numpy(items).to(device)
