# SPDX-License-Identifier: Apache-2.0
"""A weighted sum of updates that does not depend on the order in which they arrive.

Floating-point addition is not associative, so a mean over merchants would change with the number of workers
that compute them. Here every weighted value is rounded once to a grid of 2^-24 and added in 64-bit integers.

Guarantees:
- The sum is the same, bit for bit, for every order of arrival.
- An update with wrong names, shapes, dtypes or values that are not finite is refused whole.
- No sum wraps: a value that could, within the cohort's size, is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strategies.errors import BadUpdate

GRID_BITS = 24
GRID = float(2**GRID_BITS)

Arrays = Mapping[str, npt.NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Terms:
    """One merchant's checked, weighted arrays on the grid, ready to be added."""

    values: Mapping[str, npt.NDArray[np.int64]]
    weight: int


class ExactSum:
    """Adds weighted float32 arrays exactly; memory is one int64 vector per array, whatever the cohort."""

    def __init__(self, shapes: Shapes, cohort_size: int) -> None:
        self._sums = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()}
        self._limit = float(2**62 // max(cohort_size, 1))
        self.weight = 0

    def terms(self, arrays: Arrays, weight: int) -> Terms:
        """Check one merchant's arrays and put `weight * arrays` on the grid; adds nothing.

        Raises:
            BadUpdate: names the array and what is wrong with it.
        """
        if weight < 1:
            raise BadUpdate(f"weight must be a whole number of at least 1, found {weight}")
        if set(arrays) != set(self._sums):
            missing, extra = sorted(set(self._sums) - set(arrays)), sorted(set(arrays) - set(self._sums))
            raise BadUpdate(f"wrong array names: missing {missing}, unexpected {extra}")
        return Terms({name: self._term(name, array, weight) for name, array in arrays.items()}, weight)

    def add(self, terms: Terms) -> None:
        """Add what `terms` of this same sum has checked."""
        for name, values in terms.values.items():
            self._sums[name] += values
        self.weight += terms.weight

    def mean(self) -> dict[str, npt.NDArray[np.float32]]:
        """The weighted mean as float32.

        Raises:
            ZeroDivisionError: nothing was added.
        """
        scale = 1.0 / (GRID * self.weight)
        return {name: np.asarray(total * scale, dtype=np.float32) for name, total in self._sums.items()}

    def total(self) -> dict[str, npt.NDArray[np.float64]]:
        """The weighted sum as float64."""
        return {name: np.asarray(total / GRID) for name, total in self._sums.items()}

    def _term(self, name: str, array: npt.NDArray[np.float32], weight: int) -> npt.NDArray[np.int64]:
        expected = self._sums[name].shape
        if array.shape != expected or array.dtype != np.float32:
            raise BadUpdate(f"{name}: expected float32 {expected}, found {array.dtype} {array.shape}")
        scaled = np.rint(array.astype(np.float64) * (weight * GRID))
        largest = float(np.abs(scaled).max(initial=0.0))
        if not np.isfinite(largest):
            raise BadUpdate(f"{name}: holds NaN or infinity")
        if largest > self._limit:
            raise BadUpdate(f"{name}: value {largest / (weight * GRID):.3g} with weight {weight} is out of range")
        return scaled.astype(np.int64)
