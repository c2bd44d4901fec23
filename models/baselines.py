# SPDX-License-Identifier: Apache-2.0
"""What a learnt model must beat, given every advantage: baselines see the raw purchases of the whole league.

Popularity of the league; the merchant's own; the user's own purchases, most frequent first, plain and decayed; and
ItemKNN (Deshpande and Karypis 2004) with cosine similarity of items over all users of all merchants, shrunk by 20,
plain and with own repeats on top. Ties fall to the merchant's popularity. Nothing here is trained or private.

Shapes: U users of one merchant, B of them at a time, V items.

Guarantees:
- every baseline is judged on the same users and masked in the same way as the model
- merchants are read one by one and none is held
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.inputs import Evaluation, Histories
from models.metrics import ViewMetrics, evaluate_in_chunks
from models.popularity import popularity_counts

__all__ = ["BASELINES", "NEIGHBOURS", "evaluate_baselines", "item_similarities"]

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

NEIGHBOURS = ("item_knn", "item_knn_repeats")
PAIRS_AT_ONCE, ROWS_AT_ONCE = 500_000, 1024

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _League:
    """Fitted on every merchant: popularity in [0, 1) for ties, and item similarities, if they were asked for."""

    popularity: Floats
    similarities: Floats | None


@dataclass(frozen=True, slots=True, eq=False)
class _Merchant:
    """A merchant's popularity [V+1], and its users' events with each item, plain and decayed, sparse [U, V+1]."""

    popularity: Floats
    counts: sp.csr_matrix
    recent: sp.csr_matrix


def evaluate_baselines(
    train: Iterable[Histories],
    evaluation: Iterable[Evaluation],
    n_items: int,
    ks: Sequence[int] = (10, 20),
    *,
    neighbours: bool = True,
) -> Iterator[dict[str, dict[str, ViewMetrics]]]:
    """Every baseline on one merchant after another, both views of each; names as in BASELINES.

    `train` gives merchants' histories (all that baselines learn from) and is gone through twice: to fit the
    league, then beside `evaluation`, each merchant's users at the cut. Without `neighbours` those of NEIGHBOURS
    are left out, and with them a matrix of float32 [V+1, V+1].
    """
    league = _fit(train, n_items, SHRINKAGE, neighbours=neighbours)
    names = [name for name in BASELINES if neighbours or name not in NEIGHBOURS]
    for own, one in zip(train, evaluation, strict=True):
        merchant = _merchant(own, one, league, n_items)
        yield {name: evaluate_in_chunks(partial(_scores, name, merchant, league), one, ks) for name in names}


def item_similarities(
    train: Iterable[Histories], n_items: int, *, shrinkage: float = SHRINKAGE
) -> NDArray[np.float32]:
    """both(i, j) / (√(buyers(i) · buyers(j)) + shrinkage), float32 [V+1, V+1], zero on the diagonal and at 0.

    A user of each merchant is one row: who shops at two merchants counts twice.
    """
    found = _fit(train, n_items, shrinkage, neighbours=True).similarities
    assert found is not None
    return found


def _fit(train: Iterable[Histories], n_items: int, shrinkage: float, *, neighbours: bool) -> _League:
    buyers = np.zeros(n_items + 1, np.float32)
    together: Floats | None = np.zeros((n_items + 1, n_items + 1), np.float32) if neighbours else None
    for bought in _stacks(train, n_items):
        buyers += np.bincount(bought.indices, minlength=n_items + 1).astype(np.float32)
        if together is not None:
            columns = bought.T.tocsr()
            for rows in _blocks(n_items + 1):
                together[rows] += (columns[rows] @ bought).toarray()
    if together is not None:
        np.fill_diagonal(together, 0.0)
        for rows in _blocks(n_items + 1):
            together[rows] /= np.sqrt(np.outer(buyers[rows], buyers)) + np.float32(shrinkage)
    return _League(_as_tie_break(buyers), together)


def _stacks(train: Iterable[Histories], n_items: int) -> Iterator[sp.csr_matrix]:
    """Who bought what, 1 or nothing: users of as many merchants together as make a product worth its while."""
    held: list[sp.csr_matrix] = []
    for histories in train:
        bought = _bought(histories, n_items)
        bought.data[:] = 1.0
        held.append(bought)
        if sum(part.nnz for part in held) >= PAIRS_AT_ONCE:
            yield sp.vstack(held, format="csr")
            held = []
    if held:
        yield sp.vstack(held, format="csr")


def _blocks(size: int) -> Iterator[slice]:
    return (slice(first, min(first + ROWS_AT_ONCE, size)) for first in range(0, size, ROWS_AT_ONCE))


def _bought(histories: Histories, n_items: int, weights: Floats | None = None) -> sp.csr_matrix:
    """Weighted events per user and item, float32 [U, V+1], equal pairs summed."""
    users = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))
    values = np.ones(len(users), np.float32) if weights is None else weights
    matrix = sp.csr_matrix((values, (users, histories.items)), shape=(len(histories), n_items + 1))
    matrix.sum_duplicates()
    return matrix


def _merchant(own: Histories, one: Evaluation, league: _League, n_items: int) -> _Merchant:
    histories = one.histories
    decay = np.exp2(-np.maximum(np.float32(one.cut_day) - histories.days, 0.0) / np.float32(HALF_LIFE_DAYS))
    # At most 1 in all, so that one purchase outweighs any popularity.
    popularity = 0.999 * _as_tie_break(popularity_counts(own, n_items)) + 0.001 * league.popularity
    recent = _bought(histories, n_items, decay.astype(np.float32))
    return _Merchant(popularity, _bought(histories, n_items), recent)


def _scores(name: str, merchant: _Merchant, league: _League, users: NDArray[np.int64]) -> Tensor:
    """Scores of one baseline, float32 [B, V+1]."""
    merchant_V, counts = merchant.popularity, merchant.counts[users]
    if name == "popularity":
        scores = np.tile(league.popularity, (len(users), 1))
    elif name == "merchant_popularity":
        scores = np.tile(merchant_V, (len(users), 1))
    elif name == "own_repeats":
        scores = counts.toarray() + merchant_V
    elif name == "own_recent_repeats":
        scores = merchant.recent[users].toarray() + 1e-3 * merchant_V
    elif name == "item_knn":
        counts.data[:] = 1.0
        scores = counts @ league.similarities + 1e-6 * merchant_V
    else:
        near_BV = _rows_below_one(counts @ league.similarities)
        scores = counts.toarray() + near_BV + 1e-6 * merchant_V
    return torch.from_numpy(np.asarray(scores, dtype=np.float32))


def _as_tie_break(counts_V: Floats) -> Floats:
    result: Floats = (counts_V / (counts_V.max() + 1.0)).astype(np.float32)
    return result


def _rows_below_one(scores_BV: Floats) -> Floats:
    result: Floats = scores_BV / (scores_BV.max(axis=1, keepdims=True, initial=0.0) + 1.0)
    return result
