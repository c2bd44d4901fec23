# SPDX-License-Identifier: Apache-2.0
"""Types that carry how far an update is protected; a function takes exactly one stage.

    LocalUpdate ──clip──▶ ClippedUpdate ──noise──▶ NoisedUpdate ──mask──▶ MaskedUpdate ──sum──▶ Aggregate
                                       └──share of noise──▶ IntegerUpdate ──mask──┘

LocalUpdate, ClippedUpdate and IntegerUpdate must not leave the merchant. `NoisedUpdate` may in mode `local`; in
modes `distributed` and `merchant` only a `MaskedUpdate` may. Contents are never printed.

Guarantees:
- sending an unprotected update does not type-check
- no stage prints its contents
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from privacy.errors import NoiseError
from privacy.noise_shares import NoiseShare

if TYPE_CHECKING:
    import torch

__all__ = [
    "Aggregate",
    "ClippedUpdate",
    "IntegerUpdate",
    "LocalUpdate",
    "MaskedUpdate",
    "NoiseReceipt",
    "NoisedUpdate",
    "Rows",
]

Arrays: TypeAlias = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor that is zero but for some rows: `values[i]` is added to row `index[i]`; rows may repeat."""

    shape: tuple[int, ...]
    index: "torch.Tensor" = field(repr=False)  # int64 [R]
    values: "torch.Tensor" = field(repr=False)  # float [R, D]

    def add_to(self, out: "torch.Tensor") -> None:
        """Add to a dense tensor of `shape`."""
        out.index_add_(0, self.index, self.values.to(out.dtype))


@dataclass(frozen=True, slots=True)
class LocalUpdate:
    """What training without protection gives: names to float32 arrays. Stays at home unless the mode is `none`."""

    values: Arrays = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClippedUpdate:
    """The sum over users of contributions with joint L2 norm <= clipping_norm each.

    dense: names to tensors of the parameter's shape. rows: names to row lists that come on top (item tables).
    norms_B: each user's norm before clipping, float [B]; it depends on users: never log or send it.
    """

    clipping_norm: float
    dense: Mapping[str, "torch.Tensor"] = field(repr=False)
    rows: Mapping[str, tuple[Rows, ...]] = field(repr=False)
    norms_B: "torch.Tensor" = field(repr=False)  # noqa: N815

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*self.dense, *self.rows}))

    def tensor(self, name: str, out: "torch.Tensor | None" = None) -> "torch.Tensor":
        """The whole sum of one parameter, dense float32, written into `out` where given."""
        import torch

        dense, parts = self.dense.get(name), self.rows.get(name, ())
        shape = dense.shape if dense is not None else parts[0].shape
        if out is None:
            out = torch.empty(shape, device=dense.device if dense is not None else parts[0].values.device)
        if dense is not None:
            out.copy_(dense)
        else:
            out.zero_()
        for part in parts:
            part.add_to(out)
        return out


@dataclass(frozen=True, slots=True)
class NoiseReceipt:
    """That noise of deviation noise_multiplier * clipping_norm was added, and under which label."""

    noise_multiplier: float
    clipping_norm: float
    label: str


@dataclass(frozen=True, slots=True)
class NoisedUpdate:
    """A clipped sum with its noise, or what was computed from such sums and public values alone."""

    values: Mapping[str, Any] = field(repr=False)  # names to tensors or float32 arrays
    receipts: tuple[NoiseReceipt, ...]

    @classmethod
    def computed_from(cls, receipts: Iterable[NoiseReceipt], values: Arrays) -> "NoisedUpdate":
        """Post-processing: the caller states that `values` depend on users through the receipts' sums only."""
        held = tuple(receipts)
        if not held:
            raise NoiseError(
                "expected the receipts of the noised steps that the values were computed from, found none"
            )
        return cls(values, held)


@dataclass(frozen=True, slots=True)
class IntegerUpdate:
    """A clipped sum on the grid with one merchant's share of the noise: too little to leave without a mask."""

    words: npt.NDArray[np.uint32] = field(repr=False)  # [d], modulo 2^32
    share: NoiseShare
    label: str  # of the noise


@dataclass(frozen=True, slots=True)
class MaskedUpdate:
    """A masked vector over Z/2^32, as secure aggregation sends it."""

    values: npt.NDArray[np.uint32] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What the platform sees: a sum or mean over the survivors."""

    values: Arrays = field(repr=False)
    survivors: int
