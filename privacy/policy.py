# SPDX-License-Identifier: Apache-2.0
"""The merchant's policy: what it allows, read from its own file, enforced by its own process.

Guarantees:
- a plan that could cost more than max_epsilon is refused before any training
- a mode, task, cohort or channel that the policy does not name is refused
- a vocabulary with items that fewer than min_carriers merchants carry is refused
- a policy file with an unknown key or a value out of range is refused whole
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from privacy.accountant import epsilon
from privacy.errors import OtherUnit, PolicyError, PolicyRefusal
from privacy.plan import Mode, PrivacyPlan, Unit
from privacy.secagg.vocabulary import DEFAULT_CARRIERS
from privacy.units import SHARED_NOISE, named

__all__ = ["Policy", "RoundRequest"]


@dataclass(frozen=True, slots=True)
class RoundRequest:
    """What the platform asks besides the plan. cohort_size counts the merchants asked, this one included."""

    task: str
    cohort_size: int
    secure_aggregation: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of one merchant. max_epsilon is for the life of its ledger, at `delta`, for `units` only.

    min_survivors and min_colluders are what a roster of secure aggregation must at least promise: over how many
    merchants a sum is opened, and how many of them may collude with the platform. min_carriers is how many
    merchants must carry an item for this one to train on it.
    """

    max_epsilon: float = 8.0
    delta: float = 1e-5
    min_cohort: int = 3
    min_survivors: int = 3
    min_colluders: int = 1
    min_carriers: int = DEFAULT_CARRIERS
    secure_aggregation_required: bool = True
    tasks: tuple[str, ...] = ("recommendation",)
    modes: tuple[str, ...] = (Mode.LOCAL.value, Mode.DISTRIBUTED.value)
    units: tuple[str, ...] = (Unit.USER_MERCHANT.value,)

    def __post_init__(self) -> None:
        problems = [text for text, good in self._conditions() if not good]
        if problems:
            raise PolicyError("the policy is not valid: " + "; ".join(problems))

    def _conditions(self) -> tuple[tuple[str, bool], ...]:
        def names(value: object, known: type[Mode] | type[Unit] | None) -> bool:
            return (
                isinstance(value, tuple)
                and len(value) > 0
                and all(isinstance(v, str) and v and (known is None or v in list(known)) for v in value)
            )

        return (
            (f"max_epsilon must be a number > 0, found {self.max_epsilon!r}", _number(self.max_epsilon)),
            (
                f"delta must lie in (0, 0.01], found {self.delta!r}",
                _number(self.delta) and self.delta <= 0.01,
            ),
            *(
                (f"{name} must be a whole number >= 1, found {value!r}", type(value) is int and value >= 1)
                for name, value in (
                    ("min_cohort", self.min_cohort),
                    ("min_survivors", self.min_survivors),
                    ("min_colluders", self.min_colluders),
                    ("min_carriers", self.min_carriers),
                )
            ),
            (
                f"secure_aggregation_required must be true or false, found {self.secure_aggregation_required!r}",
                type(self.secure_aggregation_required) is bool,
            ),
            (f"tasks must be a list of names, found {self.tasks!r}", names(self.tasks, None)),
            (f"modes must be of {[str(m) for m in Mode]}, found {self.modes!r}", names(self.modes, Mode)),
            (f"units must be of {[str(u) for u in Unit]}, found {self.units!r}", names(self.units, Unit)),
            (
                f"unit 'merchant' takes a ledger of its own: name it alone, found {self.units!r}",
                Unit.MERCHANT not in self.units or self.units == (Unit.MERCHANT,),
            ),
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Policy from plain data; raises PolicyError for unknown keys, wrong types and values out of range."""
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(data) - set(known)):
            raise PolicyError(f"the policy has no keys {unknown}; it has {known}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Policy from a TOML file; every error names the file."""
        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise PolicyError(f"{path}: cannot read the policy: {error.strerror}; write one first") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise PolicyError(f"{path}: expected TOML in UTF-8: {error}") from error
        try:
            return cls.from_dict(data)
        except PolicyError as error:
            raise PolicyError(f"{path}: {error}") from None

    def check(self, plan: PrivacyPlan, request: RoundRequest) -> None:
        """Nothing when the policy allows all of it, else PolicyRefusal with every reason in one line."""
        reasons = [text for text, good in self._limits(plan, request) if not good]
        if plan.private:
            cost = epsilon(plan.events, self.delta, plan.accountant)
            if cost > self.max_epsilon:
                reasons.append(
                    f"the plan costs epsilon {cost:.4g} at delta {self.delta:g}, allowed is {self.max_epsilon:g}"
                )
        if reasons:
            raise PolicyRefusal("refused by this merchant's policy: " + "; ".join(reasons))

    def check_booked(self, unit: Unit, merchants_per_user: int) -> None:
        """Nothing when a ledger kept for this unit can go on under the policy, else OtherUnit."""
        if unit not in self.units:
            raise OtherUnit(
                f"units = {list(self.units)} in the policy, but the ledger was kept for unit "
                f"{named(unit, merchants_per_user)}, whose epsilon says nothing of them: every plan is refused. "
                f'Name "{unit}" again, or keep a home and ledger of its own for the other unit'
            )

    def check_vocabulary(self, carriers: int) -> None:
        """Nothing when a vocabulary of what `carriers` merchants carry is allowed (0: nobody counted)."""
        if carriers < self.min_carriers:
            raise PolicyRefusal(
                f"refused by this merchant's policy: the vocabulary holds items of {carriers} merchants, at least "
                f"{self.min_carriers} must carry each"
            )

    def _limits(self, plan: PrivacyPlan, request: RoundRequest) -> tuple[tuple[str, bool], ...]:
        return (
            (f"mode {str(plan.mode)!r} is not among {list(self.modes)}", plan.mode in self.modes),
            (f"unit {str(plan.unit)!r} is not among {list(self.units)}", plan.unit in self.units),
            (f"task {request.task!r} is not among {list(self.tasks)}", request.task in self.tasks),
            (
                f"the cohort has {request.cohort_size} merchants, at least {self.min_cohort} are required",
                request.cohort_size >= self.min_cohort,
            ),
            (
                f"in mode {str(plan.mode)!r} a single answer carries too little noise to leave without a mask",
                request.secure_aggregation or plan.mode not in SHARED_NOISE,
            ),
            (
                "secure aggregation is required and was not offered",
                request.secure_aggregation or not self.secure_aggregation_required,
            ),
        )


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
