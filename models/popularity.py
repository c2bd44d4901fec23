# SPDX-License-Identifier: Apache-2.0
"""Popularity as a sum over users, and as a prior that a score can add.

A user adds at most one to an item, and with a clipping norm C a vector of norm at most C in all: the counts can
go through a private, secure sum like any update. The league's counts become a public prior; a merchant blends
its own counts with that prior and keeps the result at home.

Guarantees:
- one user changes the counts by at most the clipping norm
- the logarithm is finite for any finite counts, noisy ones too
"""

import numpy as np
from numpy.typing import NDArray

from models.errors import ParameterMismatch
from models.inputs import Histories

__all__ = ["blend", "log_popularity", "popularity_counts"]


def popularity_counts(
    histories: Histories, n_items: int, *, clipping_norm: float | None = None
) -> NDArray[np.float32]:
    """How many users bought each item, float32 [V+1], column 0 is 0.

    With a clipping norm C a user of n items adds min(1, C/√n) to each: an L2 norm of at most C.
    """
    users = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))
    pairs = np.unique(users * (n_items + 1) + histories.items)
    rows, items = np.divmod(pairs, n_items + 1)
    weights = np.ones(len(pairs))
    if clipping_norm is not None:
        distinct = np.bincount(rows, minlength=len(histories))
        weights = np.minimum(1.0, clipping_norm / np.sqrt(np.maximum(distinct, 1)))[rows]
    return np.bincount(items, weights, minlength=n_items + 1).astype(np.float32)


def log_popularity(counts: NDArray[np.float32], *, floor: float = 0.5) -> NDArray[np.float32]:
    """log(V · share of an item) of float [V+1] counts, float32 [V+1]; 0 is the average item, column 0 is 0.

    Counts below `floor` are raised to it: nothing sold, or a private sum's noise (give its standard deviation).
    """
    if counts.ndim != 1 or len(counts) < 2 or not np.isfinite(counts).all():
        raise ParameterMismatch(f"expected finite counts of shape [V+1], found shape {counts.shape} or NaN, Inf")
    raised = np.maximum(counts[1:].astype(np.float64), floor)
    logs = np.log(raised / raised.sum()) + np.log(len(raised))
    return np.concatenate([np.zeros(1), logs]).astype(np.float32)


def blend(
    counts: NDArray[np.float32], league_log_popularity: NDArray[np.float32], *, prior_purchases: float
) -> NDArray[np.float32]:
    """A merchant's log popularity, float32 [V+1]: its counts plus `prior_purchases` spread as the league buys.

    The Dirichlet-smoothed share (Zhai and Lafferty 2004, §3); a merchant without users gets the league's.
    """
    prior = np.exp(league_log_popularity[1:].astype(np.float64))
    blended = counts[1:] + prior_purchases * prior / prior.sum()
    return log_popularity(np.concatenate([np.zeros(1), blended]).astype(np.float32), floor=1e-6)
