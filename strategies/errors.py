# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a cohort and its strategy.

StrategyError
├── UnknownStrategy      the name or one of its options does not exist
├── NeedsSingleUpdates   the strategy must see every merchant's update, the cohort shows sums only
├── BadUpdate            one merchant's answer is not fit to be added (it is dropped, the round goes on)
└── CohortFailed         too few merchants survived the round
"""

LONGEST_REASON = 300


class StrategyError(Exception):
    """Base of all errors of this room."""


class UnknownStrategy(StrategyError):
    """The configured strategy or option does not exist."""


class NeedsSingleUpdates(StrategyError):
    """The strategy can't run over sums."""


class BadUpdate(StrategyError):
    """A merchant's answer has wrong names, shapes, dtypes, or values that are not finite or too large.

    Parts of the reason may be that merchant's own words: it is cut, and printable.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in reason[:LONGEST_REASON]))


class CohortFailed(StrategyError):
    """Fewer merchants than required answered well; the global model stays as it was."""

    def __init__(self, survivors: int, required: int, dropped: dict[int, str]) -> None:
        reasons = "; ".join(f"node {node}: {why}" for node, why in sorted(dropped.items())[:5])
        super().__init__(
            f"{survivors} merchants answered, {required} are required; dropped {len(dropped)}: {reasons or 'none'}"
        )
        self.survivors = survivors
        self.required = required
        self.dropped = dropped
