# SPDX-License-Identifier: Apache-2.0
"""The seam between a learning task and everything that trains, protects, serves or judges it.

Client, privacy and server know a model only through `Task`: how a bounded sample of a user becomes a loss, which
parameters travel, how the model decides, how it is judged and exported. A further task (ad or coupon response,
churn, demand, price response, fraud, review sentiment) is one file that implements it, and one config.

Rules that every task keeps, because the privacy of all of them rests here (docs/model.md):
a loss row is a sum or mean over one user's own bounded sample; it depends on that user, the public parts of the
model and `negatives` alone; `negatives` are drawn without looking at data; no weight is used outside its module;
a weight is used with a leading dimension of users, or on `negatives` alone.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.inputs import Evaluation, Histories
from models.metrics import ViewMetrics
from models.parameters import ParameterSpec

__all__ = ["Exported", "Task"]

BatchT = TypeVar("BatchT")


class Exported(Protocol):
    """What a release takes from a task."""

    @property
    def scorer(self) -> bytes:
        """ONNX."""

    @property
    def item_vectors(self) -> bytes:
        """npy (no pickle), float32 [V+1, D]."""


class Task(Protocol[BatchT]):
    """One kind of model that a league trains together."""

    @property
    def name(self) -> str:
        """Short, for policies, releases and logs."""

    def build(self, seed: int) -> nn.Module:
        """A fresh model on the CPU; the same seed gives the same weights everywhere."""

    def spec(self, model: nn.Module) -> ParameterSpec:
        """What of this model is shared, fixed and local."""

    def batch(
        self, histories: Histories, users: NDArray[np.int64], rng: np.random.Generator, device: torch.device
    ) -> BatchT:
        """One bounded sample of each of the B users (rows of `histories`)."""

    def negatives(self, rng: np.random.Generator, device: torch.device) -> Tensor:
        """int64 [N], drawn from public knowledge alone and shared by every user of a step."""

    def loss_per_user(self, model: nn.Module, batch: BatchT, negatives: Tensor) -> Tensor:
        """float32 [B]; row b depends on user b and on public things only."""

    def fit_local(self, model: nn.Module, histories: Histories) -> None:
        """Set the merchant's local parts from its own data; nothing shared changes."""

    def fit_alone(self, model: nn.Module, histories: Histories) -> None:
        """Set the local parts so that the model decides by this merchant's data alone; nothing shared changes."""

    def scores(self, model: nn.Module, histories: Histories, users: NDArray[np.int64], at_day: float) -> Tensor:
        """float32 [B, V+1], higher is better; column 0 is -inf."""

    def evaluate(self, model: nn.Module, evaluation: Evaluation, ks: Sequence[int]) -> Mapping[str, ViewMetrics]:
        """Per user figures of each view, over the whole catalogue."""

    def export(self, model: nn.Module) -> Exported:
        """The scorer that a merchant serves, checked against the model."""
