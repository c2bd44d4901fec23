# SPDX-License-Identifier: Apache-2.0
"""The release gate's decision from four sums."""

import math
from dataclasses import astuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.gate import GateDecision, decide

Floats = npt.NDArray[np.float64]


def sums_of(candidate: Floats, previous: Floats) -> Floats:
    """What the league's merchants send together."""
    difference = candidate - previous
    rows = np.stack([np.ones_like(candidate), candidate, difference, difference**2], axis=1)
    return np.asarray(rows.sum(axis=0))


def league(gain: float, users: int = 4000, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    previous = rng.uniform(0.1, 0.5, users)
    return sums_of(previous + gain + rng.normal(0.0, 0.1, users), previous)


def test_a_better_candidate_passes() -> None:
    found = decide(league(gain=0.02), 0.0)
    assert found.passed
    assert found.low < 0.02 < found.high
    assert found.users == 4000
    assert found.words.startswith("published (")


@pytest.mark.parametrize("gain", [0.0, -0.02])
def test_a_candidate_whose_mean_paired_difference_is_not_above_zero_with_95_percent_confidence_is_refused(
    gain: float,
) -> None:
    found = decide(league(gain), 0.0)
    assert not found.passed
    assert found.low <= 0.0
    assert found.low < gain < found.high
    assert found.words.startswith("not published")


def test_the_same_model_is_refused() -> None:
    values = np.full(4000, 0.3)
    assert not decide(sums_of(values, values), 0.0).passed


def test_a_gain_too_small_to_be_seen_is_refused() -> None:
    assert not decide(league(gain=0.002), 0.0).passed


def persons_at_several_merchants(rng: np.random.Generator, alike: float) -> Floats:
    """150 persons at 4 merchants, no true difference; `alike` of the variance belongs to the person."""
    person = rng.normal(0.0, math.sqrt(alike), 150)
    rows = person[:, None] + rng.normal(0.0, math.sqrt(1.0 - alike), (150, 4))
    difference = 0.1 * rows.ravel()
    return sums_of(0.3 + difference, np.full(600, 0.3))


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])
def test_a_candidate_that_is_no_better_is_published_in_at_most_2_5_percent_of_cases_though_persons_shop_at_several_merchants(  # noqa: E501
    alike: float,
) -> None:
    rng = np.random.default_rng(11)
    published = sum(decide(persons_at_several_merchants(rng, alike), 0.0).passed for _ in range(4000))
    assert published <= 0.025 * 4000


def test_a_person_whose_rows_are_all_alike_is_one_person() -> None:
    """The worst case meets 2.5 % but for what 20,000 draws scatter (three deviations: 0.33 %)."""
    rng = np.random.default_rng(12)
    published = sum(decide(persons_at_several_merchants(rng, 1.0), 0.0).passed for _ in range(20_000))
    assert 0.0217 <= published / 20_000 <= 0.0283


def test_taking_rows_for_persons_would_publish_too_often() -> None:
    rng = np.random.default_rng(13)
    published = sum(decide(persons_at_several_merchants(rng, 0.9), 0.0, 1.0).passed for _ in range(1000))
    assert published > 0.1 * 1000


@given(
    gain=st.floats(-0.1, 0.1),
    users=st.integers(10, 3000),
    noise=st.floats(0.0, 50.0),
    more=st.floats(0.0, 50.0),
)
def test_noise_that_merchants_added_widens_the_interval_and_never_narrows_it(
    gain: float, users: int, noise: float, more: float
) -> None:
    sums = league(gain, users)
    quiet, loud = decide(sums, noise), decide(sums, noise + more)
    assert loud.low <= quiet.low
    assert loud.high >= quiet.high
    assert quiet.passed or not loud.passed


def test_noisy_sums_of_equal_models_are_seldom_published() -> None:
    rng, previous, deviation = np.random.default_rng(14), np.full(3000, 0.3), 25.0
    equal = sums_of(previous + rng.normal(0.0, 0.1, 3000), previous)
    equal[2] = 0.0
    published = sum(decide(equal + rng.normal(0.0, deviation, 4), deviation).passed for _ in range(4000))
    assert published <= 0.025 * 4000


def test_a_large_gain_passes_through_noise() -> None:
    assert decide(league(gain=0.1), 20.0).passed


def refused_unseen(found: GateDecision) -> bool:
    return not found.passed and (found.low, found.high) == (-1.0, 1.0) and np.isfinite(astuple(found)).all()


@pytest.mark.parametrize("users", [0, 1, 2, 7])
def test_sums_that_hold_too_few_persons_are_refused(users: int) -> None:
    gains = np.full(users, 0.5)
    assert refused_unseen(decide(sums_of(gains, np.zeros(users)), 0.0))


def test_a_handful_of_users_who_differ_is_refused() -> None:
    candidate = np.array([0.9, 0.2, 0.8, 0.1, 0.7, 0.9, 0.3, 0.6])
    assert not decide(sums_of(candidate, np.zeros(8)), 0.0).passed


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_sums_that_are_not_finite_are_refused(place: int, value: float) -> None:
    sums = league(gain=0.1)
    sums[place] = value
    found = decide(sums, 0.0)
    assert refused_unseen(found)
    assert "nan" not in found.words


def test_a_count_that_noise_made_negative_is_refused() -> None:
    assert refused_unseen(decide(np.array([-3.0, 1.0, 2.0, 1.0]), 5.0))


@pytest.mark.parametrize(("noise", "effect"), [(-1.0, 4.0), (math.nan, 4.0), (0.0, 0.5), (0.0, math.inf)])
def test_settings_that_mean_nothing_are_an_error(noise: float, effect: float) -> None:
    with pytest.raises(ValueError, match="design effect"):
        decide(league(gain=0.1), noise, effect)
