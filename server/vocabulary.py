# SPDX-License-Identifier: Apache-2.0
"""The platform's question before a league's first round: which items of the catalogue do enough merchants carry?

Guarantees:
- Over a secure cohort the platform learns how many merchants carry an item, never which.
- In a divided league enough merchants of every roster carry what is shared: each roster's sums are seen alone.
"""

import numpy as np
import numpy.typing as npt
from flwr.serverapp import Grid

from privacy.secagg.vocabulary import CARRIED, QUESTION, shared
from server.gate import ask_sum
from strategies.cohort import Cohort, Expected
from strategies.divided_cohort import DividedCohort


def ask_vocabulary(
    grid: Grid, cohort: Cohort, candidates: int, proposal: dict[str, str | int], carriers: int, timeout_s: float
) -> npt.NDArray[np.bool_]:
    """Which of the candidates at least `carriers` merchants, of each roster, carry, bool [candidates].

    `proposal` is a run's, with the candidates' digest as its vocabulary.

    Raises:
        CohortFailed: too few merchants, of one roster, answered.
        privacy.secagg.errors.ValueRefused: fewer merchants than `carriers` answered, or a count that can't be.
    """
    asked = proposal | {"server-round": 0}
    expected = Expected({CARRIED: (candidates,)}, {}, max_weight=1)
    kept = np.ones(candidates, np.bool_)
    for part in cohort.parts if isinstance(cohort, DividedCohort) else (cohort,):
        total = ask_sum(grid, part, QUESTION, {}, asked, expected, timeout_s)
        counts = np.rint(total.mean[CARRIED].astype(np.float64) * total.weight).astype(np.int64)
        kept &= shared(counts, total.survivors, carriers)
    return kept
