# SPDX-License-Identifier: Apache-2.0
"""How much noise each merchant adds when only the secure sum leaves: calibrated for the worst tolerated case.

Merchants send integers: clipped sums scaled by 2^scale_log2, rounded, plus discrete Gaussian noise of deviation
`share_deviation_grid`. Against the platform with `colluders` merchants only the noise of honest survivors counts:
cohort - dropouts - colluders of them at worst. Their sum is, up to a distance below e^-1000, a post-processing
of a continuous Gaussian of variance sum - ETA² (Peikert 2010; Kairouz et al. 2021, arXiv 2102.06387), so that
the accountant of the sampled Gaussian holds with `effective_noise_multiplier`.

Guarantees:
- with the worst tolerated drop-outs and colluders the effective noise multiplier is the plan's
- fewer survivors than tolerated are refused, never under-noised
- rounding to the grid is charged as sensitivity
"""

import math
from dataclasses import dataclass
from typing import Final

from privacy.errors import CalibrationError

__all__ = ["NoiseShare", "Tolerance", "check_survivors", "effective_noise_multiplier", "noise_share"]

ETA: Final = 8.0  # grid units given up to pass from the discrete to the continuous Gaussian


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Of `cohort` merchants at most `dropouts` fail to arrive and at most `colluders` tell all they know."""

    cohort: int
    dropouts: int
    colluders: int

    def __post_init__(self) -> None:
        if min(self.cohort - 1, self.dropouts, self.colluders) < 0 or self.honest_survivors < 1:
            raise CalibrationError(
                f"expected dropouts + colluders < cohort, all >= 0, found {self}; nobody honest would add noise"
            )

    @property
    def honest_survivors(self) -> int:
        """At least so many merchants' noise is in the sum and unknown to the adversary."""
        return self.cohort - self.dropouts - self.colluders


@dataclass(frozen=True, slots=True)
class NoiseShare:
    """What every merchant adds, in grid units of 2^-scale_log2. sensitivity_grid: one user's share of the sum."""

    deviation_grid: float
    sensitivity_grid: float
    tolerance: Tolerance


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
    deviation_grid = math.sqrt(needed / tolerance.honest_survivors)
    if deviation_grid < ETA:
        raise CalibrationError(
            f"a share of {deviation_grid:.3g} grid units is too coarse for the proof, expected at least {ETA:g}; "
            "raise scale_log2"
        )
    return NoiseShare(deviation_grid, sensitivity_grid, tolerance)


def effective_noise_multiplier(share: NoiseShare, honest_survivors: int) -> float:
    """Noise multiplier against an adversary who does not know the noise of `honest_survivors` merchants."""
    variance = share.deviation_grid**2 * honest_survivors - ETA**2
    return math.sqrt(variance) / share.sensitivity_grid if variance > 0 else 0.0


def check_survivors(share: NoiseShare, survivors: int) -> None:
    """Raises CalibrationError when more merchants dropped out than the noise was calibrated for."""
    least = share.tolerance.cohort - share.tolerance.dropouts
    if survivors < least:
        raise CalibrationError(
            f"expected at least {least} of {share.tolerance.cohort} merchants in the sum, found {survivors}: "
            "it would carry too little noise; give the round up and try again with those that are there"
        )
