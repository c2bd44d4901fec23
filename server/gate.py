# SPDX-License-Identifier: Apache-2.0
"""The release gate: a candidate is published only when it is better than the last release, by interval.

Merchants send sums over their users of (1, candidate, difference, difference squared) of ndcg@10 on the novel
view of the newest weeks, through the cohort; the platform sees the league's sums alone.

A person may shop at several merchants, whose rows then rise and fall together, and the platform can't see persons.
So the interval is a cluster's (Kish 1965, §5.4): the variance of a mean grows by a public design effect, the most
merchants that a person may shop at, and Student's quantile counts that many fewer independent persons.

Guarantees:
- A candidate whose mean paired difference is not above zero with 95 % confidence is refused.
- A candidate that is no better is published in at most 2.5 % of cases though persons shop at several merchants.
- Noise that merchants added widens the interval; it never narrows it.
- Sums that are not finite or hold too few persons are refused.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from scipy.special import stdtrit

from server.checkpoints import Arrays
from strategies.cohort import ARRAYS, COHORT_SIZE, CONFIG, Cohort, CohortSum, Expected

UPPER = 0.975
DESIGN_EFFECT = 4.0
FEWEST_PERSONS = 2.0
SUMS = "sums"


@dataclass(frozen=True, slots=True)
class GateDecision:
    """What the gate found.

    Attributes:
        passed: whether the candidate may be published.
        users: how many users were compared (noisy in private modes).
        candidate: mean ndcg@10 of the candidate.
        difference: mean paired difference to the last release, with its 95 % interval.
    """

    passed: bool
    users: float
    candidate: float
    difference: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """One line for people."""
        verdict = "published" if self.passed else "not published: not better than the last release"
        return (
            f"{verdict} (ndcg@10, novel: {self.candidate:.4f}, difference {self.difference:+.4f} "
            f"[{self.low:+.4f}, {self.high:+.4f}] over {self.users:.0f} users)"
        )


def ask_sum(
    grid: Grid,
    cohort: Cohort,
    action: str,
    arrays: Arrays,
    config: dict[str, str | int],
    expected: Expected,
    timeout_s: float,
) -> CohortSum:
    """Ask all merchants one query and return the sum of their answers; raises `CohortFailed`."""
    record = ArrayRecord({name: Array(np.asarray(arrays[name])) for name in sorted(arrays)})
    nodes = sorted(grid.get_node_ids())
    content = RecordDict({ARRAYS: record, CONFIG: ConfigRecord({**config, COHORT_SIZE: len(nodes)})})
    kind = f"{MessageType.QUERY}.{action}"
    messages = [Message(content, node, kind) for node in nodes]
    return cohort.sum(grid, messages, expected, timeout_s)


def ask_gate(
    grid: Grid,
    cohort: Cohort,
    candidate: Arrays,
    previous: Arrays,
    config: dict[str, str | int],
    noise_deviation: float,
    timeout_s: float,
    design_effect: float = DESIGN_EFFECT,
) -> GateDecision:
    """Compare two models over the league; `noise_deviation` is what each merchant added to each sum.

    `design_effect` is public: the largest number of merchants that a person may shop at.
    """
    arrays = {f"candidate/{k}": v for k, v in candidate.items()} | {
        f"previous/{k}": v for k, v in previous.items()
    }
    total = ask_sum(grid, cohort, "gate", arrays, config, Expected({SUMS: (4,)}, {}, max_weight=1), timeout_s)
    sums = total.mean[SUMS].astype(np.float64) * total.weight
    return decide(sums, noise_deviation * math.sqrt(total.survivors), design_effect)


def decide(
    sums: npt.NDArray[np.float64], noise_deviation: float, design_effect: float = DESIGN_EFFECT
) -> GateDecision:
    """The decision from the league's four sums; `noise_deviation` is that of the noise on each sum.

    Raises:
        ValueError: the design effect is below 1, or the noise is negative or not finite.
    """
    if not 1.0 <= design_effect < math.inf or not 0.0 <= noise_deviation < math.inf:
        raise ValueError(
            f"expected a design effect of at least 1 and a noise of at least 0, found {design_effect} and "
            f"{noise_deviation}"
        )
    if not np.isfinite(sums).all():
        return _UNKNOWN
    users = max(float(sums[0]), 1.0)
    candidate, difference = float(sums[1]) / users, float(sums[2]) / users
    surely = float(sums[0]) - 2 * noise_deviation
    persons = surely / design_effect
    if persons < FEWEST_PERSONS:
        return replace(_UNKNOWN, users=users, candidate=candidate, difference=difference)
    variance = max(float(sums[3]) / users - difference**2, 0.0) + 2 * noise_deviation / surely
    error = math.sqrt(variance / (persons - 1.0) + (noise_deviation / surely) ** 2)
    reach = float(stdtrit(persons - 1.0, UPPER)) * error
    low, high = max(difference - reach, -1.0), min(difference + reach, 1.0)
    return GateDecision(low > 0.0, users, candidate, difference, low, high)


_UNKNOWN = GateDecision(passed=False, users=0.0, candidate=0.0, difference=0.0, low=-1.0, high=1.0)
