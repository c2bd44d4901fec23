# SPDX-License-Identifier: Apache-2.0
"""Numbers to ring elements and back: fixed point in Z/2^32, exact integers and metrics in Z/2^64.

Floats go to the 32-bit body on a grid of 2^-scale_log2, rounded up or down at random with a dither that is
drawn independently of the data, so that the expected value is the number itself. Integers, counters, the weight
and metrics go to the 64-bit tail: integers exactly, metrics on a grid of 2^-24.

Guarantees:
- the decoded sum is the sum of the quantised inputs bit for bit
- NaN, infinite and out-of-range values are refused, never clipped
- no sum of a whole cohort leaves the ring
- dtypes and shapes come back

Assumes that all parties hold the same plan; its digest is in the context of the secure round.
"""

import importlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from privacy.secagg import tags, wire
from privacy.secagg.errors import ValueRefused
from privacy.secagg.masks import Vector
from privacy.secagg.roster import Roster

BLOCK: Final = 1 << 14
METRIC_SCALE: Final = 2.0**24
DITHER_BITS: Final = 24
_FLOATS: Final = ("float16", "float32", "float64", "bfloat16", "bfloat16-bits")
_INTEGERS: Final = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))

Array = npt.NDArray[Any]
Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array: `dtype` is numpy's name, or "bfloat16-bits" for bfloat16 held as uint16."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in _FLOATS


@dataclass(frozen=True)
class VectorPlan:
    """What a vector means. `cohort` is the largest number of summands, `bound` the largest absolute weighted
    float, `weight_bound` the largest weight. Raises ValueRefused when a sum could leave the ring."""

    purpose: str
    arrays: tuple[ArraySpec, ...]
    counters: tuple[str, ...]
    metrics: tuple[str, ...]
    bound: float
    scale_log2: int
    cohort: int
    weight_bound: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound > 0 and self.cohort >= 1 and self.weight_bound >= 1):
            raise ValueRefused("expected bound > 0, cohort >= 1 and weight_bound >= 1")
        if self.cohort * (self.bound * 2.0**self.scale_log2 + 1) >= 2.0**31:
            raise ValueRefused(
                f"{self.cohort} values of up to {self.bound} at scale 2^{self.scale_log2} can wrap around 2^32; "
                "lower the bound or the scale"
            )
        for spec in self.arrays:
            if spec.dtype not in _FLOATS + _INTEGERS:
                raise ValueRefused(f"{spec.name}: dtype {spec.dtype} can't be aggregated")

    @property
    def d(self) -> int:
        """Words of 32 bits."""
        return sum(spec.size for spec in self.arrays if spec.is_float)

    @property
    def e(self) -> int:
        """Words of 64 bits: weight, counters, metrics, integer arrays."""
        integers = sum(spec.size for spec in self.arrays if not spec.is_float)
        return 1 + len(self.counters) + len(self.metrics) + integers

    @property
    def integer_bound(self) -> int:
        """The largest absolute value of a 64-bit word."""
        return ((1 << 63) - 1) // self.cohort

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over every field: what the parties agree on, 32 bytes."""
        parts = [tags.PLAN, _text(self.purpose), wire.u32(len(self.arrays))]
        for spec in self.arrays:
            parts += [_text(spec.name), _text(spec.dtype), wire.u32(len(spec.shape))]
            parts += [wire.u64(length) for length in spec.shape]
        for names in (self.counters, self.metrics):
            parts += [wire.u32(len(names)), *(_text(name) for name in names)]
        numbers = (
            wire.f64(self.bound),
            wire.u8(self.scale_log2),
            wire.u16(self.cohort),
            wire.u64(self.weight_bound),
        )
        return tags.digest(*parts, *numbers)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the survivors: floats as float64, integers as int64, in the arrays' shapes."""

    arrays: dict[str, Array]
    counters: dict[str, int]
    metrics: dict[str, float]
    weight: int


def plan_for(
    roster: Roster,
    purpose: str,
    arrays: Mapping[str, Array],
    *,
    counters: Sequence[str] = (),
    metrics: Sequence[str] = (),
    weight_bound: int = 1,
    bfloat16_bits: Sequence[str] = (),
) -> VectorPlan:
    """A plan for arrays like these, with the roster's scale and bound; `bfloat16_bits` names uint16 views."""
    specs = []
    for name in sorted(arrays):
        dtype = "bfloat16-bits" if name in bfloat16_bits else arrays[name].dtype.name
        specs.append(ArraySpec(name, tuple(arrays[name].shape), dtype))
    return VectorPlan(
        *(purpose, tuple(specs), tuple(sorted(counters)), tuple(sorted(metrics))),
        *(roster.bound, roster.scale_log2, len(roster.members), weight_bound),
    )


def quantise(
    plan: VectorPlan,
    arrays: Mapping[str, Array],
    *,
    counters: Mapping[str, int] | None = None,
    metrics: Mapping[str, float] | None = None,
    weight: int = 1,
    entropy: Entropy = os.urandom,
) -> Vector:
    """The vector of this merchant. Floats are multiplied by weight / weight_bound first; integers are not.

    Raises ValueRefused, naming the array, for NaN, infinite or out-of-range values, other names, shapes or dtypes.
    """
    counters, metrics = counters or {}, metrics or {}
    _check_names(plan, arrays, counters, metrics)
    if not 1 <= weight <= plan.weight_bound:
        raise ValueRefused(f"expected a weight of 1 to {plan.weight_bound}, found {weight}")
    vector = Vector.zeros(plan.d, plan.e)
    dither = Cipher(AES(entropy(tags.KEY_SIZE)), CTR(bytes(16))).encryptor()
    body = vector.body.view("<i4")
    tail = vector.tail.view("<i8")
    tail[0] = weight
    for k, name in enumerate(plan.counters):
        tail[1 + k] = _integer(plan, name, counters[name])
    for k, name in enumerate(plan.metrics):
        tail[1 + len(plan.counters) + k] = _metric(plan, name, metrics[name])
    at, at_tail = 0, 1 + len(plan.counters) + len(plan.metrics)
    factor = 2.0**plan.scale_log2 * weight / plan.weight_bound
    for spec in plan.arrays:
        flat = _flat(spec, arrays[spec.name])
        if spec.is_float:
            _round(plan, spec, flat, factor, dither, body[at : at + spec.size])
            at += spec.size
        else:
            tail[at_tail : at_tail + spec.size] = _integers(plan, spec, flat)
            at_tail += spec.size
    return vector


def totals(plan: VectorPlan, vector: Vector) -> Totals:
    """The sums that a vector (one merchant's or a sum's) stands for. Floats are Σ weight · x / weight_bound."""
    if (vector.body.size, vector.tail.size) != (plan.d, plan.e):
        found = f"{vector.body.size} + {vector.tail.size}"
        raise ValueRefused(f"expected {plan.d} + {plan.e} words, found {found}")
    body, tail = vector.body.view("<i4"), vector.tail.view("<i8")
    step = 2.0**-plan.scale_log2
    first = 1 + len(plan.counters)
    at, at_tail = 0, first + len(plan.metrics)
    arrays: dict[str, Array] = {}
    for spec in plan.arrays:
        if spec.is_float:
            arrays[spec.name] = (body[at : at + spec.size] * step).reshape(spec.shape)
            at += spec.size
        else:
            arrays[spec.name] = tail[at_tail : at_tail + spec.size].astype(np.int64).reshape(spec.shape)
            at_tail += spec.size
    counters = {name: int(tail[1 + k]) for k, name in enumerate(plan.counters)}
    metrics = {name: float(tail[first + k]) / METRIC_SCALE for k, name in enumerate(plan.metrics)}
    return Totals(arrays, counters, metrics, int(tail[0]))


def mean(plan: VectorPlan, vector: Vector, contributors: int) -> dict[str, Array]:
    """Weighted means of floats, plain means of integers (rounded to even), in the arrays' dtypes and shapes.

    `contributors` is the number of survivors. The error of a float is below
    contributors · weight_bound · 2^-scale_log2 / Σ weights, plus the rounding of its dtype.
    """
    sums = totals(plan, vector)
    if contributors < 1 or sums.weight < contributors:
        raise ValueRefused(f"expected at least one contributor of weight 1 each, found weight {sums.weight}")
    means = {}
    for spec in plan.arrays:
        total = sums.arrays[spec.name]
        if spec.is_float:
            means[spec.name] = _restore(spec, total * (plan.weight_bound / sums.weight))
        else:
            means[spec.name] = np.rint(total / contributors).astype(spec.dtype)
    return means


def _round(
    plan: VectorPlan,
    spec: ArraySpec,
    flat: Array,
    factor: float,
    dither: CipherContext,
    out: npt.NDArray[np.int32],
) -> None:
    """Stochastic rounding: up with the probability of the fraction, for a dither that never looks at the data."""
    kind: type[np.float64 | np.float32] = np.float64 if flat.dtype == np.float64 else np.float32
    limit = plan.bound * 2.0**plan.scale_log2
    bits = np.empty(BLOCK + 8, "<u4")
    raw, zeros = bits.view(np.uint8).data, bytes(4 * BLOCK)
    scaled, low, share = np.empty(BLOCK, kind), np.empty(BLOCK, kind), np.empty(BLOCK, np.float32)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        n = block.size
        x, floor, u = scaled[:n], low[:n], share[:n]
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(_widen(spec, block), kind(factor), out=x)
        if not (x.max() <= limit and x.min() >= -limit):
            raise ValueRefused(_range_problem(plan, spec, x))
        dither.update_into(zeros[: 4 * n], raw)
        np.right_shift(bits[:n], 32 - DITHER_BITS, out=bits[:n])
        np.multiply(bits[:n].view("<i4"), np.float32(2.0**-DITHER_BITS), out=u)
        np.floor(x, out=floor)
        np.subtract(x, floor, out=x)
        np.add(floor, np.less(u, x), out=floor)
        np.copyto(out[start : start + n], floor, casting="unsafe")


def _range_problem(plan: VectorPlan, spec: ArraySpec, x: Array) -> str:
    if not np.isfinite(x).all():
        return f"{spec.name}: found NaN or infinity; the update is broken, check the training"
    return f"{spec.name}: found a weighted value above the bound {plan.bound}; clip the update or raise the bound"


def _widen(spec: ArraySpec, block: Array) -> Array:
    if spec.dtype in ("bfloat16", "bfloat16-bits"):
        widened: Array = (block.astype(np.uint32) << 16).view(np.float32)
        return widened
    return block


def _restore(spec: ArraySpec, values: Array) -> Array:
    """float64 to the array's own dtype, to nearest even."""
    if spec.dtype not in ("bfloat16", "bfloat16-bits"):
        return values.astype(spec.dtype)
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded: Array = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    if spec.dtype == "bfloat16-bits":
        return rounded
    return rounded.view(np.dtype(importlib.import_module("ml_dtypes").bfloat16))


def _flat(spec: ArraySpec, array: Array) -> Array:
    dtype = "bfloat16-bits" if spec.dtype == "bfloat16-bits" and array.dtype == np.uint16 else array.dtype.name
    if tuple(array.shape) != spec.shape or dtype != spec.dtype:
        raise ValueRefused(f"{spec.name}: expected {spec.dtype} {spec.shape}, found {dtype} {tuple(array.shape)}")
    flat: Array = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint16) if dtype == "bfloat16" else flat


def _integers(plan: VectorPlan, spec: ArraySpec, flat: Array) -> Array:
    if flat.size and not (int(flat.max()) <= plan.integer_bound and int(flat.min()) >= -plan.integer_bound):
        raise ValueRefused(f"{spec.name}: found an integer beyond {plan.integer_bound}; the sum could wrap")
    return flat.astype(np.int64)


def _integer(plan: VectorPlan, name: str, value: int) -> int:
    if not isinstance(value, int) or abs(value) > plan.integer_bound:
        raise ValueRefused(f"counter {name}: expected an integer within {plan.integer_bound}, found {value!r}")
    return value


def _metric(plan: VectorPlan, name: str, value: float) -> int:
    if not (math.isfinite(value) and abs(value) * METRIC_SCALE <= plan.integer_bound):
        limit = plan.integer_bound / METRIC_SCALE
        raise ValueRefused(f"metric {name}: expected a finite number within {limit:.0f}, found {value!r}")
    return round(value * METRIC_SCALE)


def _check_names(plan: VectorPlan, *given: Mapping[str, object]) -> None:
    expected = {spec.name for spec in plan.arrays}, set(plan.counters), set(plan.metrics)
    for kind, want, found in zip(("arrays", "counters", "metrics"), expected, given, strict=True):
        if want != set(found):
            raise ValueRefused(
                f"{kind}: missing {sorted(want - set(found))}, not in the plan {sorted(set(found) - want)}"
            )


def _text(value: str) -> bytes:
    raw = value.encode()
    return wire.u32(len(raw)) + raw
