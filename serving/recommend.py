# SPDX-License-Identifier: Apache-2.0
"""One recommendation: history and filters in, ranked items with reasons out. Pure: no clock, no files.

Purchases are scored, as in training. Fallbacks are defined and labelled. `no_purchases`: views, wishes
and carts stand in for purchases. `no_local_part`: the league's popularity stands in for the merchant's.
`cold_user`: no event of the history is of a known item, so the ranking is by popularity. `scorer_failed`:
the scorer raised or gave no sound answer, so the ranking is by popularity.

Guarantees:
    nothing that a filter forbids is recommended
    a fallback is labelled and never an error
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.errors import RequestError
from serving.messages import Fallback, Filters, Reason, Recommendation
from serving.model import ServedModel
from serving.window import History

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

US_PER_DAY = 86_400_000_000
_COSINE_FLOOR = 1e-6


@dataclass(frozen=True, slots=True, repr=False)
class Ranking:
    """Ranked items, and what the answer says about how they came about."""

    items: list[Recommendation]
    fallback: list[Fallback]
    history_events: int
    unknown_items: int


def recommend(
    model: ServedModel, history: History, filters: Filters, *, k: int, reasons: int, now_us: int
) -> Ranking:
    """Rank the catalogue for a history as of `now_us`.

    Raises:
        RequestError: 422, a filter names a column that the release's catalogue doesn't have.
    """
    index_of = model.catalogue.index_of
    fallback: list[Fallback] = []
    bought, interest = (
        [(index_of[entry.item_id], entry.timestamp_us) for entry in entries if entry.item_id in index_of]
        for entries in history
    )
    if interest and not bought:
        fallback.append("no_purchases")
    known = bought or interest
    mask_V = filter_mask(model, filters, history)
    k = min(k, int(np.count_nonzero(mask_V == 0.0)))
    history_L = np.asarray([index for index, _ in known], dtype=np.int64)
    age_days_L = np.asarray([max(0, now_us - t) / US_PER_DAY for _, t in known], dtype=np.float32)
    if k:
        items_K, scores_K = _rank(model, history_L, age_days_L, mask_V, k, fallback)
    else:
        items_K, scores_K = np.zeros(0, np.int64), np.zeros(0, np.float32)
    return Ranking(
        items=_explain(model, items_K, scores_K, history_L, reasons),
        fallback=fallback,
        history_events=len(known),
        unknown_items=len(history.bought) + len(history.interest) - len(bought) - len(interest),
    )


def filter_mask(model: ServedModel, filters: Filters, history: History) -> Floats:
    """float32 [V+1]: 0 where an item may be recommended, -inf elsewhere and at padding."""
    catalogue = model.catalogue
    allowed = np.ones(catalogue.n_items + 1, dtype=np.bool_)
    if filters.in_stock is not None:
        allowed[:] = False
        allowed[catalogue.indices(filters.in_stock)] = True
    for column, values in filters.attributes.items():
        if column not in catalogue.attributes:
            raise RequestError(
                422,
                "unknown-attribute",
                "Unknown attribute",
                "The active release's catalogue has no such attribute.",
                f"Use one of: {', '.join(sorted(catalogue.attributes)) or '(it has none)'}.",
                field="$.filters.attributes",
                value=column,
            )
        allowed &= catalogue.with_values(column, values)
    if filters.exclude:
        allowed[catalogue.indices(filters.exclude)] = False
    if filters.exclude_bought:
        allowed[catalogue.indices(entry.item_id for entry in history.bought)] = False
    allowed[0] = False
    return np.where(allowed, np.float32(0.0), np.float32(-np.inf))


def _rank(
    model: ServedModel, history_L: Ints, age_days_L: Floats, mask_V: Floats, k: int, fallback: list[Fallback]
) -> tuple[Ints, Floats]:
    popularity_V = model.popularity
    if not model.has_local_part:
        fallback.append("no_local_part")
    if not history_L.size:
        fallback.append("cold_user")
        return _by_popularity(popularity_V, mask_V, k)
    try:
        items_BK, scores_BK = model.scorer.score(history_L[None], age_days_L[None], popularity_V, mask_V[None], k)
    except Exception:  # ONNX Runtime's errors have no common base but Exception
        fallback.append("scorer_failed")
        return _by_popularity(popularity_V, mask_V, k)
    if not _is_sound(items_BK, scores_BK, mask_V, k):
        fallback.append("scorer_failed")
        return _by_popularity(popularity_V, mask_V, k)
    return items_BK[0], scores_BK[0]


def _is_sound(items_BK: Ints, scores_BK: Floats, mask_V: Floats, k: int) -> bool:
    """Whether a scorer's answer is k allowed items with finite scores."""
    if items_BK.shape != (1, k) or scores_BK.shape != (1, k) or not np.isfinite(scores_BK).all():
        return False
    in_range = items_BK.min() >= 1 and items_BK.max() < mask_V.size
    return bool(in_range and np.isfinite(mask_V[items_BK]).all())


def _by_popularity(popularity_V: Floats, mask_V: Floats, k: int) -> tuple[Ints, Floats]:
    scores_V = popularity_V + mask_V
    items_K = np.argsort(-scores_V, kind="stable")[:k].astype(np.int64)  # equal scores: catalogue order
    return items_K, scores_V[items_K]


def _explain(
    model: ServedModel, items_K: Ints, scores_K: Floats, history_L: Ints, reasons: int
) -> list[Recommendation]:
    """Name the items, each with the history's other items of the highest positive cosine."""
    catalogue = model.catalogue
    seen_H = np.unique(history_L)
    vectors = model.item_vectors
    cosines_KH = vectors[items_K] @ vectors[seen_H].T
    cosines_KH[items_K[:, None] == seen_H[None]] = 0.0  # no item is its own reason
    best_KR = np.argsort(-cosines_KH, axis=1, kind="stable")[:, :reasons]
    seen = set(seen_H.tolist())
    recommendations = []
    for row, item in enumerate(items_K.tolist()):
        because = [
            Reason(
                item_id=catalogue.item_ids[seen_H[column]],
                name=catalogue.names[seen_H[column]],
                similarity=round(min(1.0, float(cosines_KH[row, column])), 4),
            )
            for column in best_KR[row]
            if cosines_KH[row, column] > _COSINE_FLOOR
        ]
        recommendations.append(
            Recommendation(
                item_id=catalogue.item_ids[item],
                name=catalogue.names[item],
                score=float(scores_K[row]),
                in_history=item in seen,
                because=because,
            )
        )
    return recommendations
