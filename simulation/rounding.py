# SPDX-License-Identifier: Apache-2.0
"""Figures as text, rounded towards the side that does not flatter us, the same in every table and sentence.

Guarantees:
- no figure is rounded in our favour
- delta is never shown smaller than it is

`nearest` alone is neutral: it is for a value that stands beside others of its kind.
"""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

from simulation.measured import Estimate, Uplift


def down(value: float, digits: int = 4) -> str:
    """Rounded towards minus infinity: an advantage never looks larger than it is."""
    return _rounded(value, digits, ROUND_FLOOR)


def up(value: float, digits: int = 4) -> str:
    """Rounded towards plus infinity: a cost, an ε or a width never looks smaller than it is."""
    return _rounded(value, digits, ROUND_CEILING)


def nearest(value: float, digits: int = 4) -> str:
    """Rounded to the nearest, for a value that stands beside others of its kind in a table."""
    return _rounded(value, digits, ROUND_HALF_EVEN)


def signed(value: float, digits: int = 4) -> str:
    """`down` with its sign: `+0.0013`, `−0.0008`, `0.0000`."""
    rounded = down(value, digits)
    return rounded if rounded.startswith("−") or not float(rounded) else f"+{rounded}"


def percent(fraction: float) -> str:
    """A share or ratio, rounded down: `98.4%`."""
    return f"{down(100.0 * fraction, 1)}%"


def better_off(uplift: Uplift) -> str:
    """How many merchants a method serves better than their own model does: `82 of 111`; empty where unknown."""
    if uplift.merchants:
        return f"{sum(m.difference > 0.0 for m in uplift.merchants)} of {len(uplift.merchants)}"
    return "" if uplift.share_better is None else percent(uplift.share_better)


def scientific(value: float) -> str:
    """A δ, rounded up to two significant digits: `1e-5`, `1.3e-6`."""
    if value <= 0.0:
        return "0"
    exponent = math.floor(math.log10(value) + 1e-12)
    digits = up(value / 10.0**exponent, 1).removesuffix(".0")
    return f"{digits}e{exponent}" if digits != "10" else f"1e{exponent + 1}"


def interval(estimate: Estimate, digits: int = 4) -> str:
    """`0.0569 to 0.0642`, rounded outwards; empty where no interval was measured."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{down(estimate.low, digits)} to {up(estimate.high, digits)}"


def _rounded(value: float, digits: int, rounding: str) -> str:
    # Twelve digits first: 0.0602 − 0.0588 is 0.00139999… in binary and means 0.0014.
    exact = Decimal(f"{value:.12g}").quantize(Decimal(1).scaleb(-digits), rounding=rounding)
    return f"{abs(exact)}" if not exact else f"{exact}".replace("-", "−")
