# SPDX-License-Identifier: Apache-2.0
"""One bounded sample per user: a moment is drawn in a history, what came before predicts what came after.

The moment is the day of an event drawn evenly (not on the user's first day, if there is a later one). Half of
the targets are drawn from that day's basket, for the `all` view; half from the window that follows, where only
what the user had never bought counts, for the `novel` view; both with replacement. All tensors have one size.

Shapes: B users, L history, T targets, M longest history among the B users.

Guarantees:
- a sample holds no event at or after its moment in its history
- the sample of one user does not depend on another user
- a user's target weights add up to at most one
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.inputs import Histories

__all__ = ["RecommendationBatch", "SampleShape", "draw_batch", "padded"]


@dataclass(frozen=True, slots=True)
class SampleShape:
    """The bounds of a user's sample. `basket_share`: weight of the `all` half, the rest is the `novel` half's."""

    history: int
    targets: int
    window_days: int
    basket_share: float


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class RecommendationBatch:
    """B users' samples on one device.

    `history` int64 [B, L], oldest first, padded with 0 on the right; `age_days` float32 [B, L], at the moment;
    `targets` int64 [B, T]; `weights` float32 [B, T]; `novel` bool [B, T]: a target of the novel half, which
    competes with what the user never bought.
    """

    history: Tensor
    age_days: Tensor
    targets: Tensor
    weights: Tensor
    novel: Tensor

    def __len__(self) -> int:
        return len(self.history)

    def __repr__(self) -> str:
        return f"RecommendationBatch(users={len(self)})"


def padded(
    histories: Histories, ends: NDArray[np.int64], starts: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Events starts[b] … ends[b]-1, the latest `length` of them: items int64 and days float32, both [B, length].

    Padding on the right: item 0, day +inf.
    """
    first = np.maximum(starts, ends - length)
    position = first[:, None] + np.arange(length)
    present = position < ends[:, None]
    if not len(histories.items):
        return np.zeros(position.shape, np.int64), np.full(position.shape, np.inf, np.float32)
    position = np.minimum(position, len(histories.items) - 1)
    items = np.where(present, histories.items[position], 0).astype(np.int64)
    return items, np.where(present, histories.days[position], np.float32(np.inf))


def draw_batch(
    histories: Histories,
    users: NDArray[np.int64],
    shape: SampleShape,
    rng: np.random.Generator,
    device: torch.device,
) -> RecommendationBatch:
    """One sample for each of the B users (rows of `histories`, each with at least one event; B may be 0)."""
    starts, ends = histories.offsets[users], histories.offsets[users + 1]
    lengths = ends - starts
    _, days_BM = padded(histories, ends, starts, int(lengths.max(initial=1)))
    days_BM = np.floor(days_BM)
    draws = rng.random((len(users), 1 + shape.targets))
    later = (days_BM <= days_BM[:, :1]).sum(axis=1)
    later = np.where(later < lengths, later, 0)
    moment = later + np.floor(draws[:, 0] * (lengths - later)).astype(np.int64)
    day_B1 = np.take_along_axis(days_BM, moment[:, None], axis=1)
    begin = (days_BM < day_B1).sum(axis=1)
    basket_end = (days_BM <= day_B1).sum(axis=1)
    window_end = (days_BM < day_B1 + shape.window_days).sum(axis=1)
    half = shape.targets // 2
    spans = np.where(np.arange(shape.targets) < half, basket_end[:, None], window_end[:, None]) - begin[:, None]
    chosen = (starts + begin)[:, None] + np.floor(draws[:, 1:] * spans).astype(np.int64)
    targets_BT = histories.items[chosen].astype(np.int64)
    items_BL, event_days_BL = padded(histories, starts + begin, starts, shape.history)
    novel_BT = np.broadcast_to(np.arange(shape.targets) >= half, targets_BT.shape)
    weights_BT = _weights(targets_BT, items_BL, novel_BT, shape.basket_share)
    age_BL = np.where(items_BL > 0, np.maximum(day_B1 - event_days_BL, 0.0), 0.0)
    return RecommendationBatch(
        history=torch.from_numpy(items_BL).to(device),
        age_days=torch.from_numpy(age_BL.astype(np.float32)).to(device),
        targets=torch.from_numpy(targets_BT).to(device),
        weights=torch.from_numpy(weights_BT).to(device),
        novel=torch.from_numpy(novel_BT.copy()).to(device),
    )


def _weights(
    targets_BT: NDArray[np.int64], items_BL: NDArray[np.int64], novel_BT: NDArray[np.bool_], basket_share: float
) -> NDArray[np.float32]:
    owned_BT = (targets_BT[:, :, None] == items_BL[:, None, :]).any(axis=2)
    counted_BT = np.where(novel_BT, ~owned_BT, True)
    novel_total_B1 = (counted_BT & novel_BT).sum(axis=1, keepdims=True)
    basket_total_B1 = (counted_BT & ~novel_BT).sum(axis=1, keepdims=True)
    weights = np.where(
        novel_BT,
        (1.0 - basket_share) / np.maximum(novel_total_B1, 1),
        basket_share / np.maximum(basket_total_B1, 1),
    )
    result: NDArray[np.float32] = (weights * counted_BT).astype(np.float32)
    return result
