# SPDX-License-Identifier: Apache-2.0
"""Ranking figures over the whole catalogue, per user, and what they say about the league.

Two views: `all` (the next basket, repeats allowed) and `novel` (what the user never bought at this merchant; what
they did buy is masked out, for every method alike). recall@k = hits / targets; ndcg@k: gain 1 per hit, against the
ideal list of min(k, targets) hits; hit_rate@k = any hit; coverage@k = share of the catalogue in somebody's list.

Guarantees:
- figures equal a slow reference over the whole catalogue
- in the novel view no seen item is ever recommended
- an interval depends on the values and the seed alone
- figures in chunks of users equal the figures of all users at once
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.inputs import Evaluation, ItemRows

__all__ = [
    "VIEWS",
    "Interval",
    "ViewMetrics",
    "bootstrap_intervals",
    "evaluate_in_chunks",
    "evaluate_scores",
    "merge_views",
    "paired_difference",
    "relative_uplift",
    "summarise",
]

VIEWS = ("all", "novel")
RESAMPLES = 1000
LEVEL = 0.95
USERS_AT_ONCE = 256

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its bootstrap interval (percentile, 95 % unless told)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class ViewMetrics:
    """One view of one or several merchants.

    `users` int64 [U']: rows of the evaluation set that have a target in this view. `per_user`: metric name
    ("ndcg@10") to float64 [U']. `recommended`: k to bool [V+1], whether an item is in anybody's first k.
    """

    users: NDArray[np.int64]
    per_user: Mapping[str, Floats]
    recommended: Mapping[int, NDArray[np.bool_]]

    def __repr__(self) -> str:
        return f"ViewMetrics(users={len(self.users)}, metrics={sorted(self.per_user)})"

    def coverage(self, k: int) -> float:
        """Share of the V items that are in at least one user's first k."""
        shown = self.recommended[k][1:]
        return float(shown.mean()) if len(shown) else 0.0


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
        merged[view] = ViewMetrics(
            users=np.concatenate([one.users for one in views]),
            per_user={name: np.concatenate([one.per_user[name] for one in views]) for name in views[0].per_user},
            recommended={k: np.any([one.recommended[k] for one in views], axis=0) for k in views[0].recommended},
        )
    return merged


def summarise(
    view: ViewMetrics, *, persons: NDArray[np.int64] | None = None, seed: int = 0
) -> dict[str, Interval]:
    """Every metric of a view with its interval; coverage belongs to the whole league and has none (low = high)."""
    names = sorted(view.per_user)
    values = np.stack([view.per_user[name] for name in names], axis=1)
    result = dict(zip(names, bootstrap_intervals(values, persons=persons, seed=seed), strict=True))
    for k in sorted(view.recommended):
        share = view.coverage(k)
        result[f"coverage@{k}"] = Interval(share, share, share)
    return result


def bootstrap_intervals(
    values_UM: Floats, *, persons: NDArray[np.int64] | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> list[Interval]:
    """The mean of each column and its percentile interval, float64 [U, M] to M intervals.

    Users are resampled with replacement. `persons` int64 [U] says which rows are one person (a customer of
    several merchants): then persons are resampled, as rows of one person are not independent (cluster bootstrap,
    Davison & Hinkley 1997, §3.8). No rows give NaN.
    """
    if not len(values_UM):
        return [Interval(np.nan, np.nan, np.nan)] * values_UM.shape[1]
    means_RM = _resampled_means(values_UM, persons, seed, resamples)
    lows, highs = np.quantile(means_RM, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    means = values_UM.mean(axis=0)
    return [Interval(float(m), float(low), float(high)) for m, low, high in zip(means, lows, highs, strict=True)]


def paired_difference(
    ours: Floats, theirs: Floats, *, persons: NDArray[np.int64] | None = None, seed: int = 0
) -> Interval:
    """The mean of ours - theirs over the same users, float64 [U] each, with its interval."""
    return bootstrap_intervals((ours - theirs)[:, None], persons=persons, seed=seed)[0]


def relative_uplift(
    ours: Floats, theirs: Floats, *, persons: NDArray[np.int64] | None = None, seed: int = 0
) -> Interval:
    """mean(ours) / mean(theirs) - 1 over the same users, both means from the same resample; NaN without users."""
    if not len(ours) or theirs.mean() == 0.0:
        return Interval(np.nan, np.nan, np.nan)
    means_RM = _resampled_means(np.stack([ours, theirs], axis=1), persons, seed, RESAMPLES)
    ratios = means_RM[:, 0] / np.maximum(means_RM[:, 1], np.finfo(np.float64).tiny) - 1.0
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(ours.mean() / theirs.mean() - 1.0), float(low), float(high))


def _resampled_means(values_UM: Floats, persons: NDArray[np.int64] | None, seed: int, resamples: int) -> Floats:
    rows_of = np.arange(len(values_UM)) if persons is None else np.unique(persons, return_inverse=True)[1]
    groups = int(rows_of.max()) + 1
    sums = np.zeros((groups, values_UM.shape[1] + 1))
    np.add.at(sums, rows_of, np.column_stack([values_UM, np.ones(len(values_UM))]))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=resamples).astype(np.float64)
    totals: Floats = drawn @ sums
    means: Floats = totals[:, :-1] / totals[:, -1:]
    return means


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
    recommended: dict[int, NDArray[np.bool_]] = {}
    for k in ks:
        per_user.update(_figures(hits_UK[:, :k], counts[users], k))
        recommended[k] = np.zeros(size, dtype=bool)
        recommended[k][top[:, :k][shown[:, :k]]] = True
    return ViewMetrics(first + users, per_user, recommended)


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
