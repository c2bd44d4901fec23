# SPDX-License-Identifier: Apache-2.0
"""Shared integer noise beside one trusted curator's: same epsilon, same figures; its variance for each drop count.

    python -m benchmarks.distributed_noise [--quick]

Logistic regression on 10 merchants' users, trained by DP-SGD once with central Gaussian noise on the sum of all
merchants, once with every merchant's integer share summed modulo 2^32, at the same epsilon, for several seeds. The
rows: mean losses (peer: central) with the p-value of a Kolmogorov-Smirnov test between the two sets of losses; the
summed noise's variance over its expectation for each number of survivors; draws per second; and whole runs of the
recommender over secure rounds (`benchmarks.distributed_runs`), with a table for docs/private-training.md.
"""

import argparse
import time
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from benchmarks import distributed_runs
from benchmarks.measure import Row, row, table, write
from privacy.integer_update import integer_sums, integer_update, mean, released_sum
from privacy.noise import NoiseSource, add_noise_to_array
from privacy.plan import PrivacyPlan, PrivacyRequest, calibrate
from privacy.stages import ClippedUpdate

MERCHANTS, USERS, WIDTH, LEARNING_RATE, NORM = 10, 40, 20, 2.0, 1.0
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class League:
    """features [M, U, D] and labels (-1 or 1) [M, U] of one planted weight vector."""

    features: Floats
    labels: Floats

    @classmethod
    def of(cls, seed: int) -> "League":
        rng = np.random.default_rng(seed)
        features = rng.standard_normal((MERCHANTS, USERS, WIDTH)) / np.sqrt(WIDTH)
        planted = rng.standard_normal(WIDTH) * 4
        labels = np.where(rng.random((MERCHANTS, USERS)) < 1 / (1 + np.exp(-features @ planted)), 1.0, -1.0)
        return cls(features, labels)

    def loss(self, weights: Floats) -> float:
        return float(np.logaddexp(0, -self.labels * (self.features @ weights)).mean())

    def clipped_sums(self, weights: Floats, drawn: npt.NDArray[np.bool_]) -> Floats:
        """Each merchant's sum of its drawn users' gradients, each of norm <= NORM; [M, D]."""
        pull = -self.labels / (1 + np.exp(self.labels * (self.features @ weights)))
        gradients = self.features * pull[..., None]
        factors = np.minimum(1, NORM / np.maximum(np.linalg.norm(gradients, axis=-1), 1e-12)) * drawn
        return np.einsum("mud,mu->md", gradients, factors)


@cache
def plans(epsilon: float, rounds: int, dropouts: int = 0, colluders: int = 0) -> tuple[PrivacyPlan, PrivacyPlan]:
    """The central plan and the distributed one, of the same epsilon."""
    central = calibrate(PrivacyRequest("local", epsilon, 1e-5, rounds, 1, 0.2, NORM, accountant="rdp"))
    shared = calibrate(
        PrivacyRequest(
            *("distributed", epsilon, 1e-5, rounds, 1, 0.2, NORM),
            accountant="rdp",
            cohort=MERCHANTS,
            dropouts=dropouts,
            colluders=colluders,
            coordinates=WIDTH,
        )
    )
    return central, shared


def train(plan: PrivacyPlan, seed: int) -> float:
    """Final loss; noise central or shared as the plan says."""
    league, rng, weights = League.of(0), np.random.default_rng(seed), np.zeros(WIDTH)
    source = NoiseSource.from_seed(seed, str(plan.mode))
    expected = plan.sampling_rate * MERCHANTS * USERS
    for step in range(plan.rounds):
        drawn = rng.random((MERCHANTS, USERS)) < plan.sampling_rate
        sums = league.clipped_sums(weights, drawn)
        if plan.sharing is None:
            stream = source.stream(str(step))
            found = add_noise_to_array(sums.sum(0), plan.noise_multiplier * NORM, stream) / expected
        else:
            found = secure_mean(plan, sums, source, step, expected)
        weights -= LEARNING_RATE * found
    return league.loss(weights)


def secure_mean(plan: PrivacyPlan, sums: Floats, source: NoiseSource, step: int, expected: float) -> Floats:
    """What the platform gets: the sum modulo 2^32, which masks leave as it is."""
    words = np.zeros(WIDTH, np.uint32)
    for merchant, own in enumerate(sums):
        clipped = ClippedUpdate(NORM, {"w": torch.from_numpy(own)}, {}, torch.zeros(0))
        words += integer_update(clipped, plan, source.integers(f"{merchant}/{step}")).words
    released = released_sum(words, plan.share("training"), MERCHANTS)
    aggregate = mean(released, MERCHANTS, {"w": (WIDTH,)}, expected)
    return np.asarray(aggregate.values["w"], np.float64)


def compare(epsilon: float, rounds: int, seeds: int) -> tuple[list[float], list[float], float]:
    """Final losses of both over seeds, and the p-value of their being of one distribution."""
    central, shared = plans(epsilon, rounds)
    first = round(1e6 * epsilon)  # no seed serves twice: the test wants independent losses
    losses = (
        [train(central, first + seed) for seed in range(seeds)],
        [train(shared, first + seeds + seed) for seed in range(seeds)],
    )
    return *losses, float(stats.ks_2samp(*losses).pvalue)


def summed_noise(plan: PrivacyPlan, survivors: int, count: int, seed: int = 0) -> Floats:
    """[count] noise of the sum over its expected deviation."""
    wide = replace(plan, coordinates=count, epsilon=float("inf"))
    share, source = wide.share("training"), NoiseSource.from_seed(seed, "summed", str(survivors))
    words = np.zeros(count, np.uint32)
    for merchant in range(survivors):
        words += integer_sums(np.zeros(count), wide, "training", source.integers(str(merchant))).words
    return words.view(np.int32) / (np.sqrt(survivors) * share.deviation_grid)


def p_values(noise: Floats) -> tuple[float, float]:
    """Two-sided chi-square of the variance, Kolmogorov-Smirnov of the shape."""
    cdf = float(stats.chi2.cdf(np.square(noise).sum(), len(noise)))
    return 2 * min(cdf, 1 - cdf), float(stats.kstest(noise, "norm").pvalue)


def _speed(deviation: float, count: int) -> float:
    """Processor seconds of `count` draws."""
    stream = NoiseSource.from_seed(0).integers("speed")
    stream.draw(10, deviation)
    begin = time.process_time()
    stream.draw(count, deviation)
    return time.process_time() - begin


def main() -> int:
    """Print and write the rows; 1 when a test of fit fails at 0.001."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few seeds and draws")
    quick = parser.parse_args().quick
    rows: list[Row] = []
    least = 1.0
    for epsilon in (3.0,) if quick else (8.0, 3.0, 1.0):
        central, shared, p = compare(epsilon, 60, 12 if quick else 100)
        least = min(least, p)
        rows.append(row(f"loss_eps{epsilon:g}", np.mean(shared), "nats", len(shared), np.mean(central), "central"))
        rows.append(row(f"loss_deviation_eps{epsilon:g}", np.std(shared), "nats", len(shared), np.std(central)))
        rows.append(row(f"same_distribution_p_eps{epsilon:g}", p, "p", len(shared)))
    plan = plans(3.0, 60, dropouts=4, colluders=2)[1]
    for survivors in range(MERCHANTS - plan.dropouts, MERCHANTS + 1):
        noise = summed_noise(plan, survivors, 20_000 if quick else 400_000)
        variance_p, shape_p = p_values(noise)
        least = min(least, variance_p, shape_p)
        rows.append(row(f"noise_variance_{survivors}_of_{MERCHANTS}", np.square(noise).mean(), "ratio", 1, 1.0))
        rows.append(row(f"noise_p_{survivors}_of_{MERCHANTS}", min(variance_p, shape_p), "p", len(noise)))
    for deviation in (34.0, 443.0, 79_796.0, 1e6):
        rows.append(row(f"draws_6e6_sd{deviation:g}", 6 * _speed(deviation, 1_000_000), "s", 1))
    whole, lines, p = distributed_runs.rows(quick)
    rows, least = [*rows, *whole], min(least, p)
    print(table(rows))
    print("\n".join(lines))
    print(f"wrote {write('distributed_noise', rows)}; smallest p-value {least:.2g}")
    return int(least < 1e-3)


if __name__ == "__main__":
    raise SystemExit(main())
