# SPDX-License-Identifier: Apache-2.0
"""What the recorder remembers of each use of a parameter, and how its gradient is read off afterwards.

Shapes: B users, S positions, N shared vectors, J table rows summed into one of them, D width, T scoring
positions.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from privacy.errors import UnsupportedUse

__all__ = [
    "LinearUse",
    "NormUse",
    "RowsUse",
    "ScoredRows",
    "ScoresUse",
    "SharedVectors",
    "Spread",
    "SpreadUse",
    "Use",
]

# (table, rows [..., J] that are summed, factor, padding row without gradient)
Term = tuple[str, Tensor, float, int | None]


def _positions(x: Tensor) -> Tensor:
    """[B, ..., D] as [B, S, D]."""
    return x.unsqueeze(1) if x.ndim == 2 else x.flatten(1, -2)


class Use(ABC):
    """One use: `output` is where the gradient is taken, `grad` what it was."""

    def __init__(self, output: Tensor, kept: Tensor | None = None) -> None:
        self.output = output
        self.grad: Tensor | None = None
        self.owned = False  # whether grad's memory is nobody else's
        self._kept = kept
        self._versions = (output._version, -1 if kept is None else kept._version)

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Parameters that this use gives gradients to."""

    @property
    def where(self) -> str:
        return f"{type(self).__name__.removesuffix('Use').lower()} of {' and '.join(map(repr, self.names))}"

    @property
    def signature(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.names, tuple(self.output.shape[1:]))

    def check_unchanged(self) -> None:
        """Refuse tensors that were overwritten after use: what is kept would not be what was used."""
        if self._versions != (self.output._version, -1 if self._kept is None else self._kept._version):
            raise UnsupportedUse(
                f"the input or output at {self.where} was changed in place afterwards (relu_, +=, inplace=True?): "
                "use the form that makes a new tensor"
            )

    @property
    def gradient(self) -> Tensor:
        assert self.grad is not None
        return self.grad.float()


class RowsUse(Use):
    """Rows of a table looked up by users: index [B, ...], output [B, ..., D]."""

    def __init__(self, name: str, output: Tensor, index: Tensor, padding: int | None) -> None:
        super().__init__(output, index)
        self.name, self._index, self._padding = name, index, padding

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def lookups(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """user [R], row [R], gradient [R, D], without padding."""
        size = self._index.shape[0]
        row = self._index.reshape(-1).long()
        user = torch.arange(size, device=row.device).repeat_interleave(row.numel() // size)
        values = self.gradient.reshape(row.numel(), self.output.shape[-1])
        if self._padding is not None:
            real = (row != self._padding).nonzero()[:, 0]
            user, row, values = user[real], row[real], values[real]
        return user, row, values


class LinearUse(Use):
    """input [B, ..., I] times a weight [O, I] (or [I, O] when transposed), plus a bias."""

    def __init__(
        self, weight: str | None, bias: str | None, output: Tensor, input: Tensor, *, transposed: bool
    ) -> None:
        super().__init__(output, input)
        self.weight, self._bias = weight, bias
        self._input, self._transposed = input, transposed

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(n for n in (self.weight, self._bias) if n is not None)

    def rows_and_columns(self) -> tuple[Tensor, Tensor]:
        """What the weight's gradient is summed from: rows [B, S, first size], columns [B, S, second size]."""
        rows, columns = _positions(self.gradient), _positions(self._input.detach().float())
        return (columns, rows) if self._transposed else (rows, columns)

    def vector(self, name: str) -> Tensor:
        """The bias's per-user gradients [B, O]."""
        return _positions(self.gradient).sum(1)


class NormUse(Use):
    """Layer norm of input [B, ..., *shape] with a weight and a bias of `shape`."""

    def __init__(
        self,
        weight: str | None,
        bias: str | None,
        output: Tensor,
        input: Tensor,
        shape: tuple[int, ...],
        eps: float,
    ) -> None:
        super().__init__(output, input)
        self._weight, self._bias = weight, bias
        self._input, self._shape, self._eps = input, shape, eps

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(n for n in (self._weight, self._bias) if n is not None)

    def vector(self, name: str) -> Tensor:
        """Per-user gradients [B, *shape] of weight or bias."""
        gradient = self.gradient
        if name == self._weight:
            gradient = gradient * functional.layer_norm(self._input.detach().float(), self._shape, eps=self._eps)
        middle = tuple(range(1, gradient.ndim - len(self._shape)))
        return gradient.sum(middle) if middle else gradient


class SpreadUse(Use):
    """A small parameter, one copy per user [B, *shape]."""

    def __init__(self, name: str, copies: Tensor) -> None:
        super().__init__(copies)
        self.name = name

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def vector(self, name: str) -> Tensor:
        return self.gradient


class ScoresUse(Use):
    """Scores [B, ..., N] of shared vectors against input [B, ..., D]."""

    def __init__(self, output: Tensor, input: Tensor, terms: tuple[Term, ...]) -> None:
        super().__init__(output, input)
        self._input, self._terms = input, terms

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for name, *_ in self._terms))

    def scores(self, name: str) -> "list[ScoredRows]":
        """This table's share of the scores' gradient, one for each term."""
        gradient, x = _positions(self.gradient), _positions(self._input.detach().float())
        owned = self.owned and len(self._terms) == 1
        return [
            ScoredRows(gradient, x, index.long(), factor, padding, owned)
            for table, index, factor, padding in self._terms
            if table == name
        ]


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Gradient p [B, T, N] at the scores of x [B, T, D] against N sums of table rows [N, J] times a factor.

    owned: nobody else holds p's memory, so that it may be overwritten.
    """

    p: Tensor
    x: Tensor
    row: Tensor
    factor: float
    padding: int | None
    owned: bool


@dataclass(frozen=True, slots=True)
class SharedVectors:
    """Vectors [N, ..., D] that all users share, each a sum of table rows: `terms` say which."""

    name: str
    value: Tensor
    terms: tuple[Term, ...]
    transposed: bool = False

    def flipped(self) -> "SharedVectors":
        return replace(self, value=self.value.mT, transposed=not self.transposed)

    def summed(self, dim: int, *, mean: bool) -> "SharedVectors":
        """Summed over a middle dimension: its rows join the J rows of each vector."""
        factor = 1 / self.value.shape[dim] if mean else 1.0
        value = self.value.mean(dim) if mean else self.value.sum(dim)
        terms = tuple(
            (table, index.movedim(dim, -2).flatten(-2), scale * factor, padding)
            for table, index, scale, padding in self.terms
        )
        return replace(self, value=value, terms=terms)

    def combined(self, function: str, other: Any) -> "SharedVectors | None":
        """self + other (shared or public), self * number; None for what is not linear with known factors."""
        if isinstance(other, SharedVectors):
            if function not in ("add", "radd") or self.transposed or other.transposed:
                return None
            if self.value.shape != other.value.shape:
                return None
            return replace(self, value=self.value + other.value, terms=self.terms + other.terms)
        if self.transposed or isinstance(other, bool) or not isinstance(other, (int, float, Tensor)):
            return None
        if isinstance(other, Tensor):
            value = self.value + other
            fits = function in ("add", "radd") and value.shape == self.value.shape
            return replace(self, value=value) if fits else None
        if function in ("mul", "rmul", "multiply"):
            return self._scaled(float(other))
        if function in ("div", "truediv", "true_divide", "divide"):
            return None
        return replace(self, value=self.value + other) if function in ("add", "radd") else None

    def _scaled(self, factor: float) -> "SharedVectors":
        terms = tuple((table, index, scale * factor, padding) for table, index, scale, padding in self.terms)
        return replace(self, value=self.value * factor, terms=terms)


@dataclass(frozen=True, slots=True)
class Spread:
    """A small parameter (or a function of it) with one copy per user: value [B, *shape], ndim = len(shape)."""

    name: str
    value: Tensor
    ndim: int

    def beside(self, ndim: int) -> Tensor:
        """The copies shaped to broadcast with a batch-first tensor of `ndim` dimensions."""
        shape = self.value.shape
        return self.value.reshape(shape[0], *[1] * (ndim - 1 - self.ndim), *shape[1:])
