# SPDX-License-Identifier: Apache-2.0
"""A lower bound on epsilon from one run with planted canaries (Steinke, Nasr, Jagielski 2023).

Canaries are users whose every answer can be told apart, each put in or left out by a fair coin. After the run the
releases are searched for each canary, the surest guesses are counted, and more right guesses than an
(epsilon, delta)-private run allows (their Thm 5.2) refute the claim. A bound below the claim proves nothing; a
bound above it is a bug. `simulation.audit` plants them in the real training.

Guarantees:
- a sound mechanism stays under its claim, but for the stated chance of error
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from privacy.errors import AccountingError
from privacy.plan import PrivacyPlan

__all__ = ["AuditResult", "attack", "epsilon_lower_bound"]


@dataclass(frozen=True, slots=True)
class AuditResult:
    """`epsilon` is at least `lower_bound`, with `confidence`, or the mechanism's claim is wrong."""

    lower_bound: float
    claim: float
    guesses: int
    correct: int
    confidence: float

    @property
    def refuted(self) -> bool:
        return self.lower_bound > self.claim


def attack(inside: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64], claimed: PrivacyPlan) -> AuditResult:
    """Guess who was in: `inside` bool [M], what the coins said; `scores` [M], higher for likelier members."""
    order = np.argsort(scores)
    results = []
    for share in (0.02, 0.05, 0.1, 0.25, 0.5):  # guess out for the lowest, in for the highest, abstain between
        each = max(1, int(share * len(inside)))
        correct = int(inside[order[-each:]].sum() + (~inside[order[:each]]).sum())
        # Five looks at one run: a union bound pays for choosing the best.
        bound = epsilon_lower_bound(correct, 2 * each, len(inside), claimed.delta, confidence=1 - 0.05 / 5)
        results.append(AuditResult(bound, claimed.epsilon, 2 * each, correct, 0.95))
    return max(results, key=lambda r: r.lower_bound)


def epsilon_lower_bound(
    correct: int, guesses: int, canaries: int, delta: float, confidence: float = 0.95
) -> float:
    """Largest epsilon that `correct` of `guesses` refute with `confidence` (Steinke et al. 2023, Thm 5.2)."""
    if not 0 <= correct <= guesses <= canaries or not 0 < confidence < 1:
        raise AccountingError(
            f"expected 0 <= correct <= guesses <= canaries, found {correct}, {guesses}, {canaries}"
        )

    def chance(eps: float) -> float:
        """Upper bound on the chance of so many right guesses under (eps, delta)."""
        p = 1 / (1 + math.exp(-eps))
        beta = float(stats.binom.sf(correct - 1, guesses, p))
        i = np.arange(1, guesses + 1)
        between = stats.binom.sf(correct - i - 1, guesses, p) - beta
        return beta + 2 * canaries * delta * float(np.max(between / i))

    if chance(0.0) >= 1 - confidence:
        return 0.0
    high = 1.0
    while chance(high) < 1 - confidence:
        high *= 2
        if high > 64:
            return high
    return float(optimize.brentq(lambda eps: chance(eps) - (1 - confidence), 0.0, high, xtol=1e-6))
