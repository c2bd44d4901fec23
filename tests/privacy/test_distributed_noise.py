# SPDX-License-Identifier: Apache-2.0
"""Shared integer noise is as good and as private as a trusted curator's: training and summed noise."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import distributed_noise as experiment
from benchmarks import distributed_runs


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


@pytest.mark.slow
def test_whole_runs_over_secure_rounds_end_as_central_training_with_as_much_noise(tmp_path):
    runs = distributed_runs.Runs.of(tmp_path, 3.0)
    noise = runs.deviations("equal noise")
    loud = {family: 5 * deviation for family, deviation in noise.items()}
    found = {
        "shared": [runs.shared(seed) for seed in range(4)],
        "central": [runs.central(seed, noise) for seed in range(100, 112)],
        "louder": [runs.central(seed, loud) for seed in range(200, 212)],
    }
    for figure in distributed_runs.UNITS:
        assert distributed_runs.difference(found, "central", figure)[2] > 1e-3
    assert distributed_runs.difference(found, "louder", "loss")[2] < 1e-3


def test_shares_add_up_to_a_curators_noise_and_what_tolerance_and_the_grid_take():
    central, shared = experiment.plans(3.0, 60, dropouts=4, colluders=2)
    share = shared.share("training")
    exact = (shared.noise_multiplier * share.sensitivity_grid) ** 2 + 64  # eta^2
    assert (share.total_deviation * 2.0**shared.scale_log2) ** 2 == pytest.approx(exact * 10 / 4)
    assert shared.noise_multiplier == pytest.approx(central.noise_multiplier, rel=1e-3)
    assert share.total_deviation / central.noise_multiplier == pytest.approx((10 / 4) ** 0.5, rel=0.01)
