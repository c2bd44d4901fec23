# SPDX-License-Identifier: Apache-2.0
"""An attack on our own training: a lower bound on epsilon from one run (Steinke, Nasr, Jagielski 2023).

Canaries are users with a gradient of their own, each put in or left out by a fair coin. After the run the
releases are searched for each canary, the surest guesses are counted, and more right guesses than an
(epsilon, delta)-private run allows (their Thm 5.2) refute the claim. A bound below the claim proves nothing; a
bound above it is a bug.

Guarantees:
- a sound mechanism stays under its claim, but for the stated chance of error
- noise off, clipping off or a wrong sampling rate is caught
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize, stats
from torch import nn

from privacy.clipping import PerUserGradients
from privacy.errors import AccountingError
from privacy.integer_update import integer_update, released_sum
from privacy.noise import NoiseSource, add_noise
from privacy.plan import PrivacyPlan
from privacy.stages import ClippedUpdate

__all__ = ["AuditResult", "Release", "audit", "distributed_release", "epsilon_lower_bound", "training_release"]

Floats = npt.NDArray[np.float64]
# (step, canaries that are drawn) -> the release, one coordinate per canary, in units of the clipping norm
Release = Callable[[int, npt.NDArray[np.int64]], Floats]
_LOUD: Final = 1000.0  # norm of a canary's gradient: clipping must cut it


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


def audit(plan: PrivacyPlan, release: Release, canaries: int, rng: np.random.Generator) -> AuditResult:
    """Run the plan's training steps on canaries alone and attack them. `rng` tosses the coins and draws users."""
    inside = rng.random(canaries) < 0.5
    members = np.flatnonzero(inside)
    scores = np.zeros(canaries)
    for step in range(plan.steps):
        drawn = members[rng.random(len(members)) < plan.sampling_rate]
        scores += release(step, drawn)
    order = np.argsort(scores)
    results = []
    for share in (0.02, 0.05, 0.1, 0.25, 0.5):  # guess out for the lowest, in for the highest, abstain between
        each = max(1, int(share * canaries))
        correct = int(inside[order[-each:]].sum() + (~inside[order[:each]]).sum())
        # Five looks at one run: a union bound pays for choosing the best.
        bound = epsilon_lower_bound(correct, 2 * each, canaries, plan.delta, confidence=1 - 0.05 / 5)
        results.append(AuditResult(bound, plan.epsilon, 2 * each, correct, 0.95))
    return max(results, key=lambda r: r.lower_bound)


def training_release(plan: PrivacyPlan, canaries: int, source: NoiseSource) -> Release:
    """One training step as users go through it: recorded loss, clipping, noise; a table row for each canary."""
    clipped_sum = _canary_sums(plan, canaries)

    def release(step: int, drawn: npt.NDArray[np.int64]) -> Floats:
        stream = source.stream(f"audit/{step}")
        noised = add_noise(clipped_sum(drawn), plan.noise_multiplier, stream)
        return np.asarray(noised.values["weight"][:, 0].numpy() / plan.clipping_norm, np.float64)

    return release


def distributed_release(plan: PrivacyPlan, canaries: int, source: NoiseSource) -> Release:
    """The same in mode `distributed`, as platform and colluders see it in the worst tolerated case.

    The colluders' integers are known to them and taken off, the drop-outs' never came: what is left is the sum
    over the honest survivors. The canaries are spread over these merchants' users.
    """
    clipped_sum, share = _canary_sums(plan, canaries), plan.share("training")
    honest = share.tolerance.honest_survivors

    def release(step: int, drawn: npt.NDArray[np.int64]) -> Floats:
        words = np.zeros(canaries, np.uint32)
        for merchant in range(honest):
            clipped = clipped_sum(drawn[drawn % honest == merchant])
            words += integer_update(clipped, plan, source.integers(f"audit/{step}/{merchant}")).words
        return released_sum(words, share, share.tolerance.least_survivors) / plan.clipping_norm

    return release


def _canary_sums(plan: PrivacyPlan, canaries: int) -> Callable[[npt.NDArray[np.int64]], ClippedUpdate]:
    table = nn.Embedding(canaries, 1)
    engine = PerUserGradients(table)

    def clipped_sum(drawn: npt.NDArray[np.int64]) -> ClippedUpdate:
        users = torch.from_numpy(drawn)
        with engine.record(len(users)):
            losses = table(users)[:, 0] * _LOUD
        return engine.clipped_sum(losses, plan.clipping_norm)

    return clipped_sum


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
