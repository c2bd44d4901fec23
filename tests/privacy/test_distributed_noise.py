# SPDX-License-Identifier: Apache-2.0
"""Shared integer noise is as good and as private as a trusted curator's: training and summed noise."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import distributed_noise as experiment


def test_training_with_shared_noise_is_training_with_central_noise():
    central, shared, p = experiment.compare(1.0, rounds=20, seeds=25)
    assert p > 1e-3
    assert np.mean(shared) == pytest.approx(np.mean(central), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_the_same_epsilon_gives_the_same_losses_over_many_seeds(epsilon):
    central, shared, p = experiment.compare(epsilon, rounds=60, seeds=150)
    assert p > 1e-3
    assert np.mean(shared) == pytest.approx(np.mean(central), rel=0.02)


def test_another_epsilon_gives_other_losses():
    much = [experiment.train(experiment.plans(8.0, 20)[0], seed) for seed in range(20)]
    little = [experiment.train(experiment.plans(0.4, 20)[1], seed) for seed in range(20)]
    assert stats.ks_2samp(much, little).pvalue < 1e-4


@pytest.mark.parametrize("survivors", range(6, 11))
def test_the_summed_noise_fits_for_every_drop_count(survivors):
    plan = experiment.plans(3.0, 60, dropouts=4, colluders=2)[1]
    noise = experiment.summed_noise(plan, survivors, 50_000)
    assert min(experiment.p_values(noise)) > 1e-3
    assert min(experiment.p_values(noise * 1.02)) < 1e-3
