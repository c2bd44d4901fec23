# SPDX-License-Identifier: Apache-2.0
"""The cohort's arithmetic: exact, order-independent, and closed to whatever is not a finite float32 update."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.errors import BadUpdate
from strategies.exact_sum import GRID, ExactSum

SHAPES = {"a": (3,), "b": (), "c": (0, 2)}
values = st.floats(-1e4, 1e4, width=32)


def update(numbers):
    return {
        "a": np.array(numbers[:3], np.float32),
        "b": np.array(numbers[3], np.float32),
        "c": np.zeros((0, 2), np.float32),
    }


updates = st.lists(values, min_size=4, max_size=4).map(update)


@given(st.lists(st.tuples(updates, st.integers(1, 1000)), min_size=1, max_size=8), st.randoms())
def test_the_sum_is_the_same_bit_for_bit_for_every_order_of_arrival(terms, random):
    def mean(order):
        total = ExactSum(SHAPES, len(order))
        for arrays, weight in order:
            total.add(total.terms(arrays, weight))
        return total.mean()

    shuffled = random.sample(terms, len(terms))
    first, second = mean(terms), mean(shuffled)
    assert all(first[k].tobytes() == second[k].tobytes() for k in SHAPES)


@given(st.lists(st.tuples(updates, st.integers(1, 100)), min_size=1, max_size=8))
def test_the_mean_is_the_weighted_mean(terms):
    total = ExactSum(SHAPES, len(terms))
    for arrays, weight in terms:
        total.add(total.terms(arrays, weight))
    weights = np.array([w for _, w in terms], np.float64)
    expected = sum(w * u["a"].astype(np.float64) for u, w in terms) / weights.sum()
    assert np.allclose(total.mean()["a"], expected, atol=1 / GRID, rtol=1e-6)
    assert total.weight == weights.sum()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda u: u | {"a": np.array([1, np.nan, 0], np.float32)}, "NaN"),
        (lambda u: u | {"a": np.array([1, np.inf, 0], np.float32)}, "NaN or infinity"),
        (lambda u: u | {"a": np.zeros(4, np.float32)}, "expected float32"),
        (lambda u: u | {"a": np.zeros(3, np.float64)}, "expected float32"),
        (lambda u: {"a": u["a"]}, "missing"),
        (lambda u: u | {"d": np.zeros(1, np.float32)}, "unexpected"),
        (lambda u: u | {"a": np.full(3, 3e38, np.float32)}, "out of range"),
    ],
)
def test_an_update_that_is_not_fit_to_be_added_is_refused_whole(change, complaint):
    total = ExactSum(SHAPES, 2)
    total.add(total.terms(update([1, 2, 3, 4]), 1))
    before = {k: v.copy() for k, v in total.mean().items()}
    with pytest.raises(BadUpdate, match=complaint):
        total.terms(change(update([1, 1, 1, 1])), 1)
    assert all(np.array_equal(before[k], total.mean()[k]) for k in SHAPES)


@pytest.mark.parametrize("weight", [0, -3])
def test_a_weight_below_one_is_refused(weight):
    with pytest.raises(BadUpdate, match="weight"):
        ExactSum(SHAPES, 2).terms(update([1, 1, 1, 1]), weight)


def test_no_sum_wraps_within_the_cohort():
    cohort = 4
    largest = np.float32(2**62 / cohort / GRID * 0.999)
    total = ExactSum({"a": (1,)}, cohort)
    for _ in range(cohort):
        total.add(total.terms({"a": np.array([largest])}, 1))
    assert total.mean()["a"][0] == pytest.approx(largest, rel=1e-6)
