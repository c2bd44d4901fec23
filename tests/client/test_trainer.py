# SPDX-License-Identifier: Apache-2.0
"""Training at the merchant: what a private step draws, bounds and says, and what an ordinary one learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import client.gate
import client.trainer
from client.gate import clip_rows, gate_sums
from client.popularity import HISTOGRAM, noisy_histogram
from client.trainer import Draws, TrainingConfig, train_locally, train_privately
from data.samples import UserHistories
from models.parameters import load_public, public_arrays
from models.popularity import popularity_counts
from privacy.clipping import PerUserGradients
from tests.client.small import ITEMS, OPEN_PLAN, PLAN, request

CONFIG = TrainingConfig(steps_per_round=4, sampling_rate=0.5, learning_rate=0.05, optimiser="sgd")
DRAWS = Draws.from_seed("test")


@pytest.fixture
def bench(runtime):
    load_public(runtime.model, runtime.spec, public_arrays(runtime.task.build(seed=0), runtime.spec))
    return runtime


@pytest.fixture
def own(small, runtime):
    return small.worker(runtime).histories


def spy(monkeypatch, name, seen):
    real = getattr(client.trainer, name)
    monkeypatch.setattr(client.trainer, name, lambda *a, **k: (seen.append((a, k)), real(*a, **k))[1])


def test_every_private_step_draws_its_users_as_the_accountant_assumes_empty_draws_included(
    bench, own, monkeypatch
):
    drawn, noised = [], []
    spy(monkeypatch, "poisson_sample", drawn)
    spy(monkeypatch, "add_noise", noised)
    plan = replace(PLAN, sampling_rate=0.01, steps_per_round=30, epsilon=25.0)
    reply = train_privately(bench, own, plan, CONFIG, DRAWS)
    assert [args[:2] for args, _ in drawn] == [(len(own), 0.01)] * 30
    assert len(noised) == 30
    assert all(args[1] == plan.noise_multiplier for args, _ in noised)
    assert len({args[2].label for args, _ in noised}) == 30
    sizes = [len(args[0].norms_B) for args, _ in noised]
    assert 0 in sizes
    assert all(np.isfinite(array).all() for array in reply.arrays.values())


def test_empty_poisson_draws_still_add_noise(bench, own, monkeypatch):
    monkeypatch.setattr(client.trainer, "poisson_sample", lambda *_: np.zeros(0, np.int64))
    reply = train_privately(bench, own, PLAN, CONFIG, DRAWS)
    step = CONFIG.learning_rate * PLAN.noise_multiplier / (PLAN.sampling_rate * CONFIG.expected_users)
    moved = np.concatenate([array.ravel() for array in reply.arrays.values()])
    assert moved.std() == pytest.approx(step * np.sqrt(PLAN.steps_per_round), rel=0.35)


def test_the_divisor_is_a_public_constant_never_the_number_of_users_drawn(bench, own, monkeypatch):
    """With the noise switched off, twice the expected users halve the step; fewer users drawn do not raise it."""

    def silent(clipped, *_):
        values = {name: clipped.tensor(name) for name in clipped.names}
        return client.trainer.NoisedUpdate(values, (client.trainer.NoiseReceipt(1.0, 1.0, "x"),))

    monkeypatch.setattr(client.trainer, "add_noise", silent)
    plan = replace(PLAN, steps_per_round=1)

    def step(expected_users, users):
        load_public(bench.model, bench.spec, public_arrays(bench.task.build(seed=0), bench.spec))
        monkeypatch.setattr(client.trainer, "poisson_sample", lambda *_: np.arange(users))
        config = replace(CONFIG, expected_users=expected_users)
        reply = train_privately(bench, own, plan, config, DRAWS)
        return np.concatenate([array.ravel() for array in reply.arrays.values()]).astype(np.float64)

    np.testing.assert_allclose(2 * step(100.0, 8), step(50.0, 8), atol=1e-6)
    bound = CONFIG.learning_rate * plan.clipping_norm / (plan.sampling_rate * 50.0)
    assert np.linalg.norm(step(50.0, 1)) <= bound * (1 + 1e-3) + 1e-6


def test_a_private_answer_carries_no_loss_no_count_and_the_weight_1(bench, own):
    few, many = (train_privately(bench, own.take(range(n)), PLAN, CONFIG, DRAWS) for n in (3, len(own)))
    for reply in (few, many):
        assert reply.statistics == {}
        assert reply.weight == 1
        assert set(reply.arrays) == set(bench.spec.shared)
        assert all(array.dtype == np.float32 for array in reply.arrays.values())


def test_a_merchant_without_users_answers_with_noise_alone(bench, own):
    reply = train_privately(bench, own.take([]), PLAN, CONFIG, DRAWS)
    assert all(np.abs(array).max() > 0 for array in reply.arrays.values())


def test_the_same_draws_give_the_same_bytes_and_others_do_not(bench, own):
    def run(draws):
        load_public(bench.model, bench.spec, public_arrays(bench.task.build(seed=0), bench.spec))
        reply = train_privately(bench, own, PLAN, CONFIG, draws)
        return b"".join(reply.arrays[name].tobytes() for name in sorted(reply.arrays))

    assert run(DRAWS) == run(DRAWS)
    assert run(DRAWS) != run(Draws(DRAWS.sampling, bytes(32)))
    assert repr(DRAWS).startswith("<client.trainer.Draws object")


def test_ordinary_training_lowers_the_loss(bench, own):
    config = replace(CONFIG, steps_per_round=10, learning_rate=0.01, optimiser="adam")
    losses = []
    for _ in range(5):  # the same draws each time, so that only the weights differ
        reply = train_locally(bench, own, config, DRAWS)
        losses.append(float(reply.statistics["loss"]) / len(own))
        assert reply.weight == len(own)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.97 * losses[0]


@pytest.mark.parametrize("private", [False, True])
def test_fedprox_pulls_towards_the_global_model(bench, own, private):
    def distance(mu):
        load_public(bench.model, bench.spec, public_arrays(bench.task.build(seed=0), bench.spec))
        config = replace(CONFIG, steps_per_round=8, proximal_mu=mu, learning_rate=0.05)
        plan = replace(PLAN, steps_per_round=8)
        reply = (
            train_privately(bench, own, plan, config, DRAWS)
            if private
            else train_locally(bench, own, config, DRAWS)
        )
        return np.sqrt(sum(float((array**2).sum()) for array in reply.arrays.values()))

    far, near, nearest = distance(0.0), distance(2.0), distance(10.0)
    assert nearest < near < far


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps_per_round": 0},
        {"steps_per_round": 10**9},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"learning_rate": 0.0},
        {"learning_rate": float("inf")},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"expected_users": 0.0},
        {"expected_users": float("inf")},
        {"proximal_mu": -1.0},
        {"proximal_mu": float("nan")},
    ],
)
def test_settings_that_cannot_train_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        replace(CONFIG, **wrong)


items = st.lists(st.integers(1, ITEMS), min_size=1, max_size=10)
users = st.lists(items, min_size=2, max_size=5)


def as_histories(rows):
    lengths = [len(row) for row in rows]
    total = sum(lengths)
    return UserHistories(
        user_ids=tuple(f"u{n}" for n in range(len(rows))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.concatenate(rows).astype(np.int32),
        days=np.concatenate([np.linspace(8700, 8760, n) for n in lengths]).astype(np.float32),
        quantities=np.ones(total, np.float32),
    )


def clipped_vector(bench, own, drawn, clipping_norm):
    engine = PerUserGradients(bench.model, parameters=bench.spec.shared)
    negatives = torch.arange(1, 9)
    rng = np.random.default_rng(5)
    with engine.record(batch_size=len(drawn), shared=[negatives]):
        batch = bench.task.batch(own, drawn, rng, bench.device)
        losses = bench.task.loss_per_user(bench.model, batch, negatives)
    clipped = engine.clipped_sum(losses, clipping_norm=clipping_norm)
    return torch.cat([clipped.tensor(name).ravel() for name in clipped.names]).double()


@settings(max_examples=25, deadline=None)
@given(rows=users, clipping_norm=st.sampled_from([1e-6, 0.01, 1.0, 100.0]))
def test_one_users_data_change_a_private_steps_clipped_sum_by_at_most_c(runtime, rows, clipping_norm):
    """The last user comes or goes; the others' samples come before it in the same stream, so they stay."""
    own = as_histories(rows)
    everybody = np.arange(len(rows))
    with_user = clipped_vector(runtime, own, everybody, clipping_norm)
    without = clipped_vector(runtime, own, everybody[:-1], clipping_norm)
    rounding = 1e-5 * len(rows) * clipping_norm
    assert float((with_user - without).norm()) <= clipping_norm + rounding


@settings(max_examples=40, deadline=None)
@given(rows=users, other=items, clipping_norm=st.sampled_from([1e-6, 0.5, 1.0, 3.0]))
def test_one_user_changes_a_private_histogram_by_at_most_the_clipping_norm_before_noise(
    rows, other, clipping_norm
):
    with_user = popularity_counts(as_histories([*rows, other]), ITEMS, clipping_norm=clipping_norm)
    without = popularity_counts(as_histories(rows), ITEMS, clipping_norm=clipping_norm)
    assert np.linalg.norm(with_user.astype(np.float64) - without) <= clipping_norm * (1 + 1e-5)


def test_a_private_histogram_is_clipped_and_an_open_one_exact(own, monkeypatch):
    exact = noisy_histogram(own, ITEMS, OPEN_PLAN, DRAWS).arrays[HISTOGRAM]
    np.testing.assert_array_equal(exact, popularity_counts(own, ITEMS))
    monkeypatch.setattr("client.protection.add_noise_to_array", lambda values, deviation, stream: values)
    clipped = noisy_histogram(own, ITEMS, PLAN, DRAWS).arrays[HISTOGRAM]
    np.testing.assert_array_equal(clipped, popularity_counts(own, ITEMS, clipping_norm=1.0))
    assert clipped.sum() < exact.sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.floats(1e-6, 1e3), st.integers(0, 2**32 - 1))
def test_no_row_of_the_gate_is_longer_than_the_clipping_norm(n_users, clipping_norm, seed):
    rows = np.random.default_rng(seed).normal(scale=10.0, size=(n_users, 4))
    assert (np.linalg.norm(clip_rows(rows, clipping_norm), axis=1) <= clipping_norm * (1 + 1e-12)).all()


def silent_gate(small, runtime, monkeypatch, arrays, histories=None):
    monkeypatch.setattr("client.protection.add_noise_to_array", lambda values, deviation, stream: values)
    worker = small.worker(runtime)
    own = worker.histories if histories is None else histories
    return gate_sums(runtime, own, worker.validation, arrays, PLAN, DRAWS).arrays["sums"]


def test_one_user_changes_the_private_sums_by_at_most_the_clipping_norm_no_other_users_row_moves(
    small, runtime, monkeypatch
):
    """What a merchant's users bought moves its own popularity, and with it every user's open figures."""
    arrays = request(runtime, "gate").arrays
    own = small.worker(runtime).histories
    whole = silent_gate(small, runtime, monkeypatch, arrays)
    np.testing.assert_array_equal(whole, silent_gate(small, runtime, monkeypatch, arrays, own.take([0, 1])))
    np.testing.assert_array_equal(whole, silent_gate(small, runtime, monkeypatch, arrays, own.take([])))

    worker = small.worker(runtime)
    weeks = worker.validation
    rows = client.gate._rows(runtime, own.take([]), weeks, arrays)
    np.testing.assert_allclose(clip_rows(rows, 1.0).sum(axis=0), whole)
    assert np.linalg.norm(whole) <= len(rows)


def test_a_model_that_makes_a_users_figures_overflow_leaves_that_users_row_zero(small, runtime, monkeypatch):
    worker, arrays = small.worker(runtime), request(runtime, "gate").arrays
    seen = iter([np.array([0.5, np.nan, 0.2]), np.array([0.1, 0.3, np.inf])])
    monkeypatch.setattr(client.gate, "_ndcg", lambda *_: next(seen))
    rows = client.gate._rows(runtime, worker.histories, worker.validation, arrays)
    np.testing.assert_allclose(rows, [[1, 0.5, 0.4, 0.16], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_huge_weights_give_finite_sums(small, runtime):
    arrays = {
        name: array if "popularity" in name else np.full_like(array, 3e38)
        for name, array in request(runtime, "gate").arrays.items()
    }
    worker = small.worker(runtime)
    sums = gate_sums(runtime, worker.histories, worker.validation, arrays, PLAN, DRAWS).arrays["sums"]
    assert np.isfinite(sums).all()
