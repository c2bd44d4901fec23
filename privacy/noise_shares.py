# SPDX-License-Identifier: Apache-2.0
"""How much noise each merchant adds when only the secure sum leaves: calibrated for the worst tolerated case.

Merchants send integers: clipped sums scaled by 2^scale_log2, rounded, plus discrete Gaussian noise of deviation
`share_deviation_grid`. Against the platform with `colluders` merchants only the noise of honest survivors counts:
cohort - dropouts - colluders of them at worst. Their sum is, up to a distance below e^-600, a post-processing
of a continuous Gaussian of variance sum - ETA² (Peikert 2010; Kairouz et al. 2021, arXiv 2102.06387), so that
the accountant of the sampled Gaussian holds with `effective_noise_multiplier`.

Guarantees:
- with the worst tolerated drop-outs and colluders the effective noise multiplier is the plan's
- fewer survivors than tolerated are refused, never under-noised
- rounding to the grid is charged as sensitivity
- no sum of a whole cohort leaves the ring but with chance below 1e-30 a coordinate
"""

import math
from dataclasses import dataclass
from typing import Final

from privacy.discrete_gaussian import LOG2_DISTANCE
from privacy.errors import CalibrationError

__all__ = ["NoiseShare", "Sharing", "Tolerance", "check_survivors", "effective_noise_multiplier", "noise_share"]

ETA: Final = 8.0  # grid units given up to pass from the discrete to the continuous Gaussian
RING_BITS: Final = 32
TAIL: Final = 12.0  # deviations of summed noise that find room in the ring: 2 exp(-12² / 2) < 1e-30


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Of `cohort` merchants at most `dropouts` fail to arrive and at most `colluders` tell all they know."""

    cohort: int
    dropouts: int
    colluders: int

    def __post_init__(self) -> None:
        counts = (self.cohort, self.dropouts, self.colluders)
        if any(type(n) is not int or n < 0 for n in counts) or self.honest_survivors < 1:
            raise CalibrationError(
                f"expected dropouts + colluders < cohort, all whole and >= 0, found {self}; "
                "else nobody honest would add noise"
            )

    @property
    def honest_survivors(self) -> int:
        """At least so many merchants' noise is in the sum and unknown to the adversary."""
        return self.cohort - self.dropouts - self.colluders

    @property
    def least_survivors(self) -> int:
        """With fewer sums the round is given up."""
        return self.cohort - self.dropouts


@dataclass(frozen=True, slots=True)
class NoiseShare:
    """What every merchant adds, in grid units of 2^-scale_log2. sensitivity_grid: one user's share of the sum."""

    deviation_grid: float
    sensitivity_grid: float
    tolerance: Tolerance
    scale_log2: int

    @property
    def limit_grid(self) -> int:
        """Largest absolute coordinate that a merchant may send before noise; <= 0 when there is no room at all.

        Every share is sub-Gaussian with its deviation (Canonne et al. 2020, arXiv 2004.00010), and so is the sum.
        """
        cohort = self.tolerance.cohort
        room = 2 ** (RING_BITS - 1) - 1 - math.ceil(TAIL * math.sqrt(cohort) * self.deviation_grid)
        return int(room // cohort)

    @property
    def deviation(self) -> float:
        """What every merchant adds, in units of the update."""
        return self.deviation_grid * 2.0**-self.scale_log2

    @property
    def total_deviation(self) -> float:
        """Deviation of the whole cohort's noise, in units of the update: nobody dropped, nobody's noise known."""
        return math.sqrt(self.tolerance.cohort) * self.deviation


@dataclass(frozen=True, slots=True)
class Sharing:
    """What all merchants of a run agree on besides the plan's noise: tolerance, length of the vector, grid."""

    tolerance: Tolerance
    coordinates: int
    scale_log2: int

    def __post_init__(self) -> None:
        whole = type(self.coordinates) is int and type(self.scale_log2) is int
        if not (whole and self.coordinates >= 1 and 0 <= self.scale_log2 <= RING_BITS):
            raise CalibrationError(f"expected coordinates >= 1 and scale_log2 in 0..{RING_BITS}, found {self}")

    def share(self, noise_multiplier: float, clipping_norm: float) -> NoiseShare:
        """A release's share. CalibrationError: the grid is too coarse for the proof or too fine for the ring."""
        share = noise_share(noise_multiplier, clipping_norm, self.coordinates, self.scale_log2, self.tolerance)
        if share.limit_grid < 2.0**self.scale_log2 * clipping_norm:
            raise CalibrationError(
                f"scale_log2 {self.scale_log2} leaves no room in 2^{RING_BITS} for one user's {clipping_norm:g} "
                f"and the noise of {self.tolerance.cohort} merchants; lower scale_log2"
            )
        return share

    def check_draws(self, releases: int, epsilon: float, delta: float) -> None:
        """CalibrationError when the sampler's distance could cost more than `delta` over so many releases.

        What is (e, d)-private and t away from what is done makes the latter (e, d + (1 + exp(e)) t)-private.
        """
        log2_away = math.log2(self.coordinates * self.tolerance.cohort * max(releases, 1)) + LOG2_DISTANCE
        if log2_away + epsilon / math.log(2) + 1 > math.log2(delta):
            raise CalibrationError(
                f"epsilon {epsilon:g} is beyond what draws within 2^{LOG2_DISTANCE} of the exact noise allow at "
                f"delta {delta:g}; lower epsilon or use another mode"
            )


def noise_share(
    noise_multiplier: float, clipping_norm: float, coordinates: int, scale_log2: int, tolerance: Tolerance
) -> NoiseShare:
    """Each merchant's share so that the worst tolerated sum has `noise_multiplier` times its sensitivity.

    coordinates: how many one user's rounding may touch (at most the model's size). Rounding the merchant's sum
    with a dither that does not depend on data moves it by at most 1 per coordinate: sqrt(coordinates) in L2.
    """
    if not (0 < noise_multiplier < math.inf and 0 < clipping_norm < math.inf and coordinates >= 1):
        raise CalibrationError(
            "expected noise_multiplier and clipping_norm positive and finite and coordinates >= 1, found "
            f"{noise_multiplier}, {clipping_norm}, {coordinates}"
        )
    sensitivity_grid = 2.0**scale_log2 * clipping_norm + math.sqrt(coordinates)
    needed = (noise_multiplier * sensitivity_grid) ** 2 + ETA**2
    # The last factor: rounding of floats must not take noise away.
    deviation_grid = math.sqrt(needed / tolerance.honest_survivors) * (1 + 1e-12)
    if deviation_grid < ETA:
        raise CalibrationError(
            f"a share of {deviation_grid:.3g} grid units is too coarse for the proof, expected at least {ETA:g}; "
            "raise scale_log2"
        )
    return NoiseShare(deviation_grid, sensitivity_grid, tolerance, scale_log2)


def effective_noise_multiplier(share: NoiseShare, honest_survivors: int) -> float:
    """Noise multiplier against an adversary who does not know the noise of `honest_survivors` merchants."""
    variance = share.deviation_grid**2 * honest_survivors - ETA**2
    return math.sqrt(variance) / share.sensitivity_grid if variance > 0 else 0.0


def check_survivors(share: NoiseShare, survivors: int) -> None:
    """Raises CalibrationError when more merchants dropped out than calibrated for, or more take part."""
    if not share.tolerance.least_survivors <= survivors <= share.tolerance.cohort:
        raise CalibrationError(
            f"expected at least {share.tolerance.least_survivors} of {share.tolerance.cohort} merchants in the "
            f"sum, found {survivors}: neither noise nor ring are laid out for that; give the round up and try "
            "again with those that are there"
        )
