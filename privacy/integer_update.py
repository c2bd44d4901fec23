# SPDX-License-Identifier: Apache-2.0
"""A clipped sum as integers with its share of the noise, for a secure sum; and the mean back out of that sum.

    ClippedUpdate ── scale, bound, round, add share ──▶ IntegerUpdate ──mask, sum──▶ words ── mean ──▶ Aggregate

y = floor(x 2^scale_log2 + u) with a dither u in [0, 1) that is drawn without looking at x, in whole numbers.
Before, every coordinate is bounded to the plan's room in the ring: that moves no two sums apart, so it costs no
privacy and needs no refusal, which would itself tell something. What is masked is y + share modulo 2^32.

Guarantees:
- for every dither one user moves the integers by at most s C + sqrt(d) in L2, bounded or not
- a count of users within the norm adds what the plan's joint norm holds, and no more
- the summed noise of n merchants has n times a share's variance, whoever drops out
- a sum with fewer survivors than tolerated is refused

Assumes that the clipped sum is the exact sum; the rounding of its float32 arithmetic is not charged.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privacy.adaptive_clipping import count_weight
from privacy.discrete_gaussian import DITHER_BITS, DiscreteGaussianStream
from privacy.errors import CalibrationError, NoiseError
from privacy.noise_shares import NoiseShare, check_survivors
from privacy.plan import PrivacyPlan
from privacy.secagg.roster import Roster
from privacy.stages import Aggregate, ClippedUpdate, IntegerUpdate

__all__ = ["check_roster", "integer_sums", "integer_update", "mean", "plan_digest", "released_sum", "rounded"]

_CHUNK: Final = 1 << 14
_TAG: Final = b"hansa.privacy.integer_update/1/plan\x00"

Words = npt.NDArray[np.uint32]


def integer_update(clipped: ClippedUpdate, plan: PrivacyPlan, stream: DiscreteGaussianStream) -> IntegerUpdate:
    """One training step's contribution: all parameters in the order of their sorted names, flat.

    Where clipping adapts, the last number counts the users within the norm. Raises NoiseError where clipping norm
    or length are not the plan's or the sum is not finite.
    """
    _check_norm(clipped.clipping_norm, plan.clipping_norm)
    parts = [clipped.tensor(name).detach().cpu().numpy().ravel() for name in clipped.names]
    if plan.clipping_quantile:
        within_B = clipped.norms_B <= clipped.clipping_norm
        centred = 2 * int(within_B.sum()) - len(within_B)
        parts.append(np.array([centred * count_weight(plan.clipping_norm, plan.clipping_share)], np.float32))
    return _protected(np.concatenate(parts), plan, "training", stream)


def integer_sums(
    values: npt.NDArray[Any], plan: PrivacyPlan, family: str, stream: DiscreteGaussianStream
) -> IntegerUpdate:
    """As `integer_update` for the release `popularity` or `gate`: float [d], a sum clipped to the plan's norm."""
    return _protected(np.ravel(values), plan, family, stream)


def _protected(
    values: npt.NDArray[Any], plan: PrivacyPlan, family: str, stream: DiscreteGaussianStream
) -> IntegerUpdate:
    share = plan.share(family)
    if not 1 <= values.size <= plan.coordinates:
        raise NoiseError(f"expected 1 to {plan.coordinates} coordinates, as in the plan, found {values.size}")
    if not np.isfinite(values).all():
        raise NoiseError(f"{family}: found NaN or infinity in the clipped sum; the training is broken")
    total = rounded(values, share, stream)
    stream.add_to(total, share.deviation_grid)
    return IntegerUpdate(total.astype(np.uint32), share, stream.label)


def rounded(values: npt.NDArray[Any], share: NoiseShare, stream: DiscreteGaussianStream) -> npt.NDArray[np.int64]:
    """int64 [d]: finite float [d] bounded to the share's room and rounded with the stream's dither, without noise.

    For every fixed dither each coordinate is a non-decreasing step function with steps of 1 that are 1 apart in
    x 2^scale_log2, so that two sums come apart by less than their distance on the grid plus 1.
    """
    limit, fine = share.limit_grid * 2.0**-share.scale_log2, 2.0 ** (share.scale_log2 + DITHER_BITS)
    out = np.empty(values.size, np.int64)
    for start in range(0, values.size, _CHUNK):
        part = values[start : start + _CHUNK].astype(np.float64)
        np.clip(part, -limit, limit, out=part)
        part *= fine  # exact: a power of two
        # floor((floor(x 2^24) + U) / 2^24) = floor(x + U / 2^24): whole numbers from here on.
        exact = np.floor(part, out=part).astype(np.int64)
        exact += stream.dither(part.size)
        np.right_shift(exact, DITHER_BITS, out=out[start : start + _CHUNK])
    return out


def released_sum(words: Words, share: NoiseShare, survivors: int) -> npt.NDArray[np.float64]:
    """float64 [d], in units of the update: what the sum modulo 2^32 of `survivors` merchants' words stands for.

    Raises CalibrationError when so few survived that the noise would be too little.
    """
    check_survivors(share, survivors)
    if words.dtype != np.uint32 or words.ndim != 1:
        raise NoiseError(f"expected uint32 [d], found {words.dtype} of {words.ndim} dimensions")
    return words.view(np.int32) * np.float64(2.0**-share.scale_log2)


def mean(
    released: npt.NDArray[np.float64],
    survivors: int,
    shapes: Mapping[str, tuple[int, ...]],
    expected_users: float,
) -> Aggregate:
    """A released sum divided by the public number of users that a step draws, float32, by name.

    expected_users: sampling rate times the league's users, a constant that nobody's data changes: the drawn number
    would tell who was drawn. Raises NoiseError when the shapes don't add up.
    """
    if not 0 < expected_users < math.inf:
        raise NoiseError(f"expected_users must be positive and finite, found {expected_users}")
    sizes = [math.prod(shapes[name]) for name in sorted(shapes)]
    if sum(sizes) != released.size:
        raise NoiseError(f"expected {sum(sizes)} words for the shapes, found {released.size}")
    values = (released / expected_users).astype(np.float32)
    parts = np.split(values, np.cumsum(sizes)[:-1])
    named = {name: part.reshape(shapes[name]) for name, part in zip(sorted(shapes), parts, strict=True)}
    return Aggregate(named, survivors)


def check_roster(plan: PrivacyPlan, roster: Roster) -> None:
    """Raises CalibrationError where the league's roster promises less than the plan counts on."""
    if plan.sharing is None:
        raise CalibrationError(f"mode {str(plan.mode)!r} shares no noise and needs no roster")
    tolerance = plan.sharing.tolerance
    for what, good in (
        (f"at most {tolerance.cohort} members", len(roster.members) <= tolerance.cohort),
        (f"min_survivors >= {tolerance.least_survivors}", roster.min_survivors >= tolerance.least_survivors),
        (f"colluders <= {tolerance.colluders}", roster.colluders <= tolerance.colluders),
        (f"scale_log2 {plan.scale_log2}", roster.scale_log2 == plan.scale_log2),
        (f"max_words >= {plan.coordinates}", roster.max_words >= plan.coordinates),
    ):
        if not good:
            raise CalibrationError(f"the plan counts on a roster with {what}; make another plan or another roster")


def plan_digest(plan: PrivacyPlan, family: str, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """32 bytes for `RoundTerms`: masks cancel only among merchants who hold the same plan, release and shapes."""
    meant = [plan.to_dict(), family, sorted((name, list(shape)) for name, shape in shapes.items())]
    return hashlib.sha256(_TAG + json.dumps(meant, sort_keys=True).encode()).digest()


def _check_norm(found: float, expected: float) -> None:
    if found != expected:
        raise NoiseError(f"expected a sum clipped to the plan's {expected:g}, found {found:g}")
