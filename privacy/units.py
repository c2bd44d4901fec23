# SPDX-License-Identifier: Apache-2.0
"""Modes and units of privacy: who adds noise, and what two neighbouring leagues differ by."""

from enum import StrEnum
from typing import Final

from privacy.errors import CalibrationError

__all__ = ["SHARED_NOISE", "Mode", "Unit", "mode_of", "named", "unit_of"]


class Mode(StrEnum):
    """Who adds noise, and whom it protects against."""

    NONE = "none"
    LOCAL = "local"
    DISTRIBUTED = "distributed"
    MERCHANT = "merchant"


SHARED_NOISE: Final = (Mode.DISTRIBUTED, Mode.MERCHANT)
"""Modes in which a merchant adds a share of the noise, so that its answer leaves under a mask or not at all."""


class Unit(StrEnum):
    """What is added or removed between two neighbouring leagues."""

    USER_MERCHANT = "user_merchant"  # one user inside one merchant
    HOME_USER = "home_user"  # one user, whose events count at their home merchant only
    MERCHANT = "merchant"  # one merchant, all its data
    USER_K = "user_k"  # one user, who shops at no more than merchants_per_user merchants


def mode_of(value: Mode | str) -> Mode:
    """The mode of that name; raises CalibrationError."""
    try:
        return Mode(value)
    except ValueError:
        raise CalibrationError(f"mode must be one of {[str(m) for m in Mode]}, found {value!r}") from None


def unit_of(value: Unit | str, merchants: int) -> Unit:
    """The unit of that name, for users of so many merchants; raises CalibrationError."""
    try:
        unit = Unit(value)
    except ValueError:
        raise CalibrationError(f"unit must be one of {[str(u) for u in Unit]}, found {value!r}") from None
    if isinstance(merchants, bool) or not isinstance(merchants, int) or merchants < 1:
        raise CalibrationError(f"merchants_per_user must be a whole number >= 1, found {merchants!r}")
    if (unit is Unit.USER_K) != (merchants > 1):
        raise CalibrationError(
            f"unit {str(unit)!r} with merchants_per_user {merchants}: "
            "give merchants_per_user >= 2 with unit user_k, and 1 with every other unit"
        )
    return unit


def named(unit: Unit, merchants_per_user: int) -> str:
    """The unit's name, with how many merchants a user of it has where that counts."""
    return f"{unit.value}, k = {merchants_per_user}" if unit is Unit.USER_K else unit.value
