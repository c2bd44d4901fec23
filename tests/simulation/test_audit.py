# SPDX-License-Identifier: Apache-2.0
"""Canaries in the trainer's own rounds: sound training stays under its claim, bugs in the trainer are caught."""

from dataclasses import replace

import numpy as np
import pytest

from client import trainer
from models.recommendation import RecommendationTask
from privacy.clipping import PerUserGradients, check_users_independent
from privacy.errors import UsersNotIndependent
from privacy.plan import PrivacyRequest, calibrate
from simulation import audit_cli
from simulation.audit import NORM, CanaryBench, InBatchNegatives, audit, coordinates

CANARIES, ROUNDS = 2000, 60
LOCAL = PrivacyRequest("local", 2.0, 1e-5, ROUNDS, 1, 0.1, NORM, accountant="rdp")
SHARED = replace(LOCAL, mode="distributed", cohort=4, dropouts=1, colluders=1, coordinates=coordinates(CANARIES))
PLANS = {request.mode: calibrate(request) for request in (LOCAL, SHARED)}


def found(mode="local", seed=0, task=RecommendationTask):
    return audit(PLANS[mode], PLANS[mode], CANARIES, seed, task)


@pytest.mark.parametrize(("mode", "seed"), [("local", 0), ("local", 1), ("distributed", 0)])
def test_sound_training_stays_under_its_claim_and_the_audit_is_not_blind(mode, seed):
    result = found(mode, seed)
    assert 0.0 < result.lower_bound < 2.0
    assert not result.refuted


def test_noise_off_in_the_trainer_is_caught(monkeypatch):
    sound = trainer.add_noise
    monkeypatch.setattr(trainer, "add_noise", lambda clipped, noise, stream: sound(clipped, 1e-3, stream))
    assert found().refuted


def test_clipping_off_in_the_trainer_is_caught(monkeypatch):
    sound = PerUserGradients.clipped_sum

    def loose(engine, losses_B, clipping_norm):
        return replace(sound(engine, losses_B, 20 * clipping_norm), clipping_norm=clipping_norm)

    monkeypatch.setattr(PerUserGradients, "clipped_sum", loose)
    assert found().refuted


def test_a_wrong_sampling_rate_in_the_trainer_is_caught(monkeypatch):
    monkeypatch.setattr(trainer, "poisson_sample", lambda users, rate, rng: np.arange(users))
    assert found().refuted


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_in_batch_negatives_are_caught(mode):
    assert found(mode, task=InBatchNegatives).refuted


def test_in_batch_negatives_are_refused_by_the_check_that_sees_integers():
    bench = CanaryBench.of(20, InBatchNegatives)
    rng = np.random.default_rng(0)
    negatives = bench.task.negatives(rng, bench.device)

    def losses(users):
        batch = bench.task.batch(bench.canaries, np.array(users), rng, bench.device)
        return bench.task.loss_per_user(bench.model, batch, negatives)

    with pytest.raises(UsersNotIndependent):
        check_users_independent(losses, range(20))


@pytest.mark.slow
def test_the_command_lets_claims_stand_and_refutes_broken_training(capsys):
    assert audit_cli.main(["--quick"]) == 0
    text = capsys.readouterr().out
    assert text.count(" refuted\n") == 8 + 2  # "not refuted" twice
    assert text.count("not refuted") == 2
    assert "the claims stand" in text


def test_broken_training_that_gets_through_fails_the_command(capsys, monkeypatch):
    one = replace(PLANS["local"], epsilon=np.inf, rounds=1)
    monkeypatch.setattr(audit_cli, "cases", lambda mode, size: [audit_cli.Case("unseen", one, one, sound=False)])
    assert audit_cli.main(["--quick"]) == 1
    assert "not refuted, WRONG" in capsys.readouterr().out
