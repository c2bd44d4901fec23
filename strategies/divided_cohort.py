# SPDX-License-Identifier: Apache-2.0
"""The cohort of a league of several rosters: one sum of secure aggregation for each, and their sum.

A roster has its own thresholds, set-up and numbers; the platform opens each sum and adds them up. Which node sits
in which roster shows in the set-ups: a node of no known roster is asked by all until one knows it.

Guarantees:
- What is added are the opened sums themselves: nothing is divided or rounded before.
- A roster whose sum fails is left out, each of its nodes with a reason; with none left the whole fails.
- No node is in two sums.

Rosters are asked one after the other, each with the whole time.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add

from flwr.app import Message
from flwr.serverapp import Grid

from strategies.cohort import CohortSum, Expected
from strategies.errors import CohortFailed
from strategies.question import Question
from strategies.secure_cohort import RosterSum, SecureCohort

FAILED = "its roster's sum failed: {} of its merchants answered, {} are required"


class DividedCohort:
    """Adds the sums of several rosters.

    Attributes:
        parts: the cohort of each roster; what every single one must show is asked of each by itself.
    """

    def __init__(self, parts: Sequence[SecureCohort]) -> None:
        self.parts = tuple(parts)
        self._seats: dict[int, SecureCohort] = {}

    def sum(self, grid: Grid, messages: list[Message], expected: Expected, timeout_s: float) -> CohortSum:
        """Ask all, open each roster's sum, add them.

        Raises:
            CohortFailed: no roster's sum could be opened.
        """
        question = Question.of(messages, expected)
        asked = {message.metadata.dst_node_id for message in messages}
        found: list[RosterSum] = []
        dropped: dict[int, str] = {}
        for part in self.parts:
            elsewhere = {node for node, seat in self._seats.items() if seat is not part}
            try:
                found.append(part.open(grid, question, asked - elsewhere, elsewhere, timeout_s))
                dropped |= found[-1].dropped
            except CohortFailed as failed:
                dropped |= dict.fromkeys(asked & part.seated, FAILED.format(failed.survivors, failed.required))
                dropped |= failed.dropped
            self._seats |= dict.fromkeys(part.seated - elsewhere, part)
        survivors = frozenset().union(*(each.survivors for each in found))
        dropped = {node: why for node, why in dropped.items() if node not in survivors}
        if not found:
            raise CohortFailed(0, min(part.required for part in self.parts), dropped)
        total = reduce(add, (each.opened for each in found))
        return CohortSum(total.mean, total.statistics, total.weight, len(survivors), dropped)
