# SPDX-License-Identifier: Apache-2.0
"""Per-user gradients of dense layers, from a layer's inputs and the gradients at its outputs.

Shapes: B users, S positions, O rows and I columns of a weight. For a weight used at positions s the per-user
gradient is sum_s r_s c_s^T (rows of output gradients and inputs): with one position its norm is |r| |c|,
otherwise it is formed for a few users at a time, in cache, and never kept.
"""

import math
from abc import ABC, abstractmethod
from typing import Final

import torch
from torch import Tensor

from privacy.stages import Rows

__all__ = ["MatrixPart", "Part", "Products", "Scratch", "VectorPart"]

_CHUNK_FLOATS: Final = 1 << 18  # 1 MiB of float32: stays in a core's cache
_KEEP_FLOATS: Final = 1 << 23  # 32 MiB: keep what the norms needed for the sum, rather than form it twice


class Scratch:
    """Memory that one batch leaves to the next: to map fresh pages costs as much as the products on them."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Float32 of `shape`, not set, overwritten by the next taker of the same name."""
        size, held = math.prod(shape), self._held.get(name)
        if held is None or held.numel() < size or held.device != device:
            held = self._held[name] = torch.empty(size, device=device)
        return held[:size].view(shape)


class Products:
    """Per-user matrices sum_s rows[b, s] cols[b, s]^T [B, O, I], formed when needed, for a few users at a time."""

    def __init__(self, name: str, rows_BSO: Tensor, cols_BSI: Tensor, scratch: Scratch) -> None:
        self.rows, self.cols = rows_BSO, cols_BSI
        self._name, self._scratch = name, scratch
        self._formed: Tensor | None = None

    def squared_norms(self) -> Tensor:
        """Float [B]."""
        rows, cols = self.rows, self.cols
        if rows.shape[1] == 1:
            return rows[:, 0].square().sum(1) * cols[:, 0].square().sum(1)
        size, floats = rows.shape[0], rows.shape[2] * cols.shape[2]
        if size * floats <= _KEEP_FLOATS:
            self._formed = self._scratch.take(self._name, (size, rows.shape[2], cols.shape[2]), rows.device)
        squares, step = torch.empty(size, device=rows.device), max(1, _CHUNK_FLOATS // max(1, floats))
        for begin in range(0, size, step):
            at = slice(begin, begin + step)
            out = None if self._formed is None else self._formed[at]
            formed = torch.bmm(rows[at].mT, cols[at], out=out)
            squares[at] = torch.linalg.vector_norm(formed.flatten(1), dim=1).square_()
        return squares

    def weighted_sum(self, weights_B: Tensor) -> Tensor:
        """sum_b weights[b] * matrix_b, [O, I]."""
        total: Tensor
        if self._formed is not None:
            total = (weights_B @ self._formed.flatten(1)).view(self._formed.shape[1:])
        else:
            total = self.rows.flatten(0, 1).T @ (self.cols * weights_B[:, None, None]).flatten(0, 1)
        return total

    def without(self, bad_B: Tensor) -> "Products":
        """The same with nothing for the users where bad_B is true."""
        bad = bad_B[:, None, None]
        kept = self.rows.masked_fill(bad, 0), self.cols.masked_fill(bad, 0)
        return Products(self._name, *kept, self._scratch)


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

    def __init__(self, name: str, rows_BSO: Tensor, cols_BSI: Tensor, scratch: Scratch) -> None:
        self.name = name
        self._products = Products(name, rows_BSO.float(), cols_BSI.float(), scratch)

    def squared_norms(self) -> Tensor:
        return self._products.squared_norms()

    def weighted_sum(self, weights_B: Tensor) -> Tensor:
        return self._products.weighted_sum(weights_B)

    def per_user(self) -> Tensor:
        return torch.bmm(self._products.rows.mT, self._products.cols)

    def drop_users(self, bad_B: Tensor) -> None:
        self._products = self._products.without(bad_B)


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
