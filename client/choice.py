# SPDX-License-Identifier: Apache-2.0
"""The merchant's last word on a release: does it serve it, or its own plain formula?

Judged on the merchant's own newest weeks, paired over users: ndcg@10 on new items, as the league's gate judges. A
merchant has some twenty such users, so the larger of two means is mostly noise and choosing by it does harm
(docs/model.md): the release gives way only to a lead beyond the noise.

Guarantees:
- A lead within two standard errors, or of fewer than ten users, changes nothing.
"""

import math
from dataclasses import dataclass

from client.gate import METRIC, VIEW
from client.trainer import Bench
from data.samples import EvaluationSet, UserHistories

STANDARD_ERRORS = 2.0
FEWEST_USERS = 10


@dataclass(frozen=True, slots=True)
class Choice:
    """How a merchant's own formula did against the release with its local parts.

    Attributes:
        users: who bought something new in the weeks that judge.
        lead: mean of the formula's figure minus the release's; 0 without users.
        standard_error: of `lead`; infinite for fewer than two users.
    """

    users: int
    lead: float
    standard_error: float

    @property
    def league(self) -> bool:
        """Whether the release is served."""
        return self.users < FEWEST_USERS or not self.lead > STANDARD_ERRORS * self.standard_error

    @property
    def words(self) -> str:
        """For the merchant, one line."""
        served = "the release" if self.league else "this merchant's own formula without the league"
        return (
            f"served: {served} (the formula's {METRIC} on new items against the release's: {self.lead:+.4f}, "
            f"standard error {self.standard_error:.4f}, {self.users} users)"
        )


def choose(bench: Bench, known: UserHistories, weeks: EvaluationSet) -> Choice:
    """Compare both on `weeks`, fitted to what was `known` before; the bench's model holds the release."""
    figures = []
    for fit in (bench.task.fit_alone, bench.task.fit_local):
        fit(bench.model, known)
        figures.append(bench.task.evaluate(bench.model, weeks, ks=(10,))[VIEW].per_user[METRIC])
    difference = figures[0] - figures[1]
    users = len(difference)
    error = float(difference.std(ddof=1)) / math.sqrt(users) if users > 1 else math.inf
    return Choice(users, float(difference.mean()) if users else 0.0, error)


def fit_chosen(bench: Bench, own: UserHistories, choice: Choice) -> None:
    """Fit the local parts that were chosen to all that the merchant knows."""
    fit = bench.task.fit_local if choice.league else bench.task.fit_alone
    fit(bench.model, own)
