# SPDX-License-Identifier: Apache-2.0
"""Discrete Gaussian noise over the integers, from a keyed stream, without floating point between key and draw.

P(x) is proportional to exp(-x² / 2 s²) for every integer x, s = deviation. Small s: the inverse of a cumulative
table of 128-bit integers, made in 60-digit decimals; 16 bits of the uniform come first, the other 112 only where a
table entry falls inside that 16-bit cell. Larger s: x2 + z x1 of two draws of deviation s / sqrt(1 + z²), as often
as needed (Micciancio & Walter 2017). The sum is exactly proportional to exp(-n² / 2 s²) Θ(n), and by Poisson
summation Θ varies by a factor 1 ± 2.01 exp(-2π² t²) with t = s / (1 + z²): below 2^-136 for t >= SMOOTH.

Guarantees:
- a draw is within statistical distance 2^-112 of the discrete Gaussian of exactly the stated deviation
- streams of different keys are independent, equal ones are equal

Assumes that AES-256 in counter mode looks random and that a key serves one stream (`NoiseSource.integers`).
"""

import hashlib
import math
from bisect import bisect_right
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from privacy.errors import NoiseError

__all__ = ["DITHER_BITS", "LOG2_DISTANCE", "DiscreteGaussianStream", "Recipe", "recipe"]

LOG2_DISTANCE: Final = -112  # of one draw, in total variation, for every deviation that is accepted
SMALLEST: Final = 1.0
LARGEST: Final = 2.0**30
DITHER_BITS: Final = 24
SMOOTH: Final = 2.2  # least t of a convolution
_TABLE_LIMIT: Final = 128  # deviations up to here come straight from a table
_TAIL: Final = Fraction(27, 2)  # a table ends at so many deviations: exp(-13.5² / 2) < 2^-131
_BITS: Final = 128
_CELLS: Final = 1 << 16
_OPEN: Final = -(1 << 15)  # a cell whose draw needs more bits
_CHUNK: Final = 1 << 13  # draws at a time: buffers and table stay in a core's cache
_TAG: Final = b"hansa.privacy.discrete_gaussian/1/"
_DECIMALS: Final = Context(prec=60)

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a deviation is reached: draws of variance `base_variance`, joined by `factors`, innermost first.

    deviation² = base_variance * Π (1 + factor²), exactly. log2_distance: the proved bound of this recipe.
    """

    base_variance: Fraction
    factors: tuple[int, ...]
    log2_distance: float

    @property
    def largest(self) -> int:
        """No draw is larger than this in absolute value."""
        return _radius(self.base_variance) * math.prod(1 + z for z in self.factors)


@lru_cache(maxsize=64)
def recipe(deviation: float) -> Recipe:
    """The recipe with the smallest table. Raises NoiseError for a deviation outside [SMALLEST, LARGEST]."""
    if not SMALLEST <= deviation <= LARGEST:
        raise NoiseError(
            f"expected a deviation of {SMALLEST:g} to 2^30 grid units, found {deviation}; change scale_log2"
        )
    variance, smooth = Fraction(deviation) ** 2, Fraction(SMOOTH) ** 2
    factors: list[int] = []
    distance = 0.0
    while variance > _TABLE_LIMIT**2:
        # t² = variance / (1 + z²)² >= SMOOTH²
        z = math.isqrt(math.isqrt(variance // smooth) - 1)
        t_squared = float(variance) / (1 + z * z) ** 2
        distance += 2.0 ** len(factors) * 2.03 * math.exp(-2 * math.pi**2 * t_squared)
        variance /= 1 + z * z
        factors.insert(0, z)
    # Every entry is off by less than 2^-129 + 2^-180, every probability by twice that; the tail is cut.
    table = (2 * _radius(variance) + 1) * 2.0**-128 / 2 + 2.0**-130
    return Recipe(variance, tuple(factors), math.log2(distance + 2.0 ** len(factors) * table))


def _radius(variance: Fraction) -> int:
    return math.isqrt(int(_TAIL**2 * variance)) + 1


class _Table:
    """Inverse of the cumulative distribution at 128 bits."""

    def __init__(self, variance: Fraction) -> None:
        radius = _radius(variance)
        half_inverse = _DECIMALS.divide(Decimal(-variance.denominator), Decimal(2 * variance.numerator))
        weights = [_DECIMALS.exp(_DECIMALS.multiply(half_inverse, Decimal(k * k))) for k in range(radius + 1)]
        sums = list(accumulate((weights[abs(k)] for k in range(-radius, radius + 1)), _DECIMALS.add))
        scale = _DECIMALS.divide(Decimal(1 << _BITS), sums[-1])
        entries = [int(_DECIMALS.to_integral_value(_DECIMALS.multiply(each, scale))) for each in sums]
        self.smallest = -radius
        self.entries = [
            entry for entry in entries if entry < 1 << _BITS
        ]  # the value is smallest + #(entries <= U)
        self._high = np.array([entry >> 64 for entry in self.entries], np.uint64)
        self.cells = self._cells()

    def _cells(self) -> npt.NDArray[np.int16]:
        """What the first 16 bits decide: the value, or _OPEN."""
        shift, cells = _BITS - 16, np.arange(_CELLS)
        up = np.array([-(-entry >> shift) for entry in self.entries])
        down = np.array([entry >> shift for entry in self.entries])
        first, last = np.searchsorted(up, cells, "right"), np.searchsorted(down, cells, "right")
        return np.where(first == last, first + self.smallest, _OPEN).astype(np.int16)

    def resolve(self, prefix: npt.NDArray[np.uint16], rest: npt.NDArray[np.uint64]) -> Integers:
        """Values of the uniforms prefix (16 bits), upper 48 bits of rest[:, 0], rest[:, 1] (64 bits)."""
        upper = prefix.astype(np.uint64) << np.uint64(48) | rest[:, 0] >> np.uint64(16)
        count = np.searchsorted(self._high, upper, "left")
        # Upper halves that equal an entry's are settled with all 128 bits.
        for i in np.flatnonzero(count != np.searchsorted(self._high, upper, "right")):
            count[i] = bisect_right(self.entries, int(upper[i]) << 64 | int(rest[i, 1]))
        return count + self.smallest


@lru_cache(maxsize=16)
def _table(variance: Fraction) -> _Table:
    return _Table(variance)


class DiscreteGaussianStream:
    """Draws in a fixed order, each once; the same calls under the same key give the same draws."""

    def __init__(self, key: bytes, label: str) -> None:
        if not isinstance(key, bytes) or len(key) != 32:
            raise NoiseError("expected a key of 32 bytes; use NoiseSource.integers(label)")
        self.label = label
        self._prefixes, self._rests, self._dither = (_Words(key, use) for use in (b"prefix", b"rest", b"dither"))

    def __repr__(self) -> str:
        return f"DiscreteGaussianStream(label={self.label!r}, key=<hidden>)"

    def add_to(self, total: Integers, deviation: float) -> None:
        """total += noise of `deviation` (grid units); int64 [n], contiguous."""
        if total.dtype != np.int64 or total.ndim != 1 or not total.flags.c_contiguous:
            raise NoiseError(f"expected contiguous int64 [n], found {total.dtype} of {total.ndim} dimensions")
        how = recipe(deviation)
        table = _table(how.base_variance)
        kind = np.int32 if how.largest < 1 << 31 else np.int64
        for start in range(0, total.size, _CHUNK):
            part = total[start : start + _CHUNK]
            drawn = self._base(table, part.size << len(how.factors)).reshape(-1, part.size)
            for z in how.factors:
                drawn = np.multiply(drawn[1::2], z, dtype=kind) + drawn[::2]
            part += drawn[0]

    def draw(self, count: int, deviation: float) -> Integers:
        """int64 [count] of `deviation` (grid units)."""
        drawn = np.zeros(count, np.int64)
        self.add_to(drawn, deviation)
        return drawn

    def dither(self, count: int) -> npt.NDArray[np.uint32]:
        """[count] whole numbers, uniform in [0, 2^DITHER_BITS), apart from the noise."""
        words: npt.NDArray[np.uint32] = self._dither.take(count, "<u4")
        return words >> np.uint32(32 - DITHER_BITS)

    def _base(self, table: _Table, count: int) -> npt.NDArray[np.int16]:
        prefix = self._prefixes.take(count, "<u2")
        drawn = np.empty(count, np.int16)
        np.take(table.cells, prefix, out=drawn, mode="wrap")  # every prefix is in range; wrap is the fast path
        open_ = np.flatnonzero(drawn == _OPEN)
        rest = self._rests.take(2 * open_.size, "<u8").reshape(-1, 2)
        drawn[open_] = table.resolve(prefix[open_], rest)
        return drawn


class _Words:
    """Little-endian words of one AES-256-CTR key stream, in order."""

    def __init__(self, key: bytes, use: bytes) -> None:
        own = hashlib.sha256(_TAG + use + b"\x00" + key).digest()
        self._stream: CipherContext = Cipher(algorithms.AES(own), modes.CTR(bytes(16))).encryptor()

    def take(self, count: int, dtype: str) -> npt.NDArray[Any]:
        size = count * np.dtype(dtype).itemsize
        return np.frombuffer(self._stream.update(bytes(size)), dtype)
