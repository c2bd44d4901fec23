# SPDX-License-Identifier: Apache-2.0
"""What guesses about canaries prove of epsilon; tests/simulation/test_audit.py plants them in training."""

import numpy as np
import pytest

from privacy.audit import attack, epsilon_lower_bound
from privacy.errors import AccountingError
from privacy.plan import PrivacyRequest, calibrate

CANARIES = 1000
PLAN = calibrate(PrivacyRequest("local", 2.0, 1e-5, 1, 1, 1.0, 0.7, accountant="rdp"))


def gaussian_scores(sigma, seed):
    """What one Gaussian release of a coordinate per canary shows."""
    rng = np.random.default_rng(seed)
    inside = rng.random(CANARIES) < 0.5
    return inside, inside + sigma * rng.standard_normal(CANARIES)


@pytest.mark.parametrize("seed", range(10))
def test_a_sound_mechanism_stays_under_its_claim(seed):
    result = attack(*gaussian_scores(PLAN.noise_multiplier, seed), PLAN)
    assert not result.refuted
    assert result.claim == PLAN.epsilon


def test_too_little_noise_is_refuted_and_no_canary_at_all_proves_nothing():
    assert attack(*gaussian_scores(PLAN.noise_multiplier / 10, 0), PLAN).refuted
    inside, _ = gaussian_scores(1.0, 0)
    assert attack(inside, np.zeros(CANARIES), PLAN).lower_bound == 0.0


def test_the_bound_follows_the_paper():
    assert epsilon_lower_bound(50, 100, 1000, 0.0) == 0.0
    everything = epsilon_lower_bound(100, 100, 1000, 0.0)
    p = 0.05 ** (1 / 100)
    assert everything == pytest.approx(np.log(p / (1 - p)), rel=1e-4)
    assert epsilon_lower_bound(100, 100, 1000, 1e-5) < everything
    with pytest.raises(AccountingError):
        epsilon_lower_bound(11, 10, 1000, 1e-5)
