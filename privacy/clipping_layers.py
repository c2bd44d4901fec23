# SPDX-License-Identifier: Apache-2.0
"""Per-user gradients of dense layers, from a layer's inputs and the gradients at its outputs.

Shapes: B users, S positions, O rows and I columns of a weight. For a weight used at positions s the per-user
gradient is sum_s r_s c_s^T (rows of output gradients and inputs): with one position its norm is |r| |c|,
otherwise it is formed for a few users at a time, in cache, and never kept.
"""

from abc import ABC, abstractmethod
from typing import Final

import torch
from torch import Tensor

from privacy.stages import Rows

__all__ = ["MatrixPart", "Part", "VectorPart", "product_norms"]

_CHUNK_FLOATS: Final = 1 << 19  # 2 MiB of float32: stays in a core's cache


def product_norms(rows_BSO: Tensor, cols_BSI: Tensor) -> Tensor:
    """Squared norm of sum_s rows[b, s] cols[b, s]^T for each user, float [B]."""
    if rows_BSO.shape[1] == 1:
        return rows_BSO[:, 0].square().sum(1) * cols_BSI[:, 0].square().sum(1)
    step = max(1, _CHUNK_FLOATS // max(1, rows_BSO.shape[2] * cols_BSI.shape[2]))
    chunks = zip(torch.split(rows_BSO, step), torch.split(cols_BSI, step), strict=True)
    return torch.cat([torch.bmm(r.mT, c).square().sum((1, 2)) for r, c in chunks])


class Part(ABC):
    """The per-user gradients of one parameter over one batch, in a form that is cheap to sum."""

    name: str

    @abstractmethod
    def squared_norms(self) -> Tensor:
        """Squared L2 norm of each user's gradient, float [B]."""

    @abstractmethod
    def weighted_sum(self, weights_B: Tensor) -> Tensor | tuple[Rows, ...]:
        """sum_b weights[b] * gradient_b: dense in the parameter's shape, or as rows."""

    @abstractmethod
    def per_user(self) -> Tensor:
        """Dense per-user gradients [B, *shape]."""

    @abstractmethod
    def drop_users(self, bad_B: Tensor) -> None:
        """Forget the gradients of the users where bad_B is true (those that are not finite)."""


class MatrixPart(Part):
    """A weight [O, I] with gradient sum_s rows[b, s] cols[b, s]^T; rows [B, S, O], cols [B, S, I]."""

    def __init__(self, name: str, rows_BSO: Tensor, cols_BSI: Tensor) -> None:
        self.name = name
        self._rows, self._cols = rows_BSO.float(), cols_BSI.float()

    def squared_norms(self) -> Tensor:
        return product_norms(self._rows, self._cols)

    def weighted_sum(self, weights_B: Tensor) -> Tensor:
        total: Tensor = (self._rows * weights_B[:, None, None]).flatten(0, 1).T @ self._cols.flatten(0, 1)
        return total

    def per_user(self) -> Tensor:
        return torch.bmm(self._rows.mT, self._cols)

    def drop_users(self, bad_B: Tensor) -> None:
        self._rows = self._rows.masked_fill(bad_B[:, None, None], 0)
        self._cols = self._cols.masked_fill(bad_B[:, None, None], 0)


class VectorPart(Part):
    """A small parameter whose per-user gradients [B, *shape] are held as they are."""

    def __init__(self, name: str, gradients: Tensor) -> None:
        self.name = name
        self._gradients = gradients.float()

    def squared_norms(self) -> Tensor:
        return self._gradients.flatten(1).square().sum(1) if self._gradients.ndim > 1 else self._gradients.square()

    def weighted_sum(self, weights_B: Tensor) -> Tensor:
        total: Tensor = torch.tensordot(weights_B, self._gradients, dims=1)
        return total

    def per_user(self) -> Tensor:
        return self._gradients

    def drop_users(self, bad_B: Tensor) -> None:
        bad = bad_B.view(-1, *[1] * (self._gradients.ndim - 1))
        self._gradients = self._gradients.masked_fill(bad, 0)
