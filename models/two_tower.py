# SPDX-License-Identifier: Apache-2.0
"""The content two-tower: an item is the sum of its public attributes, a user is the mean of the items they own.

E = F·P (+ R): F is the public multi-hot attribute matrix [V+1, X], P the learnt table [X, D] of attribute values;
both towers share it. Without R no item has a row of its own, so what travels is small and an unseen item works. R,
asked for by `ids`, is a row per item that starts at zero: a residual to its attributes. A second, tiny part adds
what users with few or many items have in common.

Shapes: B users, L history, V items, A attributes, X attribute values, D dimension.

Guarantees:
- the tables are used by their embedding modules alone
- a padded event changes neither a user vector nor a gradient
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from models.errors import ConfigError

__all__ = ["CONTEXT", "ContentTower"]

_SWEEPS = 40
CONTEXT = 3
"""1, x and x² of x = log(1 + distinct items) / 3 - 1, which is about -1 … 1 from none to 400 items."""


class ContentTower(nn.Module):
    """Item and user vectors from `codes_VA`, int [V+1, A]; code 0 is "unknown" in each, row 0 padding."""

    codes: Tensor

    def __init__(
        self,
        codes_VA: NDArray[np.integer],
        dimension: int,
        *,
        prior_items: float,
        seed: int,
        ids: bool = False,
        catalogue_start: bool = False,
    ) -> None:
        super().__init__()
        if codes_VA.ndim != 2 or not codes_VA.shape[1] or len(codes_VA) < 2:
            raise ConfigError(f"a content tower needs an item and an attribute, found codes {codes_VA.shape}")
        sizes = codes_VA.max(axis=0).astype(np.int64) + 1
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)[:-1]])
        self.register_buffer("codes", torch.from_numpy(codes_VA.astype(np.int64) + starts), persistent=False)
        self.prior_items = prior_items
        self.scale = 1.0 / math.sqrt(codes_VA.shape[1])
        self.attributes = nn.Embedding(int(sizes.sum()), dimension)
        self.context = nn.Linear(CONTEXT, dimension, bias=False)
        self.ids = nn.Embedding(len(codes_VA), dimension) if ids else None
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            # Rows of unit length on average: at the start a dot product counts the attributes in common.
            self.attributes.weight.normal_(0.0, 1.0 / math.sqrt(dimension), generator=generator)
            if catalogue_start:
                self.attributes.weight.copy_(_from_catalogue(self.codes[1:], self.attributes.weight, seed))
            self.context.weight.zero_()
            if self.ids is not None:
                self.ids.weight.zero_()

    def items(self, items: Tensor) -> Tensor:
        """int64 [...] to item vectors [..., D]."""
        vectors: Tensor = self.attributes(self.codes[items])
        content = vectors.sum(dim=-2) * self.scale
        return content if self.ids is None else content + self.ids(items)

    def user(self, vectors_BLD: Tensor, weights_BL: Tensor) -> Tensor:
        """The user's vector [B, D] from a history's item vectors; the weights of one item's events add up to 1.

        The mean over distinct items, pulled by `prior_items` items at the origin, plus the context part.
        """
        distinct_B1 = weights_BL.sum(dim=1, keepdim=True)
        mean_BD = torch.einsum("bl,bld->bd", weights_BL, vectors_BLD) / (distinct_B1 + self.prior_items)
        x_B1 = torch.log1p(distinct_B1) / 3.0 - 1.0
        context_BD: Tensor = self.context(torch.cat([torch.ones_like(x_B1), x_B1, x_B1 * x_B1], dim=1))
        return mean_BD + context_BD


def _from_catalogue(codes_VA: Tensor, random_XD: Tensor, seed: int) -> Tensor:
    """[X, D]: rows of length 1, near where values stand on the same items; a value of no item keeps its row.

    The leading axes of the incidence of items and values, each value's column of length 1 (as in correspondence
    analysis, Greenacre 1984, whose first axis, alike for all, is kept).
    """
    counts_X = torch.bincount(codes_VA.flatten(), minlength=len(random_XD)).float()
    items = torch.arange(len(codes_VA)).repeat_interleave(codes_VA.shape[1])
    values = counts_X[codes_VA.flatten()].rsqrt()
    incidence_VX = torch.sparse_coo_tensor(
        torch.stack([items, codes_VA.flatten()]), values, (len(codes_VA), len(random_XD)), check_invariants=False
    ).coalesce()
    width = random_XD.shape[1]
    with torch.random.fork_rng(devices=[]), _one_thread():  # sums in another order would turn axes of a near tie
        torch.manual_seed(seed)
        searched = min(2 * width, *incidence_VX.shape)  # twice as many as needed, as catalogues have near ties
        _, lengths, axes_XQ = torch.svd_lowrank(incidence_VX, q=searched, niter=_SWEEPS)
    placed_XD = torch.zeros_like(random_XD)
    placed_XD[:, :searched] = normalize((axes_XQ * lengths)[:, :width])
    return torch.where(counts_X[:, None] > 0, placed_XD, random_XD)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
