# SPDX-License-Identifier: Apache-2.0
"""Discrete Gaussian draws: the proved distance, exact probabilities, variance, independence, known answers."""

import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy import discrete_gaussian
from privacy.discrete_gaussian import DITHER_BITS, LARGEST, LOG2_DISTANCE, DiscreteGaussianStream, recipe
from privacy.errors import NoiseError
from privacy.noise import NoiseSource

N = 400_000
KNOWN = {
    3.7: [2, 9, -1, 5, 0, -1, 1, 1],
    443.0: [-218, 494, 45, -546, 266, 427, 174, 313],
    79796.0: [113787, 15298, -171909, 7274, 50407, -1111, 8142, 132164],
    1e6: [1416660, 221962, -2203800, 84376, 647265, -9347, 88206, 1676624],
}


def drawn(deviation, n=N, seed=0, label="x"):
    return NoiseSource.from_seed(seed).integers(label).draw(n, deviation)


def exact(deviation, radius):
    """Probabilities of -radius..radius at 60 digits."""
    with localcontext(prec=60):
        twice = 2 * Decimal(deviation) ** 2
        weights = [(-k * k / twice).exp() for k in range(-radius, radius + 1)]
        total = sum(weights)
        return [w / total for w in weights]


def probabilities(deviation, radius):
    """The same in float64, for tests of fit."""
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * deviation**2))
    return weights / weights.sum()


def fits(values, deviation, level=1e-6):
    """Chi-squared test against exact probabilities, in cells of about 0.1 deviations, with open ends."""
    width, edge = max(1, int(deviation / 10)), math.ceil(4 * deviation)
    edges = np.arange(-edge, edge + 1, width)
    radius = math.ceil(12 * deviation)
    expected, _ = np.histogram(np.arange(-radius, radius + 1), edges, weights=probabilities(deviation, radius))
    found, _ = np.histogram(values, edges)
    inside = expected.sum()
    expected, found = np.append(expected, 1 - inside), np.append(found, len(values) - found.sum())
    return stats.chisquare(found, expected * len(values)).pvalue > level


@pytest.mark.parametrize("deviation", [1.0, 3.7, 40.25, 127.9, 130.0, 900.0])
def test_draws_have_the_exact_probabilities(deviation):
    assert fits(drawn(deviation), deviation)


@pytest.mark.parametrize("deviation", [3.7, 130.0, 900.0])
@pytest.mark.parametrize("wrong", [0.98, 1.02])
def test_a_wrong_deviation_is_rejected(deviation, wrong):
    assert not fits(drawn(deviation * wrong), deviation)


@pytest.mark.parametrize("deviation", [34.0, 443.0, 79_796.0, 1e6])
def test_the_variance_is_within_a_thousandth(deviation):
    values = drawn(deviation, 12_000_000 if deviation == 79_796.0 else 2_000_000)
    allowed = 6 * math.sqrt(2 / len(values))  # six deviations of the estimate
    assert abs(np.square(values / deviation).mean() - 1) < min(allowed, 0.006)
    assert abs(values.std() / deviation - 1) < 1e-3
    assert abs(values.mean()) < 6 * deviation / math.sqrt(len(values))


@pytest.mark.parametrize("deviation", [443.0, 79_796.0, 1e6])
def test_large_deviations_look_normal_to_their_tails(deviation):
    values = drawn(deviation, 1_000_000)
    assert stats.kstest(values / deviation, "norm").pvalue > 1e-6
    for bound in (3.0, 4.0):
        expected = len(values) * 2 * stats.norm.sf(bound)
        assert abs((np.abs(values) > bound * deviation).sum() - expected) < 6 * math.sqrt(expected)


@pytest.mark.parametrize("deviation", [1.0, 5.5, 130.0, 140.0])
def test_a_draw_is_within_statistical_distance_of_the_discrete_gaussian_of_exactly_the_stated_deviation(deviation):
    """Exactly: the table's integers, convolved in the integers, against 60-digit probabilities."""
    how = recipe(deviation)
    table = discrete_gaussian._table(how.base_variance)
    ends = [0, *table.entries, 1 << 128]
    counts = {table.smallest + i: b - a for i, (a, b) in enumerate(itertools.pairwise(ends))}
    for z in how.factors:
        joined = {}
        for outer, m in counts.items():
            for inner, k in counts.items():
                joined[inner + z * outer] = joined.get(inner + z * outer, 0) + m * k
        counts = joined
    whole = sum(counts.values())
    assert whole == 1 << 128 * 2 ** len(how.factors)
    radius = math.ceil(18 * deviation)
    reference = exact(deviation, radius)
    away = sum(abs(Fraction(counts.get(k - radius, 0), whole) - Fraction(p)) for k, p in enumerate(reference))
    assert max(map(abs, counts)) <= how.largest
    assert float(away / 2) <= 2.0**how.log2_distance <= 2.0**LOG2_DISTANCE


@given(st.floats(1.0, LARGEST))
def test_every_deviation_has_a_recipe_within_the_stated_distance(deviation):
    how = recipe(deviation)
    assert how.log2_distance <= LOG2_DISTANCE
    assert how.base_variance * math.prod(1 + z * z for z in how.factors) == Fraction(deviation) ** 2
    assert how.base_variance <= 128**2
    assert how.largest < 2**63


def test_bits_are_drawn_until_the_value_is_certain():
    """The lazy inverse equals a search with all 128 bits, also where upper halves are equal."""
    table = discrete_gaussian._Table(Fraction(9))
    rng = np.random.default_rng(0)
    uniforms = [int.from_bytes(rng.bytes(16), "big") for _ in range(2000)]
    for entry in table.entries:
        uniforms += [u for u in (entry - 1, entry, entry + 1) if 0 <= u < 1 << 128]
    prefix = np.array([u >> 112 for u in uniforms], np.uint16)
    rest = np.array([[(u >> 64 & (1 << 48) - 1) << 16, u & (1 << 64) - 1] for u in uniforms], np.uint64)
    expected = [table.smallest + sum(entry <= u for entry in table.entries) for u in uniforms]
    np.testing.assert_array_equal(table.resolve(prefix, rest), expected)
    certain = table.cells[prefix] != discrete_gaussian._OPEN
    np.testing.assert_array_equal(table.cells[prefix][certain], np.array(expected)[certain])
    assert 0 < certain.sum() < len(uniforms)


def test_streams_of_different_keys_are_independent_equal_ones_are_equal():
    base = drawn(900.0)
    for other in (drawn(900.0, seed=1), drawn(900.0, label="y")):
        assert abs(np.corrcoef(base, other)[0, 1]) < 6 / math.sqrt(N)
    for lag in (1, 2, 1 << 13):
        assert abs(np.corrcoef(base[:-lag], base[lag:])[0, 1]) < 6 / math.sqrt(N - lag)
    np.testing.assert_array_equal(base, drawn(900.0))


def test_further_draws_of_one_stream_are_new():
    stream = NoiseSource.from_seed(0).integers("x")
    first, second = stream.draw(N, 900.0), stream.draw(N, 900.0)
    assert abs(np.corrcoef(first, second)[0, 1]) < 6 / math.sqrt(N)


def test_a_label_serves_one_stream_of_either_kind():
    source = NoiseSource.fresh()
    source.integers("step/0")
    for again in (source.stream, source.integers):
        with pytest.raises(NoiseError, match="drawn before"):
            again("step/0")


def test_the_dither_is_uniform_and_apart_from_the_noise():
    plain, other = (NoiseSource.from_seed(0).integers("x") for _ in range(2))
    dither = other.dither(N)
    assert dither.dtype == np.uint32
    assert dither.max() < 2**DITHER_BITS
    assert stats.kstest(dither / 2**DITHER_BITS, "uniform").pvalue > 1e-6
    np.testing.assert_array_equal(plain.draw(100, 9.0), other.draw(100, 9.0))


@pytest.mark.parametrize("deviation", KNOWN)
def test_known_answers(deviation):
    """From key 00 01 … 1f; frozen when format 1 was made."""
    stream = DiscreteGaussianStream(bytes(range(32)), "known")
    assert stream.draw(8, deviation).tolist() == KNOWN[deviation]


@pytest.mark.parametrize("deviation", [0.0, 0.99, -1.0, math.nan, math.inf, 2.0**31])
def test_deviations_out_of_range_are_refused(deviation):
    with pytest.raises(NoiseError, match="deviation"):
        DiscreteGaussianStream(bytes(32), "x").draw(1, deviation)


def test_wrong_keys_and_arrays_are_refused_and_keys_do_not_print():
    with pytest.raises(NoiseError, match="32 bytes"):
        DiscreteGaussianStream(b"short", "x")
    stream = DiscreteGaussianStream(b"s" * 32, "x")
    assert "sss" not in repr(stream)
    for total in (np.zeros(3), np.zeros((2, 2), np.int64), np.zeros(6, np.int64)[::2]):
        with pytest.raises(NoiseError, match="contiguous int64"):
            stream.add_to(total, 3.0)
    assert stream.draw(0, 3.0).size == 0
