# SPDX-License-Identifier: Apache-2.0
"""Privacy-loss random variables of the sampled Gaussian and its group form, for Opacus's PRV composition.

With P = sum_j w_j N(j, sigma²), j ~ Binomial(k, q), and Q = N(0, sigma²), the loss at x is
t(x) = log sum_j w_j exp((2jx - j²) / 2 sigma²): increasing and convex in x. Removing a unit compares P with Q
(loss t under P), adding one compares Q with P (loss -t under Q). Opacus itself has the first direction and k
= 1 only; its formula divides by zero in log(1 - q) at q = 1 and cancels in exp(t) + q - 1 at small q.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

__all__ = ["SampledGaussianLoss", "group_renyi"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SampledGaussianLoss:
    """The loss of one step; the interface that `opacus.accountants.analysis.prv` discretises."""

    sigma: float
    rate: float
    group: int
    add: bool

    def cdf(self, t: Any) -> Floats:
        """P[loss <= t], elementwise; float64."""
        t_ = np.asarray(t, np.float64)
        if self.add:
            return np.asarray(special.ndtr(-self._inverse(-t_) / self.sigma), np.float64)
        x = self._inverse(t_)
        parts = (self._weight(j) * special.ndtr((x - j) / self.sigma) for j in range(self.group + 1))
        return np.asarray(sum(parts), np.float64)

    def _weight(self, j: int) -> float:
        """P[j of the group's samples are drawn]."""
        return math.comb(self.group, j) * self.rate**j * (1 - self.rate) ** (self.group - j)

    def _inverse(self, t: Floats) -> Floats:
        """x with t(x) = t; -inf below the smallest loss k log(1 - q)."""
        if self.rate == 1:
            return t * self.sigma**2 / self.group + self.group / 2
        floor = self.group * math.log1p(-self.rate)
        safe = np.where(t > floor, t, 1.0)
        if self.group == 1:
            with np.errstate(divide="ignore"):
                x = self.sigma**2 * np.log1p(np.expm1(safe) / self.rate) + 0.5
            return np.where(t > floor, x, -np.inf)
        return np.where(t > floor, self._newton(safe), -np.inf)

    def _newton(self, t: Floats) -> Floats:
        j = np.arange(1, self.group + 1)
        log_weights = [math.log(self._weight(int(m))) for m in j]
        log_rest = self.group * math.log1p(-self.rate)
        two = 2 * self.sigma**2
        # t(x) >= log w_j + (2jx - j²) / two for every j, so every j bounds the root from above; from there
        # Newton's method falls onto the root of a convex increasing function without passing it.
        gap = t + np.log(-np.expm1(np.minimum(log_rest - t, -1e-300)))  # log(e^t - w_0)
        bounds = [(gap - lw) * self.sigma**2 / m + m / 2 for m, lw in zip(j, log_weights, strict=True)]
        x = np.minimum.reduce(bounds)
        for _ in range(40):
            parts = [lw + (2 * m * x - m * m) / two for m, lw in zip(j, log_weights, strict=True)]
            value = np.logaddexp.reduce(parts)
            slope = sum(m * np.exp(p - value) for m, p in zip(j, parts, strict=True)) / self.sigma**2
            step = (value - gap) / slope
            x = x - step
            if np.all(np.abs(step) <= 1e-13 * (1 + np.abs(x))):
                break
        return np.asarray(x)


def group_renyi(sigma: float, rate: float, group: int, alpha: float) -> float:
    """Rényi divergence of order alpha between P and Q, the larger of both directions.

    The trapezoid rule on a smooth integrand that vanishes at both ends converges faster than any power.
    """
    divergences = []
    for order in (alpha, 1 - alpha):  # E_Q[(P/Q)^alpha] and E_P[(Q/P)^alpha] = E_Q[(P/Q)^(1 - alpha)]
        low, high = sorted((0.0, order * group))
        x = np.linspace(low - 12 * sigma, high + 12 * sigma, 2 * int((high - low + 24 * sigma) / sigma * 20) + 1)
        weights = [math.comb(group, j) * rate**j * (1 - rate) ** (group - j) for j in range(group + 1)]
        parts = [math.log(w) + (2 * j * x - j * j) / (2 * sigma**2) for j, w in enumerate(weights) if w > 0]
        exponent = order * np.logaddexp.reduce(parts) - x * x / (2 * sigma**2)
        log_sum = special.logsumexp(exponent) + math.log((x[1] - x[0]) / (sigma * math.sqrt(2 * math.pi)))
        divergences.append(float(log_sum) / (alpha - 1))
    return max(divergences)
