# SPDX-License-Identifier: Apache-2.0
"""How a tower's score, popularity, own repeats and recency become one score: a linear layer without a bias.

Features of (user, item): the tower's dot product; log popularity; log(1 + count / ε) of the user's own events with
the item; the same of the recency-weighted count. Started at an untrained formula with constants found on public
validation weeks, which trained towers alone do not reach on repeated purchases (docs/model.md).

Shapes: B users, L history, C candidates, V items.
"""

import torch
from torch import Tensor, nn

__all__ = ["FEATURES", "Mixing", "own_counts", "recency_weights", "repeat_feature"]

FEATURES = ("tower", "popularity", "repeats", "recent_repeats")


class Mixing(nn.Module):
    """score = weights · features; a plain `nn.Linear`, so that per-user gradients see an ordinary layer."""

    def __init__(self, weights: tuple[float, float, float, float]) -> None:
        super().__init__()
        self.weights = nn.Linear(len(FEATURES), 1, bias=False)
        with torch.no_grad():
            self.weights.weight.copy_(torch.tensor([weights]))

    def forward(self, tower: Tensor, popularity: Tensor, repeats: Tensor, recent_repeats: Tensor) -> Tensor:
        """Scores [B, C] of four features [B, C]."""
        features = torch.stack([tower, popularity.expand_as(tower), repeats, recent_repeats], dim=-1)
        scores: Tensor = self.weights(features).squeeze(-1)
        return scores


def own_counts(history_BL: Tensor, weights_BL: Tensor, n_columns: int) -> Tensor:
    """Weighted number of a user's events per item, [B, V+1]; padding (weight 0) adds nothing."""
    counts = torch.zeros(len(history_BL), n_columns, dtype=weights_BL.dtype, device=weights_BL.device)
    return counts.scatter_add_(1, history_BL, weights_BL)


def repeat_feature(counts: Tensor, smoothing: float) -> Tensor:
    """log(1 + counts / smoothing): 0 for an item never bought, then steep and soon flat."""
    return torch.log1p(counts / smoothing)


def recency_weights(present_BL: Tensor, age_days_BL: Tensor, half_life_days: float) -> Tensor:
    """0.5 ** (age / half-life), float32 [B, L], 0 where `present_BL` is false."""
    return torch.exp2(-age_days_BL / half_life_days) * present_BL
