# SPDX-License-Identifier: Apache-2.0
"""The merchant's policy: reading it, and what it refuses."""

import math
from dataclasses import replace

import pytest

from privacy.accountant import epsilon
from privacy.errors import PolicyError, PolicyRefusal
from privacy.plan import PrivacyRequest, calibrate
from privacy.policy import Policy, RoundRequest

PLAN = calibrate(PrivacyRequest("local", 3.0, 1e-5, 2, 4, 0.1, 1.0))
SHARED = calibrate(
    PrivacyRequest("distributed", 3.0, 1e-5, 2, 1, 0.25, 1.0, cohort=10, colluders=1, coordinates=100)
)
ASKED = RoundRequest(task="recommendation", cohort_size=5, secure_aggregation=True)


def test_reads_toml_and_keeps_defaults(tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text('max_epsilon = 3.5\nmodes = ["local"]\n', "utf-8")
    policy = Policy.read(file)
    assert policy == replace(Policy(), max_epsilon=3.5, modes=("local",))
    policy.check(PLAN, ASKED)


def test_a_unit_that_the_policy_does_not_name_is_refused():
    one_of_three = calibrate(PrivacyRequest("local", 3.0, 1e-5, 2, 4, 0.1, 1.0, "user_k", 3))
    with pytest.raises(PolicyRefusal, match="unit 'user_k' is not among"):
        Policy().check(one_of_three, ASKED)
    Policy(units=("user_merchant", "user_k")).check(one_of_three, ASKED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_epsilonn = 1.0", "no keys"),
        ("max_epsilon = 0", "max_epsilon"),
        ("max_epsilon = inf", "max_epsilon"),
        ('max_epsilon = "8"', "max_epsilon"),
        ("max_epsilon = true", "max_epsilon"),
        ("delta = 0.5", "delta"),
        ("min_cohort = 0", "min_cohort"),
        ("min_cohort = 2.5", "min_cohort"),
        ("min_carriers = 0", "min_carriers"),
        ("secure_aggregation_required = 1", "secure_aggregation_required"),
        ("tasks = []", "tasks"),
        ('modes = ["locall"]', "modes"),
        ('units = "user_k"', "units"),
        ("max_epsilon = ", "TOML"),
    ],
)
def test_a_policy_file_with_an_unknown_key_or_a_value_out_of_range_is_refused_whole(tmp_path, text, message):
    file = tmp_path / "policy.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(PolicyError, match=message) as error:
        Policy.read(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PolicyError, match="cannot read"):
        Policy.read(tmp_path / "none.toml")


def test_every_finding_is_told_at_once():
    with pytest.raises(PolicyError, match=r"max_epsilon.*min_cohort"):
        Policy(max_epsilon=-1, min_cohort=0)


def test_a_plan_that_could_cost_more_than_max_epsilon_is_refused_before_any_training():
    with pytest.raises(PolicyRefusal, match="costs epsilon") as refused:
        Policy(max_epsilon=2.9).check(PLAN, ASKED)
    assert "2.9" in refused.value.reason


def test_a_plan_at_max_epsilon_is_allowed_and_the_next_smaller_limit_refuses_it():
    for plan in (PLAN, SHARED):
        cost = epsilon(plan.events, plan.delta)
        Policy(max_epsilon=cost).check(plan, ASKED)
        with pytest.raises(PolicyRefusal, match="costs epsilon"):
            Policy(max_epsilon=math.nextafter(cost, 0.0)).check(plan, ASKED)


def test_the_cost_is_computed_at_the_policys_own_delta():
    Policy(max_epsilon=3.0, delta=1e-5).check(PLAN, ASKED)
    with pytest.raises(PolicyRefusal, match="delta 1e-08"):
        Policy(max_epsilon=3.0, delta=1e-8).check(PLAN, ASKED)


@pytest.mark.parametrize(
    ("policy", "asked", "message"),
    [
        (Policy(modes=("distributed",)), ASKED, "mode 'local'"),
        (Policy(units=("user_k",)), ASKED, "unit 'user_merchant'"),
        (Policy(), replace(ASKED, task="churn"), "task 'churn'"),
        (Policy(min_cohort=6), ASKED, "at least 6"),
        (Policy(), replace(ASKED, secure_aggregation=False), "secure aggregation is required"),
    ],
)
def test_a_mode_task_cohort_or_channel_that_the_policy_does_not_name_is_refused(policy, asked, message):
    with pytest.raises(PolicyRefusal, match=message):
        policy.check(PLAN, asked)


def test_mode_none_must_be_allowed_by_name():
    none = calibrate(PrivacyRequest("none", 3.0, 1e-5, 2, 4, 0.1, 1.0))
    with pytest.raises(PolicyRefusal, match="mode 'none'"):
        Policy().check(none, ASKED)
    Policy(modes=("none",)).check(none, ASKED)


def test_a_vocabulary_with_items_that_fewer_than_min_carriers_merchants_carry_is_refused():
    Policy().check_vocabulary(3)
    Policy(min_carriers=1).check_vocabulary(1)
    for policy, carriers in ((Policy(), 2), (Policy(), 0), (Policy(min_carriers=5), 4)):
        with pytest.raises(PolicyRefusal, match=f"items of {carriers} merchants"):
            policy.check_vocabulary(carriers)
