# SPDX-License-Identifier: Apache-2.0
"""The guarantee in words: who is protected, against whom, by how much, and what is not covered.

The unit is always named in full: "user-level" alone means three different things in a league of merchants.
"""

import math
from typing import Final

from privacy.noise_shares import Tolerance

__all__ = ["adversary", "not_protected", "statement", "unit_words"]

_UNITS: Final = {
    "user_merchant": "one user inside one merchant (all events of that user there)",
    "home_user": "one user, whose events are used at their home merchant only",
    "merchant": "one merchant (all its data; that it takes part is known)",
    "user_k": "one user of at most {k} merchants (all events of that user at all of them together)",
}
_SUMS_ONLY: Final = (
    "the platform together with at most {colluders} of the {cohort} merchants of a roster, and whoever gets a "
    "release, as far as secure aggregation holds"
)
_ADVERSARIES: Final = {
    "local": "everybody outside the merchant: platform, all other merchants together, whoever gets a release",
    "distributed": _SUMS_ONLY,
    "merchant": _SUMS_ONLY,
}
_SHARES: Final = (
    "Each merchant adds a share of the noise; a round in which the sums of fewer than {least} of the {cohort} "
    "merchants of a roster arrive fails there and releases nothing."
)
_SHARED: Final = (
    "Against the platform together with more than {colluders} merchants: each further one takes its share of the "
    "noise away.",
    "Merchants that add less noise than planned, or none: they count among the {colluders} that are tolerated.",
    "A break of secure aggregation: a single merchant's sum carries its share of the noise only.",
)
_SAMPLED: Final = (
    "Users whose merchant lets others know who was drawn in a step: the epsilon counts on that being secret."
)
_NEVER: Final = (
    "What a merchant's own insiders, or whoever breaks into a merchant's machine, do with that merchant's data.",
    "Side channels on the merchant's machine (timing, power, memory) and the size and time of its traffic.",
    "That a merchant takes part, and how many users it roughly has.",
    "What is true of users in general: the model may teach that buyers of bread buy butter, of users in the data "
    "or not.",
    "The researcher's evaluation figures in report.html and results.json (simulation only): they are exact.",
    "Which items a merchant sells: the vocabulary's count of merchants is exact, one user's purchase may tip it.",
    "Choices made by looking at the data outside this plan, such as hyper-parameters tuned on real users.",
)
_BY_UNIT: Final = {
    "user_merchant": "A user who shops at several merchants: their losses add up over the merchants, and together "
    "exceed the epsilon that is stated here.",
    "home_user": "A user whose home merchant was assigned wrongly or twice.",
    "merchant": "One change inside a merchant's data, such as one of its users: the epsilon compares all its data "
    "with none, and two versions of its data may be twice as far apart.",
    "user_k": "A user of more than {k} merchants.",
}


def unit_words(unit: str, merchants_per_user: int | str) -> str:
    """Whom the unit means, in words."""
    return _UNITS[unit].format(k=merchants_per_user)


def adversary(mode: str, tolerance: Tolerance | None = None) -> str:
    """Against whom. `tolerance` belongs to the modes that share noise."""
    return "nobody" if mode == "none" else _ADVERSARIES[mode].format(**_numbers(tolerance))


def statement(
    mode: str,
    unit: str,
    epsilon: float,
    delta: float,
    rounds: int,
    steps: int,
    merchants_per_user: int,
    tolerance: Tolerance | None = None,
) -> str:
    """Three or four sentences for card, report and ledger."""
    if mode == "none":
        return (
            "No differential privacy: updates are computed without clipping and noise, "
            "and may reveal single events of single users to whoever sees them."
        )
    shown = "inf" if math.isinf(epsilon) else f"{math.ceil(epsilon * 1000) / 1000:g}"
    trained = "" if mode == "merchant" else f" with {steps} training steps"
    shares = f" {_SHARES.format(**_numbers(tolerance))}" if tolerance else ""
    return (
        f"({shown}, {delta:g})-differential privacy for {unit_words(unit, merchants_per_user)}, "
        f"against {adversary(mode, tolerance)}.{shares} "
        f"The epsilon is the total over {rounds} rounds{trained} and every other release that "
        "depends on users (popularity, quality gate); the shared vocabulary is taken as given. Neighbouring data "
        "differ by adding or removing the unit."
    )


def not_protected(
    mode: str, unit: str, merchants_per_user: int = 1, tolerance: Tolerance | None = None
) -> tuple[str, ...]:
    """What the guarantee does not cover, one sentence each."""
    if mode == "none":
        return (
            "Nothing is protected by noise in this mode: use it for public data and comparisons.",
            *_NEVER,
        )
    shares = tuple(line.format(**_numbers(tolerance)) for line in _SHARED) if tolerance else ()
    sampled = (_SAMPLED,) if mode == "distributed" else ()
    return (_BY_UNIT[unit].format(k=merchants_per_user), *shares, *sampled, *_NEVER)


def _numbers(tolerance: Tolerance | None) -> dict[str, int]:
    if tolerance is None:
        return {}
    return {
        "cohort": tolerance.cohort,
        "colluders": tolerance.colluders,
        "least": tolerance.least_survivors,
    }
