# SPDX-License-Identifier: Apache-2.0
"""Plans: calibration, that nothing in them can disagree, and their words."""

import json
import math
from dataclasses import replace

import pytest

from privacy.accountant import GaussianEvent, GroupSampledGaussianEvent, SampledGaussianEvent, epsilon
from privacy.errors import CalibrationError
from privacy.noise_shares import effective_noise_multiplier
from privacy.plan import PrivacyPlan, PrivacyRequest, Unit, calibrate

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


SHARED = replace(
    REQUEST,
    mode="distributed",
    rounds=24,
    steps_per_round=1,
    cohort=10,
    dropouts=2,
    colluders=2,
    coordinates=5000,
)


@pytest.fixture(scope="module")
def shared():
    return calibrate(SHARED)


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
    assert epsilon(plan.events, plan.delta) <= plan.epsilon * (1 - 9e-6)


def test_shares_are_of_mu_squared(plan):
    ratio = (plan.gate_noise_multiplier / plan.popularity_noise_multiplier) ** 2
    assert ratio == pytest.approx(0.18 / 0.02)
    alone = calibrate(replace(REQUEST, rounds=0, popularity_share=1.0, gate_share=0.0))
    assert alone.epsilon == pytest.approx(3.0, rel=1e-6)


def test_a_plan_holds_on_a_machine_whose_accountant_differs_in_the_sixth_digit(plan, shared, monkeypatch):
    monkeypatch.setattr("privacy.plan.epsilon", lambda *account: epsilon(*account) * (1 + 3e-6))
    for made in (plan, shared, calibrate(replace(REQUEST, rounds=0, popularity_share=1.0, gate_share=0.0))):
        assert PrivacyPlan.from_dict(made.to_dict()) == made


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
    assert spent[-1] == epsilon(plan.events, plan.delta) == pytest.approx(plan.epsilon, rel=2e-5)


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


def test_a_home_user_is_charged_for_one_merchant(plan, shared):
    for request, one in ((REQUEST, plan), (SHARED, shared)):
        assert calibrate(replace(request, unit="home_user")).events == one.events
    with pytest.raises(CalibrationError, match="merchants_per_user"):
        calibrate(replace(REQUEST, unit="home_user", merchants_per_user=2))


def test_a_shared_noise_charges_a_user_of_k_merchants_as_a_group():
    two = calibrate(replace(SHARED, unit="user_k", merchants_per_user=2))
    assert two.release_events("training") == (GroupSampledGaussianEvent(two.noise_multiplier, 0.1, 1, 2),)
    assert two.release_events("gate") == (GaussianEvent(two.gate_noise_multiplier / 2),)
    assert two.epsilon <= 3.0


def test_a_user_whose_merchants_sit_in_two_rosters_loses_no_more_than_in_one():
    """Two sums, each with the whole noise and the user once in it, or one sum with the user twice in it."""
    two = calibrate(replace(SHARED, unit="user_k", merchants_per_user=2))
    apart = (
        *(GaussianEvent(noise) for noise in (two.popularity_noise_multiplier, two.gate_noise_multiplier) * 2),
        SampledGaussianEvent(two.noise_multiplier, two.sampling_rate, 2 * two.rounds),
    )
    assert epsilon(apart, two.delta) < two.epsilon


def test_the_draws_of_as_many_rosters_as_a_user_has_merchants_are_charged(shared):
    PrivacyPlan.from_dict(shared.to_dict() | {"epsilon": 37.2})
    with pytest.raises(CalibrationError, match="beyond what draws"):
        PrivacyPlan.from_dict(shared.to_dict() | {"epsilon": 37.2, "unit": "user_k", "merchants_per_user": 2})


def test_a_distributed_plan_has_central_noise_and_shares_it(shared):
    local = calibrate(replace(REQUEST, rounds=24, steps_per_round=1))
    assert shared.noise_multiplier == pytest.approx(local.noise_multiplier, rel=1e-3)
    for family, norm in (("popularity", 1.0), ("training", 0.5), ("gate", 1.0)):
        share = shared.share(family)
        noise = shared.noise_multiplier if family == "training" else getattr(shared, f"{family}_noise_multiplier")
        assert effective_noise_multiplier(share, 6) == pytest.approx(noise, rel=1e-9)
        assert share.sensitivity_grid == 2**20 * norm + math.sqrt(5000)
        assert share.limit_grid > 2**20 * norm
    with pytest.raises(CalibrationError, match="shares no noise"):
        local.share("training")
    with pytest.raises(CalibrationError, match="shares no noise"):
        calibrate(replace(SHARED, gate_share=0.0)).share("gate")


def test_a_distributed_plan_survives_json_and_recomputes_its_epsilon(shared):
    assert PrivacyPlan.from_dict(json.loads(json.dumps(shared.to_dict()))) == shared
    with pytest.raises(CalibrationError, match="claims epsilon"):
        PrivacyPlan.from_dict(shared.to_dict() | {"noise_multiplier": shared.noise_multiplier / 2})
    spent = [shared.epsilon_after(r) for r in (0, 12, 24)]
    assert spent == sorted(spent)
    assert spent[-1] == epsilon(shared.events, shared.delta) == pytest.approx(shared.epsilon, rel=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps_per_round": 2, "rounds": 12}, "steps_per_round must be 1"),
        ({"cohort": 0}, "give cohort, dropouts, colluders"),
        ({"dropouts": 8}, "dropouts . colluders < cohort"),
        ({"colluders": -1}, "dropouts . colluders < cohort"),
        ({"cohort": 10.0}, "whole"),
        ({"coordinates": 0}, "give cohort, dropouts, colluders"),
        ({"coordinates": -1}, "coordinates >= 1"),
        ({"scale_log2": 33}, "scale_log2 in 0..32"),
        ({"scale_log2": 0, "coordinates": 1}, "too coarse"),
        ({"scale_log2": 28}, "leaves no room"),
        ({"clipping_norm": 1e4}, "leaves no room"),
        ({"mode": "local"}, "shares no noise"),
        ({"mode": "none", "epsilon": "inf"}, "shares no noise"),
        ({"epsilon": 60.0}, "beyond what draws"),
    ],
)
def test_a_distributed_plan_whose_shares_grid_or_ring_dont_fit_its_noise_cannot_be_built(change, message, shared):
    data = shared.to_dict()
    with pytest.raises(CalibrationError, match=message):
        PrivacyPlan.from_dict(data | change)


def test_the_distributed_statement_names_who_is_tolerated(shared):
    assert "the platform together with at most 2 of the 10 merchants" in shared.statement
    assert "fewer than 8 of the 10" in shared.statement
    assert shared.adversary in shared.statement
    assert any("more than 2 merchants" in line for line in shared.not_protected)
    assert len(shared.not_protected) == len(calibrate(REQUEST).not_protected) + 4


def test_mode_none_claims_nothing():
    none = calibrate(replace(REQUEST, mode="none"))
    assert none.events == ()
    assert none.epsilon == none.epsilon_after(1) == math.inf
    assert none.statement.startswith("No differential privacy")
    with pytest.raises(CalibrationError, match="protects nothing"):
        replace(none, epsilon=1.0)


@pytest.mark.parametrize("unit", [Unit.USER_MERCHANT, Unit.HOME_USER, Unit.USER_K])
def test_the_statement_names_unit_adversary_epsilon_and_delta(unit):
    found = calibrate(replace(REQUEST, unit=unit, merchants_per_user=3 if unit is Unit.USER_K else 1))
    words = {
        Unit.USER_MERCHANT: "one user inside one merchant",
        Unit.HOME_USER: "one user, whose events are used at their home merchant only",
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
        ({"mode": "merchant"}, "protects the unit merchant"),
        ({"mode": "central"}, "mode must be one of"),
        ({"unit": "user"}, "unit must be one of"),
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
