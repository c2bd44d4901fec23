# SPDX-License-Identifier: Apache-2.0
"""The average over rounds: later rounds weigh more, noise cancels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.averaging import averaged


def average_of(models, power):
    found = {}
    for number, model in enumerate(models, start=1):
        found = averaged(found, {"w": model}, number, power)
    return found["w"]


def test_the_first_rounds_model_is_its_own_average():
    model = np.array([1.5, -2.0], np.float32)
    assert np.array_equal(average_of([model], 3.0), model)


@given(st.integers(1, 40), st.sampled_from([0.5, 1.0, 3.0]))
def test_round_i_weighs_in_proportion_to_a_polynomial_of_i_and_all_weights_sum_to_one(rounds, power):
    weights = average_of(list(np.eye(rounds, dtype=np.float32)), power)
    assert weights.sum() == pytest.approx(1.0, abs=1e-5)
    growth = weights[1:] / weights[:-1]
    i = np.arange(1, rounds)
    np.testing.assert_allclose(growth, (i + power) / i, rtol=1e-4)


def test_the_average_of_noisy_models_is_nearer_to_what_they_scatter_around():
    noisy = np.random.default_rng(0).normal(size=(60, 500)).astype(np.float32)
    assert average_of(list(noisy), 3.0).std() < 0.4 * noisy.std()


def test_an_average_is_float32_and_keeps_shapes():
    found = averaged({}, {"a": np.zeros((2, 3), np.float32), "b": np.float32(1)}, 1, 3.0)
    assert {name: (array.dtype, array.shape) for name, array in found.items()} == {
        "a": (np.dtype("float32"), (2, 3)),
        "b": (np.dtype("float32"), ()),
    }
