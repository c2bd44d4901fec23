# SPDX-License-Identifier: Apache-2.0
"""A clipping norm that follows a quantile: what it costs, what one user moves, and that it gets there."""

import math
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privacy.accountant import epsilon
from privacy.adaptive_clipping import SCALES, count_weight, joint_norm, scale_after
from privacy.errors import CalibrationError
from privacy.integer_update import integer_update
from privacy.noise import NoiseSource
from privacy.noise_shares import effective_noise_multiplier
from privacy.plan import PrivacyPlan, calibrate
from privacy.stages import ClippedUpdate
from tests.privacy.test_plan import REQUEST, SHARED

SHARE, C = 0.1, 0.5
ADAPTIVE = replace(SHARED, clipping_quantile=0.5, clipping_share=SHARE, accountant="rdp", scale_log2=18)
PLAN = calibrate(ADAPTIVE)
FIXED = calibrate(replace(ADAPTIVE, clipping_quantile=0.0))


def test_noise_is_laid_out_for_gradient_and_count_together_as_dp_accounting_composes_them():
    share = PLAN.share("training")
    tolerated = effective_noise_multiplier(share, PLAN.sharing.tolerance.honest_survivors)
    on_both = tolerated * joint_norm(C, SHARE)
    on_gradient, on_count = on_both / C, on_both / count_weight(C, SHARE)
    step = dp_accounting.PoissonSampledDpEvent(
        PLAN.sampling_rate,
        dp_accounting.ComposedDpEvent(
            [dp_accounting.GaussianDpEvent(on_gradient), dp_accounting.GaussianDpEvent(on_count)]
        ),
    )
    theirs = dp_accounting.rdp.RdpAccountant().compose(step, PLAN.rounds).get_epsilon(PLAN.delta)
    ours = epsilon([e for _ in range(PLAN.rounds) for e in PLAN.release_events("training")], PLAN.delta, "rdp")
    assert ours == pytest.approx(theirs, rel=0.01)
    assert on_count == pytest.approx(tolerated / math.sqrt(SHARE))  # Thm 1: 2 sigma_b
    assert on_gradient**-2 + on_count**-2 == pytest.approx(tolerated**-2)


def test_the_count_is_paid_for_with_noise_on_the_gradient_and_not_with_epsilon():
    assert PLAN.epsilon == FIXED.epsilon <= ADAPTIVE.epsilon
    assert PLAN.epsilon_after(3) == FIXED.epsilon_after(3)
    dearer = PLAN.merchant_noise("training") / FIXED.merchant_noise("training")
    assert dearer == pytest.approx(1 / math.sqrt(1 - SHARE), rel=1e-3)
    assert PLAN.merchant_noise("popularity") == FIXED.merchant_noise("popularity")
    with pytest.raises(CalibrationError, match="claims epsilon"):
        replace(PLAN, noise_multiplier=PLAN.noise_multiplier * math.sqrt(1 - SHARE))
    assert PrivacyPlan.from_dict(PLAN.to_dict()) == PLAN


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clipping_quantile": 1.0}, "lie in .0, 1. together"),
        ({"clipping_share": 0.0}, "lie in .0, 1. together"),
        ({"clipping_share": 1.0}, "lie in .0, 1. together"),
        ({"mode": "local"}, "takes mode distributed"),
    ],
)
def test_a_quantile_without_budget_or_in_another_mode_is_refused(change, words):
    with pytest.raises(CalibrationError, match=words):
        calibrate(replace(ADAPTIVE, **change))
    with pytest.raises(CalibrationError, match="shares no noise"):
        PrivacyPlan.from_dict(calibrate(REQUEST).to_dict() | {"clipping_quantile": 0.5, "clipping_share": 0.1})


def words_of(gradients_BD):
    """One merchant's integers; the same noise and dither at every call."""
    norms_B = torch.tensor(np.linalg.norm(gradients_BD, axis=1), dtype=torch.float32)
    weights_B = (C / norms_B.clamp_min(1e-30)).clamp_max(1.0)
    total = (weights_B[:, None] * torch.tensor(gradients_BD, dtype=torch.float32)).sum(0)
    update = ClippedUpdate(C, {"w": total}, {}, norms_B)
    return integer_update(update, PLAN, NoiseSource.from_seed(3).integers("step")).words.view(np.int32)


@given(
    users=st.integers(1, 6),
    d=st.integers(1, 30),
    size=st.sampled_from([1e-3, 0.1, 0.5, 3.0, 1e3]),
    seed=st.integers(0, 2**32),
)
def test_one_user_moves_sum_and_count_together_by_at_most_the_joint_norm(users, d, size, seed):
    rng = np.random.default_rng(seed)
    gradients = rng.standard_normal((users, d)) * size / math.sqrt(d)
    moved = words_of(gradients).astype(np.int64) - words_of(gradients[1:])
    share = PLAN.share("training")
    assert len(moved) == d + 1
    assert np.linalg.norm(moved) <= 2**18 * joint_norm(C, SHARE) * (1 + 1e-5) + math.sqrt(d + 1)
    assert share.sensitivity_grid >= 2**18 * joint_norm(C, SHARE) + math.sqrt(d + 1)
    assert abs(moved[-1]) == pytest.approx(2**18 * count_weight(C, SHARE), abs=1)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_the_norm_follows_the_quantile_from_far_off(quantile):
    rng = np.random.default_rng(1)
    drawn, sigma_b, within = 400, 8.0, []
    for _ in range(120):
        norms = rng.lognormal(mean=3.0, sigma=0.7, size=drawn)
        inside = (norms <= scale_after(quantile, within) * C).sum() + rng.normal(0, sigma_b)
        within.append(inside / drawn)
    wanted = np.quantile(rng.lognormal(3.0, 0.7, 100_000), quantile)
    assert scale_after(quantile, within) * C == pytest.approx(wanted, rel=0.15)


def test_the_scale_follows_from_the_released_counts_alone_and_stays_in_its_bounds():
    assert scale_after(0.5, []) == 1.0
    assert scale_after(0.5, [1.0]) == pytest.approx(math.exp(-0.1))
    assert scale_after(0.5, [1e6]) == pytest.approx(SCALES[0])
    assert scale_after(0.5, [-1e6] * 3) == pytest.approx(SCALES[1])
