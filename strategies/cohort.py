# SPDX-License-Identifier: Apache-2.0
"""The seam between a strategy and the merchants: messages in, the sum of the answers out.

`plain_cohort` adds updates in clear, `secure_cohort` adds masked ones; a strategy, over `cohort_grid`, can't tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from flwr.app import Message
from flwr.serverapp import Grid

from strategies.exact_sum import Shapes

ARRAYS, CONFIG, METRICS, WEIGHT = "arrays", "config", "metrics", "num-examples"
STATISTICS, FIXED, COHORT_SIZE = "statistics", "fixed", "cohort-size"


@dataclass(frozen=True, slots=True)
class CohortSum:
    """The sum over the survivors of one exchange.

    Attributes:
        mean: weighted mean of the arrays, float32.
        statistics: summed (not weighted) statistics, float64.
        weight: the sum of the survivors' weights.
        survivors: how many merchants are in the sum.
        dropped: node id to reason.
    """

    mean: Mapping[str, npt.NDArray[np.float32]]
    statistics: Mapping[str, npt.NDArray[np.float64]]
    weight: int
    survivors: int
    dropped: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Expected:
    """What every answer of an exchange must hold: array names with shapes, all float32, and a bounded weight.

    Attributes:
        max_weight: 1 where every merchant counts alike; else what a merchant may claim of examples.
    """

    arrays: Shapes
    statistics: Shapes
    max_weight: int


class Cohort(Protocol):
    """Turns messages to merchants into the sum of their answers."""

    def sum(self, grid: Grid, messages: list[Message], expected: Expected, timeout_s: float) -> CohortSum: ...
