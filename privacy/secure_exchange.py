# SPDX-License-Identifier: Apache-2.0
"""What both ends of a secure exchange work out for themselves, and numbers to vector and back.

Updates travel in the 32-bit ring on the roster's grid, rounded with the merchant's own dither. Everything else
(statistics, histograms, the gate's sums, the weight) travels in the 64-bit ring on the grid of 2^-24 that plain
cohorts use, so those sums are the plain ones bit for bit.

Guarantees:
- the decoded sum is the sum of the quantised inputs, bit for bit
- NaN, infinite and out-of-range values are refused at the merchant
- weight and statistics are words of the vector like any other
- sums that several rosters opened are added before anything is divided or rounded
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from privacy import quantisation
from privacy.quantisation import ArraySpec, VectorPlan
from privacy.secagg import tags, wire
from privacy.secagg.errors import ValueRefused
from privacy.secagg.masks import Vector
from privacy.secagg.merchant import RoundTerms
from privacy.secagg.roster import Roster
from privacy.secagg.vocabulary import QUESTION as VOCABULARY

UPDATE = "train"  # the purpose whose arrays take four bytes a number
WIDE_GRID = 2.0**24
MAX_WEIGHT = 1 << 14  # bound of a merchant's weight where weights are its numbers of users
ARRAYS, STATISTICS = "arrays/", "statistics/"
TRANSPORT = ("aggregation", "cohort-size", "max-weight")  # settings that decide nothing of what an answer holds

Arrays = Mapping[str, npt.NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]
Scalars = Mapping[str, str | int | float]
Sums = Mapping[str, npt.NDArray[Any]]


class Reading(Protocol):
    """What opened sums stand for."""

    def mean_of(self, sums: Sums, weight: int) -> dict[str, npt.NDArray[np.float32]]: ...

    def statistics_of(self, sums: Sums, weight: int) -> dict[str, npt.NDArray[np.float64]]: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A sum that was opened, of one roster or of several.

    Attributes:
        sums: what the vector holds, by name, float64 or int64; nothing is divided yet.
        weight: summed weight.
        reading: the exchange that asked for it.
    """

    sums: Sums
    weight: int
    reading: Reading

    @property
    def mean(self) -> dict[str, npt.NDArray[np.float32]]:
        """Weighted mean of the arrays."""
        return self.reading.mean_of(self.sums, self.weight)

    @property
    def statistics(self) -> dict[str, npt.NDArray[np.float64]]:
        """Summed statistics."""
        return self.reading.statistics_of(self.sums, self.weight)

    def __add__(self, other: "Opened") -> "Opened":
        """The sum over both rosters, exact below 2^53 steps of the grid; both answer the same question."""
        sums = {name: np.add(self.sums[name], other.sums[name], dtype=np.float64) for name in self.sums}
        return replace(self, sums=sums, weight=self.weight + other.weight)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What an answer holds: names and shapes of float32 arrays and statistics, and the largest weight."""

    purpose: str
    arrays: Shapes
    statistics: Shapes
    max_weight: int = 1

    def terms(self, roster: Roster, request: bytes) -> RoundTerms:
        """The terms that ROUND_OPEN must name; `request` is the digest of what was asked."""
        plan = self._plan(roster)
        return RoundTerms(request, plan.digest, plan.d, plan.e)

    def vector(self, roster: Roster, arrays: Arrays, statistics: Arrays, weight: int, dither: bytes) -> Vector:
        """One merchant's vector; the same answer and dither (32 secret bytes) give the same vector.

        Raises ValueRefused for NaN, infinite or out-of-range values, other names, shapes, dtypes or weights.
        """
        narrow = self.purpose == UPDATE
        values = {
            ARRAYS + name: array if narrow else self._wide(roster, name, array, weight)
            for name, array in arrays.items()
        }
        values |= {STATISTICS + name: self._wide(roster, name, array, 1) for name, array in statistics.items()}
        plan = self._plan(roster)
        return quantisation.quantise(plan, values, weight=weight, entropy=lambda size: dither[:size])

    def opened(self, roster: Roster, vector: Vector, survivors: int) -> Opened:
        """What the sum of `survivors` such vectors stands for; the weight in it says how much each counts."""
        found = quantisation.totals(self._plan(roster), vector)
        if found.weight < 1:
            raise ValueRefused(f"expected a summed weight of at least 1, found {found.weight}")
        return Opened(found.arrays, found.weight, self)

    def mean_of(self, sums: Sums, weight: int) -> dict[str, npt.NDArray[np.float32]]:
        scale = self.max_weight / weight if self.purpose == UPDATE else 1.0 / (WIDE_GRID * weight)
        return {name: np.asarray(sums[ARRAYS + name] * scale, np.float32) for name in self.arrays}

    def statistics_of(self, sums: Sums, weight: int) -> dict[str, npt.NDArray[np.float64]]:
        return {name: np.asarray(sums[STATISTICS + name] / WIDE_GRID) for name in self.statistics}

    def _plan(self, roster: Roster) -> VectorPlan:
        dtype = "float32" if self.purpose == UPDATE else "int64"
        specs = [ArraySpec(ARRAYS + name, shape, dtype) for name, shape in self.arrays.items()]
        specs += [ArraySpec(STATISTICS + name, shape, "int64") for name, shape in self.statistics.items()]
        ordered = tuple(sorted(specs, key=lambda spec: spec.name))
        members = len(roster.members)
        return VectorPlan(self.purpose, ordered, (), (), roster.bound, roster.scale_log2, members, self.max_weight)

    @staticmethod
    def _wide(roster: Roster, name: str, array: npt.NDArray[np.float32], weight: int) -> npt.NDArray[np.int64]:
        scaled = np.rint(np.asarray(array, np.float64) * (weight * WIDE_GRID))
        largest = float(np.abs(scaled).max(initial=0.0))
        if not math.isfinite(largest):
            raise ValueRefused(f"{name}: found NaN or infinity; the answer is broken, check the training")
        if largest > 2**62 // len(roster.members):
            raise ValueRefused(f"{name}: found a value that is out of range; the sum could wrap")
        return np.asarray(scaled.astype(np.int64))


def request_digest(kind: str, settings: Scalars, arrays: Arrays) -> bytes:
    """SHA-256 of all that was asked: each end computes it over what it sent or received itself, 32 bytes.

    Merchants that were asked different things have different digests: their masks do not cancel. What only says
    how an answer travels is left out, and the question about the vocabulary is its candidates alone, whatever the
    run: the same answer is opened over one list of survivors [T3].
    """
    settings = {name: value for name, value in settings.items() if name not in TRANSPORT}
    if kind == VOCABULARY:
        settings, arrays = {VOCABULARY: settings[VOCABULARY]}, {}
    head = json.dumps([kind, {**settings}], sort_keys=True).encode()
    parts = [tags.REQUEST, wire.u32(len(head)), head]
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        about = json.dumps([name, array.dtype.str, array.shape]).encode()
        parts += [wire.u32(len(about)), about, array.tobytes()]
    return tags.digest(*parts)


def scale_for(members: int, bound: float) -> int:
    """The finest grid, as log2 of steps a unit, on which `members` values of up to `bound` fit the 32-bit ring."""
    return math.floor(math.log2((2.0**31 / members - 2.0) / bound))
