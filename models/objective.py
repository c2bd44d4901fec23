# SPDX-License-Identifier: Apache-2.0
"""Sampled softmax, one loss per user, on negatives that nobody's data had a say in.

-log softmax of each target against itself and N evenly drawn items, whose weight V/N lets them stand for the
catalogue (Bengio and Senécal 2008, uniform proposal). Items that the user owned already do not compete: the tower
learns to rank what is new.

Shapes: B users, T targets, N negatives.

Guarantees:
- row b of the loss depends on row b of its inputs alone
"""

import math

import torch
from torch import Tensor

__all__ = ["sampled_softmax"]


def sampled_softmax(
    target_scores_BT: Tensor,
    negative_scores_BN: Tensor,
    *,
    owned_BN: Tensor,
    weights_BT: Tensor,
    n_items: int,
) -> Tensor:
    """The weighted sum over a user's targets, float32 [B]; `owned_BN`: negatives left out for this user."""
    correction = math.log(n_items / negative_scores_BN.shape[1])
    # Not -inf: where every negative is owned, logsumexp would have no gradient but NaN.
    scores_BN = (negative_scores_BN.float() + correction).masked_fill(owned_BN, -1e9)
    rest_B1 = torch.logsumexp(scores_BN, dim=1, keepdim=True)
    targets_BT = target_scores_BT.float()
    loss_BT = torch.logaddexp(rest_B1, targets_BT) - targets_BT
    return (loss_BT * weights_BT).sum(dim=1)
