# SPDX-License-Identifier: Apache-2.0
"""What a learnt model must beat, given every advantage: baselines see the raw purchases of the whole league.

Popularity of the league; the merchant's own; the user's own purchases, most frequent first, plain and decayed; and
ItemKNN (Deshpande and Karypis 2004) with cosine similarity of items over all users of all merchants, shrunk by 20,
plain and with own repeats on top. Ties fall to the merchant's popularity. Nothing here is trained or private.

Shapes: U users of one merchant, V items.

Guarantees:
- every baseline is judged on the same users and masked in the same way as the model
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.inputs import Evaluation, Histories
from models.metrics import ViewMetrics, evaluate_scores, merge_views
from models.popularity import popularity_counts

__all__ = ["BASELINES", "evaluate_baselines", "item_similarities"]

SHRINKAGE = 20.0
HALF_LIFE_DAYS = 28.0

BASELINES = (
    "popularity",
    "merchant_popularity",
    "own_repeats",
    "own_recent_repeats",
    "item_knn",
    "item_knn_repeats",
)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _League:
    """Fitted on every merchant: popularity in [0, 1) for ties, and item similarities."""

    popularity: Floats
    similarities: Floats


def evaluate_baselines(
    train: Sequence[Histories], evaluation: Sequence[Evaluation], n_items: int, ks: Sequence[int] = (10, 20)
) -> dict[str, dict[str, ViewMetrics]]:
    """Every baseline on every merchant, both views, merchants merged in their order; names as in BASELINES.

    `train[m]` are merchant m's histories (all that baselines learn from), `evaluation[m]` its users at the cut.
    """
    counts = [popularity_counts(histories, n_items) for histories in train]
    league = _League(_as_tie_break(np.sum(counts, axis=0)), item_similarities(train, n_items))
    found: dict[str, list[Mapping[str, ViewMetrics]]] = {name: [] for name in BASELINES}
    for own, one in zip(counts, evaluation, strict=True):
        scores = _scores(one, own, league)
        for name in BASELINES:
            found[name].append(evaluate_scores(scores[name], one, ks))
    return {name: merge_views(parts) for name, parts in found.items()}


def item_similarities(
    train: Sequence[Histories], n_items: int, *, shrinkage: float = SHRINKAGE
) -> NDArray[np.float32]:
    """both(i, j) / (√(buyers(i) · buyers(j)) + shrinkage), float32 [V+1, V+1], zero on the diagonal and at 0.

    A user of each merchant is one row: who shops at two merchants counts twice.
    """
    bought = sp.vstack([_bought(histories, n_items) for histories in train], format="csr")
    bought.data[:] = 1.0
    together: Floats = (bought.T @ bought).toarray(order="C")  # rows are read one by one later
    buyers = together.diagonal().copy()
    np.fill_diagonal(together, 0.0)
    together /= np.sqrt(np.outer(buyers, buyers)) + np.float32(shrinkage)
    return together


def _bought(histories: Histories, n_items: int, weights: Floats | None = None) -> sp.csr_matrix:
    """Weighted events per user and item, float32 [U, V+1], equal pairs summed."""
    users = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))
    values = np.ones(len(users), np.float32) if weights is None else weights
    matrix = sp.csr_matrix((values, (users, histories.items)), shape=(len(histories), n_items + 1))
    matrix.sum_duplicates()
    return matrix


def _scores(one: Evaluation, own_counts_V: Floats, league: _League) -> dict[str, Tensor]:
    n_items = len(own_counts_V) - 1
    histories = one.histories
    # At most 1 in all, so that one purchase outweighs any popularity.
    merchant_V = 0.999 * _as_tie_break(own_counts_V) + 0.001 * league.popularity
    decay = np.exp2(-np.maximum(np.float32(one.cut_day) - histories.days, 0.0) / np.float32(HALF_LIFE_DAYS))
    counts = _bought(histories, n_items)
    once = counts.copy()
    once.data[:] = 1.0
    counts_UV = counts.toarray()
    recent_UV = _bought(histories, n_items, decay.astype(np.float32)).toarray()
    neighbours_UV = once @ league.similarities
    weighted_UV = counts @ league.similarities
    everybody = np.ones((len(one), 1), np.float32)
    scores = {
        "popularity": everybody * league.popularity,
        "merchant_popularity": everybody * merchant_V,
        "own_repeats": counts_UV + merchant_V,
        "own_recent_repeats": recent_UV + 1e-3 * merchant_V,
        "item_knn": neighbours_UV + 1e-6 * merchant_V,
        "item_knn_repeats": counts_UV + _rows_below_one(weighted_UV) + 1e-6 * merchant_V,
    }
    return {name: torch.from_numpy(np.asarray(scores[name], dtype=np.float32)) for name in BASELINES}


def _as_tie_break(counts_V: Floats) -> Floats:
    result: Floats = (counts_V / (counts_V.max() + 1.0)).astype(np.float32)
    return result


def _rows_below_one(scores_UV: Floats) -> Floats:
    result: Floats = scores_UV / (scores_UV.max(axis=1, keepdims=True, initial=0.0) + 1.0)
    return result
