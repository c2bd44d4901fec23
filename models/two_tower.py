# SPDX-License-Identifier: Apache-2.0
"""The content two-tower: an item is the sum of its public attributes, a user is the mean of their own history.

E = F·P: F is the public multi-hot attribute matrix [V+1, X], P the learnt table [X, D] of attribute values; both
towers share it. No user and no item has a row of its own, so what travels is small and an unseen item works.

Shapes: B users, L history, S items per user, V items, A attributes, X attribute values, D dimension.

Guarantees:
- the table is used by its embedding module alone
- a padded event changes neither a user vector nor a gradient
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import ConfigError

__all__ = ["ContentTower", "recency_weights"]


class ContentTower(nn.Module):
    """Item and user vectors from `codes_VA`, int [V+1, A]; code 0 is "unknown" in each, row 0 padding."""

    codes: Tensor

    def __init__(self, codes_VA: NDArray[np.integer], dimension: int, *, prior_events: float, seed: int) -> None:
        super().__init__()
        if codes_VA.ndim != 2 or not codes_VA.shape[1] or len(codes_VA) < 2:
            raise ConfigError(f"a content tower needs an item and an attribute, found codes {codes_VA.shape}")
        sizes = codes_VA.max(axis=0).astype(np.int64) + 1
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)[:-1]])
        self.register_buffer("codes", torch.from_numpy(codes_VA.astype(np.int64) + starts), persistent=False)
        self.prior_events = prior_events
        self.scale = 1.0 / math.sqrt(codes_VA.shape[1])
        self.attributes = nn.Embedding(int(sizes.sum()), dimension)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            # Rows of unit length on average: at the start a dot product counts the attributes in common.
            self.attributes.weight.normal_(0.0, 1.0 / math.sqrt(dimension), generator=generator)

    def items(self, items_BS: Tensor) -> Tensor:
        """int64 [B, S] to item vectors [B, S, D]."""
        vectors_BSAD: Tensor = self.attributes(self.codes[items_BS])
        return vectors_BSAD.sum(dim=2) * self.scale

    def user(self, vectors_BLD: Tensor, weights_BL: Tensor) -> Tensor:
        """The weighted mean of a history's item vectors, [B, D]; weight 0 at padding, no event gives zeros.

        `prior_events` events of weight 1 at the origin pull short histories towards "an average user".
        """
        total_B1 = weights_BL.sum(dim=1, keepdim=True) + self.prior_events
        return torch.einsum("bl,bld->bd", weights_BL, vectors_BLD) / total_B1


def recency_weights(present_BL: Tensor, age_days_BL: Tensor, half_life_days: float) -> Tensor:
    """0.5 ** (age / half-life), float32 [B, L], 0 where `present_BL` is false."""
    return torch.exp2(-age_days_BL / half_life_days) * present_BL
