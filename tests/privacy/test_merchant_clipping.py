# SPDX-License-Identifier: Apache-2.0
"""Mode `merchant`: what a whole merchant may move, what it costs, what its statement says."""

import json
import math
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.accountant import GaussianEvent, SampledGaussianEvent
from privacy.errors import CalibrationError, PolicyError, PolicyRefusal
from privacy.integer_update import integer_update
from privacy.merchant_clipping import clipped_values, clipped_whole
from privacy.noise import NoiseSource
from privacy.plan import PrivacyPlan, PrivacyRequest, calibrate
from privacy.policy import Policy, RoundRequest
from privacy.stages import LocalUpdate
from tests.privacy.test_plan import SHARED

REQUEST = replace(
    SHARED, mode="merchant", unit="merchant", sampling_rate=1.0, gate_share=0.0, epsilon=8.0, scale_log2=18
)
PLAN = calibrate(REQUEST)
ASKED = RoundRequest(task="recommendation", cohort_size=10, secure_aggregation=True)


def update_of(rng, size):
    a, b = rng.standard_normal((3, 4)) * size, rng.standard_normal(5) * size
    return LocalUpdate({"a": a.astype(np.float32), "b": b.astype(np.float32)})


@given(seed=st.integers(0, 2**32), size=st.sampled_from([0.0, 1e-30, 1e-3, 0.13, 1.0, 1e6, 1e30]))
def test_a_merchants_contribution_has_norm_at_most_c_over_all_its_numbers_whatever_was_trained(seed, size):
    update = update_of(np.random.default_rng(seed), size)
    clipped = clipped_whole(update, 0.5)
    flat = np.concatenate([clipped.tensor(name).numpy().ravel() for name in clipped.names]).astype(np.float64)
    assert np.linalg.norm(flat) <= 0.5
    before = np.concatenate([update.values[name].ravel() for name in clipped.names]).astype(np.float64)
    if np.linalg.norm(before) < 0.49:
        np.testing.assert_array_equal(flat, before)
    elif size < 1e20:
        np.testing.assert_allclose(flat, before * min(1.0, 0.5 / np.linalg.norm(before)), rtol=1e-5)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_contribution_that_is_not_finite_counts_as_none(broken):
    update = update_of(np.random.default_rng(0), 1.0)
    update.values["a"][1, 2] = broken
    clipped = clipped_whole(update, 0.5)
    assert not any(clipped.tensor(name).any() for name in clipped.names)
    assert not clipped_values(np.array([1.0, broken]), 1.0).any()


@given(seed=st.integers(0, 2**32), size=st.sampled_from([1e-3, 0.13, 1e3]))
def test_a_whole_merchant_moves_the_integers_by_at_most_c_on_the_grid_and_its_rounding(seed, size):
    """All of a merchant's data against none, under the same dither and noise."""
    update = update_of(np.random.default_rng(seed), size)
    nothing = LocalUpdate({name: np.zeros_like(array) for name, array in update.values.items()})
    words = [
        integer_update(clipped_whole(each, 0.5), PLAN, NoiseSource.from_seed(1).integers("t")).words.view(np.int32)
        for each in (update, nothing)
    ]
    moved = words[0].astype(np.int64) - words[1]
    assert np.linalg.norm(moved) <= 2**18 * 0.5 + math.sqrt(17)
    assert PLAN.share("training").sensitivity_grid >= 2**18 * 0.5 + math.sqrt(17)


def test_a_round_costs_a_gaussian_without_any_gain_from_sampling():
    assert PLAN.release_events("training") == (SampledGaussianEvent(PLAN.noise_multiplier, 1.0, 1),)
    assert PLAN.release_events("popularity") == (GaussianEvent(PLAN.popularity_noise_multiplier),)
    assert PLAN.release_events("gate") == ()
    mu = math.sqrt(PLAN.rounds / PLAN.noise_multiplier**2 + 1 / PLAN.popularity_noise_multiplier**2)
    assert PLAN.epsilon == pytest.approx(dp_accounting.get_epsilon_gaussian(1 / mu, PLAN.delta), rel=1e-3)
    assert PLAN.epsilon <= 8.0
    assert PrivacyPlan.from_dict(json.loads(json.dumps(PLAN.to_dict()))) == PLAN
    with pytest.raises(CalibrationError, match="claims epsilon"):
        replace(PLAN, noise_multiplier=PLAN.noise_multiplier / 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unit": "user_merchant"}, "mode merchant protects the unit merchant"),
        ({"mode": "distributed"}, "no other mode does"),
        ({"gate_share": 0.1}, "mode merchant has no gate: set gate_share=0"),
        ({"sampling_rate": 0.5}, "set sampling_rate=1"),
        ({"steps_per_round": 2}, "mode merchant sums once per round"),
        ({"clipping_quantile": 0.5}, "clipping_quantile=0.5 takes mode distributed"),
        ({"cohort": 0}, "mode merchant shares its noise"),
        ({"merchants_per_user": 2}, "merchants_per_user"),
    ],
)
def test_what_mode_merchant_cannot_hold_is_refused(change, words):
    with pytest.raises(CalibrationError, match=words):
        calibrate(replace(REQUEST, **change))


def test_the_statement_names_the_merchant_the_tolerated_adversary_and_what_is_left_out():
    assert "for one merchant (all its data; that it takes part is known)" in PLAN.statement
    assert "the platform together with at most 2 of the 10 merchants" in PLAN.statement
    assert "over 24 rounds and every other release" in PLAN.statement
    assert any("such as one of its users" in line for line in PLAN.not_protected)
    assert not any("who was drawn" in line for line in PLAN.not_protected)


def test_a_policy_must_name_mode_and_unit_and_the_unit_alone():
    with pytest.raises(PolicyRefusal, match=r"mode 'merchant' is not among .* unit 'merchant' is not among"):
        Policy().check(PLAN, ASKED)
    allowed = Policy(modes=("merchant",), units=("merchant",))
    allowed.check(PLAN, ASKED)
    with pytest.raises(PolicyRefusal, match="too little noise to leave without a mask"):
        replace(allowed, secure_aggregation_required=False).check(PLAN, replace(ASKED, secure_aggregation=False))
    with pytest.raises(PolicyError, match="a ledger of its own"):
        Policy(units=("user_merchant", "merchant"))


def test_mode_none_takes_any_unit():
    assert not calibrate(PrivacyRequest("none", 8.0, 1e-5, 1, 1, 1.0, 1.0, unit="merchant")).private
