# SPDX-License-Identifier: Apache-2.0
"""Which parts of a model travel, which are fixed for a run, and which never leave the merchant.

Arrays cross the border between model and protocol here and nowhere else: float32, C order, names sorted, so
that a model's flat form is the same on every machine. What comes in is checked before anything is changed:
a merchant's or a platform's arrays are a stranger's data.

Guarantees:
- a shared array is a copy and later training does not change it
- arrays that do not fit (name, shape, dtype, values that are not finite) are refused and change nothing
- local parts are never among the shared or the public arrays
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import ParameterMismatch

__all__ = [
    "ParameterSpec",
    "arrays_of",
    "load_arrays",
    "load_public",
    "load_shared",
    "public_arrays",
    "shared_arrays",
]

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """Names in the model's state, sorted.

    `shared`: trained; every round's updates hold exactly these. `fixed`: public and not trained (a frozen
    table, the league's popularity); they travel once and belong to a release. `local`: one merchant's own.
    """

    shared: tuple[str, ...]
    fixed: tuple[str, ...]
    local: tuple[str, ...]

    def __post_init__(self) -> None:
        names = (*self.shared, *self.fixed, *self.local)
        if len(set(names)) != len(names):
            raise ParameterMismatch("a part of a model is shared, fixed or local; one name stands in two groups")

    @property
    def public(self) -> tuple[str, ...]:
        """What a release holds: shared and fixed, sorted."""
        return tuple(sorted((*self.shared, *self.fixed)))


def shared_arrays(model: nn.Module, spec: ParameterSpec) -> Arrays:
    """Copies of the trained parts, float32, sorted by name."""
    return arrays_of(model, spec.shared)


def public_arrays(model: nn.Module, spec: ParameterSpec) -> Arrays:
    """Copies of the trained and the fixed parts: what a checkpoint or a release holds, sorted by name."""
    return arrays_of(model, spec.public)


def load_shared(model: nn.Module, spec: ParameterSpec, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Set the trained parts; raises ParameterMismatch, with nothing changed, when the arrays do not fit."""
    load_arrays(model, spec.shared, arrays)


def load_public(model: nn.Module, spec: ParameterSpec, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Set the trained and the fixed parts; raises ParameterMismatch as `load_shared` does."""
    load_arrays(model, spec.public, arrays)


def arrays_of(model: nn.Module, names: Iterable[str]) -> Arrays:
    """Copies of the named parameters and buffers, float32 [their shape], sorted by name."""
    state = _state(model)
    return {name: state[name].detach().cpu().to(torch.float32, copy=True).numpy() for name in sorted(names)}


def load_arrays(model: nn.Module, names: Iterable[str], arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Set the named parameters and buffers in place, keeping device; raises ParameterMismatch."""
    state, expected = _state(model), set(names)
    if expected != set(arrays):
        missing, unknown = sorted(expected - set(arrays)), sorted(set(arrays) - expected)
        raise ParameterMismatch(
            f"expected exactly the arrays {sorted(expected)}; missing {missing}, unknown {unknown}. "
            "Both sides must build the model from the same configuration."
        )
    for name in sorted(expected):
        _check(name, arrays[name], state[name])
    with torch.no_grad():
        for name in sorted(expected):
            state[name].copy_(torch.from_numpy(np.array(arrays[name])))


def _check(name: str, array: NDArray[np.float32], target: Tensor) -> None:
    # A stranger's "array" may be anything at all.
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ParameterMismatch(f"{name}: expected a float32 array, found {found}. Send float32.")
    if array.shape != tuple(target.shape):
        raise ParameterMismatch(
            f"{name}: expected shape {tuple(target.shape)}, found {array.shape}. "
            "Both sides must build the model from the same configuration and vocabulary."
        )
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise ParameterMismatch(f"{name}: {bad} of {array.size} values are not finite. Drop this update.")


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
