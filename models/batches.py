# SPDX-License-Identifier: Apache-2.0
"""One bounded sample per user: a moment is drawn in a history, what came before predicts what is new after it.

The moment is the day of an event drawn evenly (not on the user's first day, if there is a later one). Targets are
drawn with replacement from the window that follows, and count only where the user had never bought them before:
repeats are the formula's business (docs/model.md), and training on them spoils the tower. All users get tensors of
one size, whatever they bought.

Shapes: B users, L history, P past, T targets, M longest history among the B users.

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
    """The bounds of a user's sample: `history` events for the tower, `past` events that say what is new."""

    history: int
    past: int
    targets: int
    window_days: int


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class RecommendationBatch:
    """B users' samples on one device; 0 pads items on the right.

    `history` int64 [B, L], oldest first; `age_days` float32 [B, L], at the moment; `past` int64 [B, P]: what the
    user owned by then; `targets` int64 [B, T]; `weights` float32 [B, T], 0 where a target is not new.
    """

    history: Tensor
    age_days: Tensor
    past: Tensor
    targets: Tensor
    weights: Tensor

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
    span = (days_BM < day_B1 + shape.window_days).sum(axis=1) - begin
    chosen = (starts + begin)[:, None] + np.floor(draws[:, 1:] * span[:, None]).astype(np.int64)
    targets_BT = histories.items[chosen].astype(np.int64)
    items_BL, event_days_BL = padded(histories, starts + begin, starts, shape.history)
    past_BP, _ = padded(histories, starts + begin, starts, shape.past)
    age_BL = np.where(items_BL > 0, np.maximum(day_B1 - event_days_BL, 0.0), 0.0)
    new_BT = ~(targets_BT[:, :, None] == past_BP[:, None, :]).any(axis=2)
    weights_BT = new_BT / np.maximum(new_BT.sum(axis=1, keepdims=True), 1)
    return RecommendationBatch(
        history=torch.from_numpy(items_BL).to(device),
        age_days=torch.from_numpy(age_BL.astype(np.float32)).to(device),
        past=torch.from_numpy(past_BP).to(device),
        targets=torch.from_numpy(targets_BT).to(device),
        weights=torch.from_numpy(weights_BT.astype(np.float32)).to(device),
    )
