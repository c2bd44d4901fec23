# SPDX-License-Identifier: Apache-2.0
"""What a privacy plan's own fields must be; each check raises CalibrationError with what it found."""

import math
from typing import TYPE_CHECKING

from privacy.errors import CalibrationError
from privacy.units import Mode, Unit

if TYPE_CHECKING:
    from privacy.plan import PrivacyPlan

__all__ = ["check_ranges", "check_whole_merchants"]


def check_ranges(plan: "PrivacyPlan") -> None:
    """That every number of the plan lies where it must."""
    norms = (plan.clipping_norm, plan.popularity_clipping_norm, plan.gate_clipping_norm)
    noises = (plan.noise_multiplier, plan.popularity_noise_multiplier, plan.gate_noise_multiplier)
    counts = (plan.rounds, plan.steps_per_round)
    steering = (plan.clipping_quantile, plan.clipping_share)
    for what, found, good in (
        ("delta must lie in (0, 1)", plan.delta, isinstance(plan.delta, float) and 0 < plan.delta < 1),
        ("sampling_rate must lie in (0, 1]", plan.sampling_rate, 0 < plan.sampling_rate <= 1),
        ("clipping norms must be positive and finite", norms, all(0 < n < math.inf for n in norms)),
        ("noise multipliers must be >= 0 and finite", noises, all(0 <= n < math.inf for n in noises)),
        (
            "rounds and steps_per_round must be whole and >= 0",
            counts,
            all(type(n) is int and n >= 0 for n in counts),
        ),
        (
            "clipping_quantile and clipping_share lie in (0, 1) together, or are both 0",
            steering,
            plan.clipping_quantile == plan.clipping_share == 0
            or (0 < plan.clipping_quantile < 1 and 0 < plan.clipping_share < 1),
        ),
        ("accountant must be prv or rdp", plan.accountant, plan.accountant in ("prv", "rdp")),
    ):
        if not good:
            raise CalibrationError(f"{what}; found {found}")


def check_whole_merchants(plan: "PrivacyPlan") -> None:
    """That mode `merchant` and its unit come together, and promise what this mode can hold."""
    if (plan.mode is Mode.MERCHANT) != (plan.unit is Unit.MERCHANT):
        raise CalibrationError(
            f"mode {str(plan.mode)!r} with unit {str(plan.unit)!r}: mode merchant protects the unit merchant and "
            "no other mode does"
        )
    if plan.mode is not Mode.MERCHANT:
        return
    for what, good in (
        ("no gate: set gate_share=0", not plan.gate_noise_multiplier),
        ("no sampling, as the platform knows the cohort: set sampling_rate=1", plan.sampling_rate == 1),
        ("no adaptive clipping: set clipping_quantile=0", not plan.clipping_quantile),
    ):
        if not good:
            raise CalibrationError(f"mode merchant has {what}")
