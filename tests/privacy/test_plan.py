# SPDX-License-Identifier: Apache-2.0
"""Plans: calibration, that nothing in them can disagree, and their words."""

import json
import math
from dataclasses import replace

import pytest

from privacy.accountant import GaussianEvent, GroupSampledGaussianEvent, SampledGaussianEvent, epsilon
from privacy.errors import CalibrationError
from privacy.plan import Mode, PrivacyPlan, PrivacyRequest, Unit, calibrate

REQUEST = PrivacyRequest(
    mode="local",
    epsilon=3.0,
    delta=1e-5,
    rounds=6,
    steps_per_round=4,
    sampling_rate=0.1,
    clipping_norm=0.5,
    popularity_share=0.18,
    gate_share=0.02,
)


@pytest.fixture(scope="module")
def plan():
    return calibrate(REQUEST)


@pytest.mark.parametrize("target", [1.0, 3.0, 8.0])
def test_calibration_meets_epsilon_with_the_smallest_noise(target):
    found = calibrate(replace(REQUEST, epsilon=target))
    assert target * 0.99 < found.epsilon <= target
    less = replace(found, epsilon=math.inf, noise_multiplier=found.noise_multiplier * 0.99)
    assert epsilon(less.events, less.delta) > target


def test_the_plans_epsilon_covers_popularity_every_training_step_and_the_gate_together(plan):
    assert plan.events[0] == GaussianEvent(plan.popularity_noise_multiplier)
    assert plan.events[-1] == GaussianEvent(plan.gate_noise_multiplier)
    assert sum(e.steps for e in plan.events if isinstance(e, SampledGaussianEvent)) == plan.steps == 24
    assert epsilon(plan.events, plan.delta) == plan.epsilon


def test_shares_are_of_mu_squared(plan):
    ratio = (plan.gate_noise_multiplier / plan.popularity_noise_multiplier) ** 2
    assert ratio == pytest.approx(0.18 / 0.02)
    alone = calibrate(replace(REQUEST, rounds=0, popularity_share=1.0, gate_share=0.0))
    assert alone.epsilon == pytest.approx(3.0, rel=1e-6)


def test_a_plan_that_claims_less_than_its_events_cost_cannot_be_built(plan):
    with pytest.raises(CalibrationError, match="claims epsilon"):
        replace(plan, epsilon=plan.epsilon * 0.9)
    forged = plan.to_dict() | {"noise_multiplier": plan.noise_multiplier / 2}
    with pytest.raises(CalibrationError, match="claims epsilon"):
        PrivacyPlan.from_dict(forged)


def test_epsilon_after_never_falls_from_round_to_round_and_ends_at_the_plans_epsilon(plan):
    spent = [plan.epsilon_after(r) for r in range(plan.rounds + 1)]
    assert spent == sorted(spent)
    assert spent[0] == epsilon(plan.release_events("popularity"), plan.delta)
    assert spent[-1] == plan.epsilon


def test_plans_survive_json(plan):
    assert PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    none = calibrate(replace(REQUEST, mode="none"))
    assert PrivacyPlan.from_dict(json.loads(json.dumps(none.to_dict()))) == none
    with pytest.raises(CalibrationError, match="no fields"):
        PrivacyPlan.from_dict(plan.to_dict() | {"noise": 1})


def test_a_user_of_k_merchants_is_charged_for_k(plan):
    four = calibrate(replace(REQUEST, unit="user_k", merchants_per_user=4))
    assert sum(e.steps for e in four.release_events("training")) == 16
    assert len(four.release_events("popularity")) == 4
    assert four.noise_multiplier > 1.4 * plan.noise_multiplier
    assert four.epsilon <= 3.0


def test_a_shared_noise_charges_a_user_of_k_merchants_as_a_group(plan):
    shared = replace(plan, epsilon=math.inf)
    object.__setattr__(shared, "mode", Mode.DISTRIBUTED)
    object.__setattr__(shared, "merchants_per_user", 2)
    assert isinstance(shared.release_events("training")[0], GroupSampledGaussianEvent)
    assert shared.release_events("gate") == (GaussianEvent(shared.gate_noise_multiplier / 2),)


def test_mode_none_claims_nothing():
    none = calibrate(replace(REQUEST, mode="none"))
    assert none.events == ()
    assert none.epsilon == none.epsilon_after(1) == math.inf
    assert none.statement.startswith("No differential privacy")
    with pytest.raises(CalibrationError, match="protects nothing"):
        replace(none, epsilon=1.0)


@pytest.mark.parametrize("unit", [Unit.USER_MERCHANT, Unit.USER_K])
def test_the_statement_names_unit_adversary_epsilon_and_delta(unit):
    found = calibrate(replace(REQUEST, unit=unit, merchants_per_user=3 if unit is Unit.USER_K else 1))
    words = {
        Unit.USER_MERCHANT: "one user inside one merchant",
        Unit.USER_K: "at most 3 merchants",
    }
    assert words[unit] in found.statement
    assert "1e-05" in found.statement
    assert "everybody outside the merchant" in found.statement
    assert "user-level" not in found.statement
    assert len(found.not_protected) > 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "merchant"}, "not available yet"),
        ({"mode": "central"}, "mode must be one of"),
        ({"unit": "user"}, "unit must be one of"),
        ({"unit": "home_user"}, "'home_user' is not available yet"),
        ({"delta": 1e-50}, "delta=1e-50 is too small to account for"),
        ({"unit": "user_k"}, "merchants_per_user >= 2"),
        ({"merchants_per_user": 2}, "merchants_per_user >= 2"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"epsilon": math.inf}, "epsilon must be positive"),
        ({"delta": 0.0}, "delta"),
        ({"sampling_rate": 0.0}, "sampling_rate"),
        ({"sampling_rate": 1.1}, "sampling_rate"),
        ({"clipping_norm": 0.0}, "clipping norms"),
        ({"rounds": -1}, "rounds"),
        ({"popularity_share": 1.0}, "leave something"),
        ({"gate_share": -0.1}, "leave something"),
        ({"accountant": "gdp"}, "accountant"),
    ],
)
def test_requests_out_of_range_are_refused(change, message):
    with pytest.raises(CalibrationError, match=message):
        calibrate(replace(REQUEST, **change))
