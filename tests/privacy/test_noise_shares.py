# SPDX-License-Identifier: Apache-2.0
"""Shares of distributed noise: the worst tolerated case has the plan's noise, anything worse is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.accountant import SampledGaussianEvent, epsilon
from privacy.errors import CalibrationError
from privacy.noise_shares import (
    Sharing,
    Tolerance,
    check_survivors,
    effective_noise_multiplier,
    noise_share,
)


@given(
    noise=st.floats(0.3, 20),
    norm=st.floats(0.01, 10),
    coordinates=st.integers(1, 10**7),
    cohort=st.integers(1, 300),
    lost=st.floats(0, 0.45),
    bad=st.floats(0, 0.45),
)
def test_with_the_worst_tolerated_dropouts_and_colluders_the_effective_noise_multiplier_is_the_plans(
    noise, norm, coordinates, cohort, lost, bad
):
    tolerance = Tolerance(cohort, int(lost * cohort), int(bad * cohort))
    share = noise_share(noise, norm, coordinates, 22, tolerance)
    worst = effective_noise_multiplier(share, tolerance.honest_survivors)
    assert worst == pytest.approx(noise, rel=1e-9)
    assert effective_noise_multiplier(share, cohort) >= worst


def test_fewer_survivors_than_tolerated_are_refused_never_under_noised():
    share = noise_share(1.0, 1.0, 1000, 20, Tolerance(30, 3, 5))
    check_survivors(share, 27)
    with pytest.raises(CalibrationError, match="at least 27 of 30"):
        check_survivors(share, 26)


def test_rounding_to_the_grid_is_charged_as_sensitivity():
    fine = noise_share(1.0, 1.0, 6_000_000, 20, Tolerance(10, 0, 0))
    coarse = noise_share(1.0, 1.0, 6_000_000, 17, Tolerance(10, 0, 0))
    assert fine.sensitivity_grid == 2**20 + math.sqrt(6e6)
    assert coarse.sensitivity_grid / 2**17 == pytest.approx(1.0187, abs=1e-4)


def test_colluders_inflate_the_noise_by_the_known_factor():
    alone = noise_share(1.0, 1.0, 100, 20, Tolerance(30, 0, 0))
    third = noise_share(1.0, 1.0, 100, 20, Tolerance(30, 0, 10))
    assert third.deviation_grid / alone.deviation_grid == pytest.approx(math.sqrt(1.5))


def test_collusion_that_was_not_calibrated_for_costs_what_the_study_says():
    share = noise_share(1.0, 1.0, 1, 24, Tolerance(10, 0, 0))
    costs = [
        epsilon([SampledGaussianEvent(effective_noise_multiplier(share, honest), 0.01, 4000)], 1e-6)
        for honest in (10, 9, 5)
    ]
    assert costs == pytest.approx([4.219, 4.68, 9.58], rel=0.01)


@given(cohort=st.integers(1, 300), noise=st.floats(0.3, 30), scale=st.integers(12, 20))
def test_no_sum_of_a_whole_cohort_leaves_the_ring_but_with_chance_below_1e_30_a_coordinate(cohort, noise, scale):
    share = noise_share(noise, 1.0, 10_000, scale, Tolerance(cohort, 0, 0))
    deviation = math.sqrt(cohort) * share.deviation_grid
    assert cohort * share.limit_grid + 12 * deviation < 2**31
    assert 2 * math.exp(-(12**2) / 2) < 1.1e-31


def test_more_merchants_than_the_ring_has_room_for_are_refused():
    share = noise_share(1.0, 1.0, 1000, 20, Tolerance(30, 3, 5))
    check_survivors(share, 30)
    with pytest.raises(CalibrationError, match="found 31"):
        check_survivors(share, 31)


def test_a_share_needs_room_in_the_ring():
    with pytest.raises(CalibrationError, match="leaves no room"):
        Sharing(Tolerance(300, 0, 0), 1000, 20).share(1.0, 10.0)
    assert Sharing(Tolerance(300, 0, 0), 1000, 16).share(1.0, 10.0).limit_grid > 10 * 2**16


@pytest.mark.parametrize(("cohort", "dropouts", "colluders"), [(0, 0, 0), (3, 2, 1), (3, -1, 0), (3, 0, 4)])
def test_tolerances_that_leave_nobody_honest_are_refused(cohort, dropouts, colluders):
    with pytest.raises(CalibrationError):
        Tolerance(cohort, dropouts, colluders)


def test_a_grid_too_coarse_for_the_proof_is_refused():
    with pytest.raises(CalibrationError, match="scale_log2"):
        noise_share(1.0, 1.0, 1, 1, Tolerance(10, 0, 0))
    with pytest.raises(CalibrationError, match="finite"):
        noise_share(0.0, 1.0, 1, 20, Tolerance(10, 0, 0))
