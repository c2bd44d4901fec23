# SPDX-License-Identifier: Apache-2.0
"""Integer updates: sensitivity for every dither, the summed noise's variance, refusals, the way back."""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy.errors import CalibrationError, NoiseError
from privacy.integer_update import (
    check_roster,
    integer_sums,
    integer_update,
    mean,
    plan_digest,
    released_sum,
    rounded,
)
from privacy.noise import NoiseSource
from privacy.noise_shares import Tolerance, noise_share
from privacy.plan import Mode, PrivacyPlan, Unit
from privacy.secagg import exchange
from privacy.secagg.masks import Vector
from privacy.secagg.merchant import RoundTerms
from privacy.secagg.roster import Member, Roster
from privacy.stages import ClippedUpdate, Rows

N, D = 10, 20_000
PLAN = PrivacyPlan(
    mode=Mode.DISTRIBUTED,
    unit=Unit.USER_MERCHANT,
    epsilon=20.0,
    delta=1e-5,
    clipping_norm=0.5,
    noise_multiplier=1.0,
    sampling_rate=0.1,
    steps_per_round=1,
    rounds=2,
    popularity_noise_multiplier=2.0,
    cohort=N,
    dropouts=2,
    colluders=2,
    coordinates=D,
    scale_log2=20,
)
SHARE = PLAN.share("training")


def clipped(*arrays, norm=0.5):
    names = "abcdefgh"
    dense = {names[i]: torch.as_tensor(a, dtype=torch.float32) for i, a in enumerate(arrays)}
    return ClippedUpdate(norm, dense, {}, torch.zeros(1))


def stream(seed=0, label="step/0"):
    return NoiseSource.from_seed(seed).integers(label)


def noise_of(survivors, seed=0):
    """Summed words of merchants without data, as int64."""
    words = np.zeros(D, np.uint32)
    for merchant in range(survivors):
        words += integer_update(clipped(np.zeros(D)), PLAN, stream(seed, f"{merchant}")).words
    return words.view(np.int32).astype(np.int64)


@given(
    d=st.integers(1, 60),
    scale=st.integers(0, 24),
    size=st.floats(1e-6, 50),
    norm=st.floats(1e-4, 10),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from([np.float32, np.float64]),
    onto_grid=st.booleans(),
)
def test_for_every_dither_one_user_moves_the_integers_by_at_most_s_c_plus_sqrt_d_bounded_or_not(
    d, scale, size, norm, seed, kind, onto_grid
):
    rng = np.random.default_rng(seed)
    others = (rng.standard_normal(d) * size).astype(kind)
    if onto_grid:  # sums next to a step are where rounding moves most
        others = (np.round(others * 2.0**scale) * 2.0**-scale).astype(kind)
    user = rng.standard_normal(d) * rng.choice([1.0, 1e-9], d)
    both = (others + user * norm / np.linalg.norm(user)).astype(kind)
    share = replace(noise_share(1.0, norm, d, 24, Tolerance(N, 0, 0)), scale_log2=scale)
    moved = rounded(both, share, stream(seed)) - rounded(others, share, stream(seed))
    apart = np.linalg.norm((both.astype(np.float64) - others) * 2.0**scale)
    assert np.linalg.norm(moved) <= apart * (1 + 1e-12) + math.sqrt(d)


def test_coordinates_are_bounded_to_the_room_in_the_ring():
    extreme = np.array([np.finfo(np.float32).max, -np.finfo(np.float32).max, 1e6, 0.25])
    found = rounded(extreme, SHARE, stream())
    assert found[0] == found[2] == SHARE.limit_grid == -found[1]
    assert N * SHARE.limit_grid < 2**31
    assert rounded(np.full(3, 1e300), SHARE, stream()).tolist() == [SHARE.limit_grid] * 3


def test_rounding_is_even_handed():
    values = np.full(D, 1.3 * 2.0**-20)
    found = rounded(values, SHARE, stream())
    assert set(np.unique(found)) == {1, 2}
    assert abs(found.mean() - 1.3) < 6 * math.sqrt(0.3 * 0.7 / D)
    exact = np.arange(-5, 6) * 2.0**-20
    assert rounded(exact, SHARE, stream()).tolist() == list(range(-5, 6))


@pytest.mark.parametrize("survivors", range(8, N + 1))
def test_the_summed_noise_of_n_merchants_has_n_times_a_shares_variance_whoever_drops_out(survivors):
    noise = noise_of(survivors)
    deviation = math.sqrt(survivors) * SHARE.deviation_grid
    statistic = float(np.square(noise / deviation).sum())
    assert 1e-6 < stats.chi2.cdf(statistic, D) < 1 - 1e-6
    assert stats.kstest(noise / deviation, "norm").pvalue > 1e-6
    # The tolerated adversary knows the noise of two of them: what is left is what the plan charges for.
    honest = deviation * math.sqrt((survivors - 2) / survivors)
    assert honest >= PLAN.noise_multiplier * SHARE.sensitivity_grid


@pytest.mark.parametrize("wrong", [0.95, 1.05])
def test_a_wrong_share_is_noticed(wrong):
    noise = noise_of(8) / (math.sqrt(8) * SHARE.deviation_grid * wrong)
    statistic = float(np.square(noise).sum())
    assert not 1e-6 < stats.chi2.cdf(statistic, D) < 1 - 1e-6


def test_a_sum_with_fewer_survivors_than_tolerated_is_refused():
    words = np.zeros(3, np.uint32)
    for survivors in (8, 9, 10):
        assert released_sum(words, SHARE, survivors).tolist() == [0, 0, 0]
    for survivors in (0, 1, 7, 11):
        with pytest.raises(CalibrationError, match="at least 8 of 10"):
            released_sum(words, SHARE, survivors)


def test_the_mean_of_a_sum_comes_back_by_name_and_shape():
    rng = np.random.default_rng(0)
    totals, words = [np.zeros((40, 5)), np.zeros(7)], np.zeros(207, np.uint32)
    for merchant in range(N):
        own = [rng.standard_normal((40, 5)), rng.standard_normal(7)]
        totals = [a + b for a, b in zip(totals, own, strict=True)]
        words += integer_update(clipped(*own), PLAN, stream(1, str(merchant))).words
    released = released_sum(words, SHARE, N)
    found = mean(released, N, {"b": (7,), "a": (40, 5)}, 50.0)
    assert found.survivors == N
    for name, total in zip("ab", totals, strict=True):
        assert found.values[name].dtype == np.float32
        error = found.values[name] * 50.0 - total
        assert error.shape == total.shape
        assert np.abs(error).max() < 6 * SHARE.total_deviation
        assert np.abs(error).max() > SHARE.total_deviation / 10
    with pytest.raises(NoiseError, match="expected 208 words"):
        mean(released, N, {"b": (8,), "a": (40, 5)}, 50.0)
    with pytest.raises(NoiseError, match="expected_users"):
        mean(released, N, {"b": (7,), "a": (40, 5)}, 0.0)


def test_rows_and_dense_parts_of_an_update_are_one_vector():
    part = Rows((3, 2), torch.tensor([1]), torch.ones(1, 2))
    update = ClippedUpdate(0.5, {"w": torch.full((2,), -1.0)}, {"v": (part,)}, torch.zeros(1))
    quiet = replace(PLAN, epsilon=math.inf, noise_multiplier=1e-3, scale_log2=24, coordinates=8)
    found = integer_update(update, quiet, stream()).words.view(np.int32) * 2.0**-24
    np.testing.assert_allclose(found, [0, 0, 1, 1, 0, 0, -1, -1], atol=1e-2)


def test_one_shot_releases_have_shares_of_their_own():
    found = integer_sums(np.zeros(1000), PLAN, "popularity", stream())
    assert found.share == PLAN.share("popularity")
    assert found.share.deviation_grid > 3 * SHARE.deviation_grid
    assert found.label == "step/0"
    with pytest.raises(CalibrationError, match="'gate' shares no noise"):
        integer_sums(np.zeros(10), PLAN, "gate", stream())


def test_what_is_not_the_plans_is_refused():
    with pytest.raises(NoiseError, match="found 0"):
        integer_update(clipped(np.zeros(5), norm=0.7), PLAN, stream())
    with pytest.raises(NoiseError, match="1 to 20000 coordinates"):
        integer_update(clipped(np.zeros(D + 1)), PLAN, stream())
    for broken in (math.nan, math.inf):
        with pytest.raises(NoiseError, match="NaN or infinity"):
            integer_update(clipped([broken]), PLAN, stream())
    local = replace(PLAN, mode=Mode.LOCAL, cohort=0, dropouts=0, colluders=0, coordinates=0, scale_log2=0)
    with pytest.raises(CalibrationError, match="shares no noise"):
        integer_update(clipped(np.zeros(5)), local, stream())
    with pytest.raises(NoiseError, match="uint32"):
        released_sum(np.zeros(3), SHARE, N)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"min_survivors": 7}, "min_survivors >= 8"),
        ({"colluders": 3}, "colluders <= 2"),
        ({"scale_log2": 16}, "scale_log2 20"),
        ({"max_words": 100}, "max_words >= 20000"),
    ],
)
def test_a_roster_that_promises_less_than_the_plan_counts_on_is_refused(change, message):
    members = tuple(Member(f"m{i}", bytes([i]) * 32) for i in range(N))
    roster = Roster("league", 1, members, **({"threshold": 7, "colluders": 2, "min_survivors": 8} | change))
    if message is None:
        check_roster(PLAN, roster)
    else:
        with pytest.raises(CalibrationError, match=message):
            check_roster(PLAN, roster)
    with pytest.raises(CalibrationError, match="at most 9 members"):
        check_roster(replace(PLAN, cohort=9, dropouts=1), roster)


def test_a_secure_round_opens_the_sum_of_the_survivors_words():
    league = exchange.make_league([f"m{i}" for i in range(N)], colluders=2, min_survivors=8)
    check_roster(PLAN, league.roster)
    shapes, rng = {"w": (50, 4)}, np.random.default_rng(0)
    own = {name: rng.standard_normal((50, 4)) for name in league.merchants}
    words = {name: integer_update(clipped(own[name]), PLAN, stream(2, name)).words for name in own}
    terms = RoundTerms(bytes(32), plan_digest(PLAN, "training", shapes), 200, 1)
    exchange.set_up(league.merchants, league.platform, epoch=1, base_round=1)
    found = exchange.run_round(
        league.merchants,
        {name: partial(Vector, held, np.ones(1, "<u8")) for name, held in words.items()},
        league.platform,
        number=1,
        terms=dict.fromkeys(own, terms),
        platform_terms=terms,
        carry=lambda step, name, answer: None if step is exchange.Step.REPORT and name == "m3" else answer(),
    )
    assert found.dropped == ("m3",)
    survivors = len(found.survivors)
    released = mean(released_sum(found.vector.body, SHARE, survivors), survivors, shapes, 1.0).values["w"]
    error = released - sum(own[name] for name in found.survivors)
    assert np.square(error).mean() == pytest.approx(9 * (SHARE.deviation_grid * 2.0**-20) ** 2, rel=0.5)


def test_digests_tell_plans_releases_and_shapes_apart():
    found = {
        plan_digest(plan, family, {"w": shape})
        for plan in (PLAN, replace(PLAN, colluders=1))
        for family in ("training", "popularity")
        for shape in ((4,), (2, 2))
    }
    assert len(found) == 8
    again = PrivacyPlan.from_dict(json.loads(json.dumps(PLAN.to_dict())))
    assert plan_digest(again, "training", {"w": (4,)}) in found
