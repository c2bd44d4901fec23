# SPDX-License-Identifier: Apache-2.0
"""A secure exchange of the modes that share noise: words that each merchant rounded and noised, and their sum.

Nothing else is in the vector: no weight, no statistic. Every merchant counts alike. Where clipping adapts, the
last number of a training vector counts the users within the norm, under its own share of the budget.

Guarantees:
- a roster that promises less than the plan counts on is refused at both ends
- a sum of fewer merchants than the noise is laid out for is not opened
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.adaptive_clipping import WITHIN, count_weight
from privacy.errors import CalibrationError
from privacy.integer_update import check_roster, mean, plan_digest, released_sum
from privacy.plan import PrivacyPlan
from privacy.secagg.errors import RequestRefused, ValueRefused
from privacy.secagg.masks import Vector
from privacy.secagg.merchant import RoundTerms
from privacy.secagg.roster import Roster
from privacy.secure_exchange import Opened, Sums

RELEASED = "released"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class NoisedExchange:
    """What one release (`training`, `popularity` or `gate`) of a plan looks like under the mask.

    Attributes:
        arrays: names and shapes of what the words stand for, in the order of the sorted names.
        divisor: public number of users that stand for a merchant's, by which the mean over merchants is divided.
        scale: of the clipping norm in this round; merchants send their gradients in units of it.
    """

    plan: PrivacyPlan
    family: str
    arrays: Shapes
    divisor: float = 1.0
    scale: float = 1.0

    @property
    def _counts(self) -> bool:
        return self.family == "training" and self.plan.clipping_quantile > 0

    def terms(self, roster: Roster, request: bytes) -> RoundTerms:
        """The terms that ROUND_OPEN must name; `request` is the digest of what was asked.

        Raises RequestRefused where the plan has no such share, or the roster is not one that it is laid out for.
        """
        try:
            self.plan.share(self.family)
            check_roster(self.plan, roster)
        except CalibrationError as unfit:
            raise RequestRefused(str(unfit)) from None
        size = sum(int(np.prod(shape, dtype=np.int64)) for shape in self.arrays.values())
        return RoundTerms(request, plan_digest(self.plan, self.family, self.arrays), size + self._counts, 0)

    def vector(self, words: bytes) -> Vector:
        """One merchant's vector from its words (little-endian uint32); a copy, as masks are added in place."""
        return Vector(np.frombuffer(words, "<u4").copy(), np.zeros(0, "<u8"))

    def opened(self, roster: Roster, vector: Vector, survivors: int) -> Opened:
        """The noised sum over the survivors.

        Raises ValueRefused when more merchants dropped out than the noise is laid out for.
        """
        try:
            released = released_sum(vector.body, self.plan.share(self.family), survivors)
        except CalibrationError as too_few:
            raise ValueRefused(str(too_few)) from None
        return Opened({RELEASED: released}, survivors, self)

    def mean_of(self, sums: Sums, weight: int) -> dict[str, npt.NDArray[np.float32]]:
        """The mean over `weight` survivors, divided by `divisor`."""
        released = sums[RELEASED]
        values = released[: released.size - self._counts]
        return dict(mean(values, weight, self.arrays, self.divisor * weight / self.scale).values)

    def statistics_of(self, sums: Sums, weight: int) -> dict[str, npt.NDArray[np.float64]]:
        """Where clipping adapts, the share of the users who were within the norm."""
        if not self._counts:
            return {}
        each = 2 * count_weight(self.plan.clipping_norm, self.plan.clipping_share) * self.divisor * weight
        return {WITHIN: np.asarray(0.5 + sums[RELEASED][-1] / each)}
