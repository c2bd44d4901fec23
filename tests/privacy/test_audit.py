# SPDX-License-Identifier: Apache-2.0
"""The audit stays under a sound claim and catches broken mechanisms."""

from dataclasses import replace

import numpy as np
import pytest

from privacy.audit import audit, epsilon_lower_bound, training_release
from privacy.errors import AccountingError
from privacy.noise import NoiseSource
from privacy.plan import PrivacyRequest, calibrate

CANARIES = 600
PLAN = calibrate(PrivacyRequest("local", 2.0, 1e-5, 5, 10, 0.1, 0.7))


def sound(plan=PLAN, seed=0):
    return training_release(plan, CANARIES, NoiseSource.from_seed(seed))


@pytest.mark.parametrize("seed", range(3))
def test_a_sound_mechanism_stays_under_its_claim(seed):
    result = audit(PLAN, sound(seed=seed), CANARIES, np.random.default_rng(seed))
    assert not result.refuted
    assert result.lower_bound < 2.0


def test_a_weak_claim_gets_a_bound_above_zero():
    weak = calibrate(PrivacyRequest("local", 30.0, 1e-5, 1, 10, 1.0, 0.7))
    result = audit(weak, sound(weak), CANARIES, np.random.default_rng(0))
    assert 1.0 < result.lower_bound < 30.0


def test_noise_off_is_caught():
    quiet = replace(PLAN, epsilon=float("inf"), noise_multiplier=1e-6)
    result = audit(PLAN, sound(quiet), CANARIES, np.random.default_rng(0))
    assert result.refuted


def test_clipping_off_is_caught():
    # A clipping norm ten times as large under the noise of the claimed one.
    loose = replace(PLAN, epsilon=float("inf"), clipping_norm=7.0, noise_multiplier=PLAN.noise_multiplier / 10)
    assert audit(PLAN, sound(loose), CANARIES, np.random.default_rng(0)).refuted


def test_a_wrong_sampling_rate_is_caught():
    everybody = replace(PLAN, epsilon=float("inf"), sampling_rate=1.0)
    result = audit(everybody, sound(), CANARIES, np.random.default_rng(0))
    assert result.lower_bound > PLAN.epsilon


def test_the_bound_follows_the_paper():
    assert epsilon_lower_bound(50, 100, 1000, 0.0) == 0.0
    everything = epsilon_lower_bound(100, 100, 1000, 0.0)
    p = 0.05 ** (1 / 100)
    assert everything == pytest.approx(np.log(p / (1 - p)), rel=1e-4)
    assert epsilon_lower_bound(100, 100, 1000, 1e-5) < everything
    with pytest.raises(AccountingError):
        epsilon_lower_bound(11, 10, 1000, 1e-5)
