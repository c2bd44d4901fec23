# SPDX-License-Identifier: Apache-2.0
"""The accountant against Google's dp-accounting, exact formulas and what it must refuse."""

import math

import dp_accounting
import pytest
from dp_accounting import pld
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant

from privacy.accountant import (
    DRAWN,
    GaussianEvent,
    GroupSampledGaussianEvent,
    SampledGaussianEvent,
    epsilon,
    event_from_dict,
    event_to_dict,
    fits,
    gaussian_epsilon,
    gaussian_mu,
)
from privacy.errors import AccountingError

CASES = {
    "popularity, training, gate": (
        [GaussianEvent(4.0), SampledGaussianEvent(1.3, 0.1, 240), GaussianEvent(12.0)],
        1e-5,
    ),
    "many small steps": ([SampledGaussianEvent(1.0, 0.01, 1000)], 1e-6),
    "few large steps": ([SampledGaussianEvent(0.8, 0.3, 20)], 1e-5),
    "full batches": ([SampledGaussianEvent(5.0, 1.0, 30)], 1e-5),
    "full and sampled": ([SampledGaussianEvent(3.0, 1.0, 3), SampledGaussianEvent(2.0, 0.3, 30)], 1e-5),
    "strong noise": ([SampledGaussianEvent(8.0, 0.1, 240), GaussianEvent(20.0)], 1e-5),
}


def reference(events, delta):
    """Both directions of adjacency, pessimistic, by dp-accounting's PLD."""
    parts = []
    for event in events:
        if isinstance(event, GaussianEvent):
            parts.append(pld.privacy_loss_distribution.from_gaussian_mechanism(event.noise_multiplier))
        else:
            step = pld.privacy_loss_distribution.from_gaussian_mechanism(
                event.noise_multiplier, sampling_prob=event.sampling_rate
            )
            parts.append(step.self_compose(event.steps))
    total = parts[0]
    for part in parts[1:]:
        total = total.compose(part)
    return total.get_epsilon_for_delta(delta)


@pytest.mark.parametrize("case", CASES)
def test_equals_dp_accounting_within_one_percent(case):
    events, delta = CASES[case]
    assert epsilon(events, delta) == pytest.approx(reference(events, delta), rel=0.01)


@pytest.mark.parametrize("case", CASES)
def test_the_epsilon_is_an_upper_bound_numerical_error_is_added_never_subtracted(case):
    events, delta = CASES[case]
    found = epsilon(events, delta)
    # The reference rounds up too: half a percent is its own error at these sizes.
    assert found >= reference(events, delta) * 0.995
    assert epsilon(events, delta, "rdp") >= found


def test_opacus_own_accountant_agrees_where_it_is_defined():
    theirs = PRVAccountant()
    theirs.history = [(1.3, 0.1, 240)]
    ours = epsilon([SampledGaussianEvent(1.3, 0.1, 240)], 1e-5)
    assert ours == pytest.approx(theirs.get_epsilon(1e-5), rel=0.01)


def test_full_batches_have_the_exact_gaussian_epsilon():
    exact = gaussian_epsilon(math.sqrt(30) / 5.0, 1e-5 * (1 - DRAWN))
    assert epsilon([SampledGaussianEvent(5.0, 1.0, 30)], 1e-5) == pytest.approx(exact, rel=1e-12)
    assert gaussian_epsilon(3.0, 1e-5) == pytest.approx(
        dp_accounting.get_epsilon_gaussian(1 / 3.0, 1e-5), rel=1e-6
    )
    assert exact == pytest.approx(dp_accounting.get_epsilon_gaussian(5.0 / math.sqrt(30), 1e-5), rel=1e-6)


@given(eps=st.floats(0.05, 20), log_delta=st.floats(-9, -3))
def test_gaussian_mu_inverts_gaussian_epsilon(eps, log_delta):
    mu = gaussian_mu(eps, 10**log_delta)
    assert gaussian_epsilon(mu, 10**log_delta) <= eps
    assert gaussian_epsilon(mu * 1.001, 10**log_delta) > eps


def test_group_event_equals_dp_accounting_mixture():
    event = GroupSampledGaussianEvent(4.0, 0.1, 100, 3)
    weights = [math.comb(3, j) * 0.1**j * 0.9 ** (3 - j) for j in range(4)]
    step = pld.privacy_loss_distribution.from_mixture_gaussian_mechanism(4.0, [0, 1, 2, 3], weights)
    theirs = step.self_compose(100).get_epsilon_for_delta(1e-5)
    assert theirs * 0.995 <= epsilon([event], 1e-5) <= theirs * 1.01
    assert epsilon([event], 1e-5, "rdp") > epsilon([event], 1e-5)


def test_group_of_one_is_the_sampled_gaussian():
    one = epsilon([GroupSampledGaussianEvent(1.0, 0.1, 20, 1)], 1e-5)
    assert one == epsilon([SampledGaussianEvent(1.0, 0.1, 20)], 1e-5)


@settings(max_examples=4, deadline=None)
@given(noise=st.floats(0.8, 6), rate=st.floats(0.01, 0.5), steps=st.integers(1, 200))
def test_more_steps_less_noise_or_a_higher_rate_never_cost_less(noise, rate, steps):
    base = epsilon([SampledGaussianEvent(noise, rate, steps)], 1e-5)
    slack = 1 - 0.005
    assert epsilon([SampledGaussianEvent(noise, rate, 2 * steps)], 1e-5) >= base * slack
    assert epsilon([SampledGaussianEvent(noise * 0.8, rate, steps)], 1e-5) >= base * slack
    assert epsilon([SampledGaussianEvent(noise, min(1.0, rate * 1.5), steps)], 1e-5) >= base * slack


def test_order_and_splitting_do_not_matter():
    whole = [GaussianEvent(4.0), SampledGaussianEvent(1.3, 0.1, 24)]
    split = [SampledGaussianEvent(1.3, 0.1, 8)] * 3 + [GaussianEvent(4.0)]
    assert epsilon(whole, 1e-5) == epsilon(split, 1e-5)


def test_without_noise_the_epsilon_is_infinite():
    assert epsilon([SampledGaussianEvent(0.0, 0.1, 1)], 1e-5) == math.inf
    assert epsilon([GaussianEvent(0.0)], 1e-5, "rdp") == math.inf


def test_nothing_costs_nothing():
    assert epsilon([], 1e-5) == 0
    assert epsilon([SampledGaussianEvent(1.0, 0.1, 0), SampledGaussianEvent(1.0, 0.0, 9)], 1e-5) == 0


def test_very_little_noise_still_has_a_finite_upper_bound():
    assert 50 < epsilon([SampledGaussianEvent(0.05, 0.1, 10)], 1e-5) < math.inf


def test_an_unknown_event_is_refused_never_guessed():
    with pytest.raises(AccountingError, match="unknown mechanism"):
        epsilon(["laplace"], 1e-5)
    with pytest.raises(AccountingError, match="unknown mechanism"):
        event_from_dict({"event": "laplace", "scale": 1.0})
    with pytest.raises(AccountingError, match="fields"):
        event_from_dict({"event": "gaussian", "noise_multiplier": 1.0, "sampling_rate": 0.1})


@pytest.mark.parametrize("event", [GaussianEvent(2.0), SampledGaussianEvent(1.0, 0.5, 3)])
def test_events_survive_as_data(event):
    assert event_from_dict(event_to_dict(event)) == event


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianEvent(-1.0),
        lambda: GaussianEvent(float("nan")),
        lambda: SampledGaussianEvent(1.0, 1.5, 1),
        lambda: SampledGaussianEvent(1.0, 0.5, -1),
        lambda: SampledGaussianEvent(1.0, 0.5, True),
        lambda: GroupSampledGaussianEvent(1.0, 0.5, 1, 0),
        lambda: epsilon([], 0.0),
        lambda: epsilon([], 1.0),
        lambda: epsilon([], 1e-5, "gdp"),
    ],
)
def test_values_out_of_range_are_refused(make):
    with pytest.raises(AccountingError):
        make()


def test_fits_agrees_with_epsilon():
    events = [SampledGaussianEvent(1.3, 0.1, 240)]
    cost = epsilon(events, 1e-5)
    assert fits(events, cost, 1e-5)
    assert not fits(events, cost * 0.99, 1e-5)
    assert not fits(events, cost, 1e-5, "rdp")


def test_a_millionth_of_delta_is_kept_for_the_distance_of_drawn_noise_from_the_exact_distribution():
    events = [GaussianEvent(2.0)]
    assert epsilon(events, 1e-5) == gaussian_epsilon(0.5, 1e-5 * (1 - 1e-6)) > gaussian_epsilon(0.5, 1e-5)
    assert not fits(events, gaussian_epsilon(0.5, 1e-5), 1e-5)
