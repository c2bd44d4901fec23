# SPDX-License-Identifier: Apache-2.0
"""The recommender keeps the rules on which private training rests, and does what its formula says."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.errors import ConfigError
from models.metrics import evaluate_scores
from models.parameters import arrays_of, public_arrays
from models.recommendation import RecommendationConfig, RecommendationModel, RecommendationTask
from models.task import Task
from privacy.clipping import PerUserGradients

CPU = torch.device("cpu")


def everybody(users: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(len(users), dtype=np.int64)


def trained(task: RecommendationTask, seed: int = 0) -> RecommendationModel:
    """A model whose every weight is away from its start, the context's zeros too."""
    model = task.build(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def with_settings(task: RecommendationTask, **settings: Any) -> RecommendationTask:
    return RecommendationTask(replace(task.config, **settings), task._codes_VA, task._league_log_popularity)


def local_arrays(task: RecommendationTask, model: RecommendationModel) -> dict[str, Any]:
    return arrays_of(model, task.spec(model).local)


def test_it_is_a_task(task: RecommendationTask) -> None:
    one: Task[Any] = task
    assert one.name == "recommendation"


def test_the_same_seed_builds_the_same_weights(task: RecommendationTask) -> None:
    first, second, other = task.build(3), task.build(3), task.build(4)
    spec = task.spec(first)
    for name, array in public_arrays(first, spec).items():
        np.testing.assert_array_equal(array, public_arrays(second, spec)[name])
    assert not torch.equal(first.tower.attributes.weight, other.tower.attributes.weight)


@pytest.mark.parametrize(
    "settings",
    [
        {"trained": ("table", "context")},
        {"trained": ("table", "context", "mixing")},
        {"trained": ("context", "mixing")},
        {"start": "catalogue"},
        {"item_id": "shared"},
        {"item_id": "local"},
    ],
)
def test_per_user_norms_equal_a_loop_over_users_with_autograd(
    task: RecommendationTask, users: Any, settings: dict[str, Any]
) -> None:
    task = with_settings(task, **settings)
    model = trained(task)
    spec = task.spec(model)
    batch = task.batch(users, everybody(users), np.random.default_rng(1), CPU)
    negatives = task.negatives(np.random.default_rng(2), CPU)
    engine = PerUserGradients(model, parameters=spec.shared)
    with engine.record(batch_size=len(batch), shared=[negatives]):
        losses = task.loss_per_user(model, batch, negatives)
    found = engine.norms(losses)
    weights = [dict(model.named_parameters())[name] for name in spec.shared]
    for user in range(len(batch)):
        row = task.loss_per_user(model, batch, negatives)[user]
        gradients = torch.autograd.grad(row, weights)
        expected = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        torch.testing.assert_close(found[user], expected, rtol=1e-4, atol=1e-6)


def test_row_b_of_the_loss_depends_on_user_b_and_on_public_things_only(
    task: RecommendationTask, make_users: Callable[..., Any], make_events: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(5)
    events = make_events(rng, task.n_items, [6, 15, 9, 11])
    model = trained(task)
    negatives = task.negatives(np.random.default_rng(6), CPU)
    for size in (1, 4, 40):
        changed = [events[0], make_events(rng, task.n_items, [size])[0], *events[2:]]
        rows = []
        for histories in (make_users(events), make_users(changed)):
            batch = task.batch(histories, np.arange(4), np.random.default_rng(7), CPU)
            rows.append(task.loss_per_user(model, batch, negatives)[[0, 2, 3]])
        assert torch.equal(rows[0], rows[1])


@pytest.mark.parametrize("fit", ["fit_local", "fit_alone"])
def test_the_merchants_local_parts_are_not_in_the_loss(task: RecommendationTask, users: Any, fit: str) -> None:
    task = with_settings(task, item_id="local")
    model = trained(task)
    batch = task.batch(users, everybody(users), np.random.default_rng(1), CPU)
    negatives = task.negatives(np.random.default_rng(2), CPU)
    before = task.loss_per_user(model, batch, negatives)
    getattr(task, fit)(model, users)
    assert torch.equal(before, task.loss_per_user(model, batch, negatives))


def test_an_empty_batch_has_no_losses(task: RecommendationTask, users: Any) -> None:
    batch = task.batch(users, np.zeros(0, dtype=np.int64), np.random.default_rng(0), CPU)
    negatives = task.negatives(np.random.default_rng(0), CPU)
    assert task.loss_per_user(task.build(0), batch, negatives).shape == (0,)


def test_negatives_are_drawn_without_looking_at_any_history(task: RecommendationTask) -> None:
    drawn = torch.cat([task.negatives(np.random.default_rng(seed), CPU) for seed in range(200)])
    counts = torch.bincount(drawn, minlength=task.n_items + 1)
    assert counts[0] == 0
    expected = len(drawn) / task.n_items
    assert (counts[1:] - expected).abs().max() < 6 * math.sqrt(expected)


def test_training_lowers_the_loss(task: RecommendationTask, users: Any) -> None:
    model = task.build(0)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for step in range(60):
        rng = np.random.default_rng(step % 3)
        batch = task.batch(users, everybody(users), rng, CPU)
        loss = task.loss_per_user(model, batch, task.negatives(rng, CPU)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.2


@pytest.mark.parametrize("fit", ["fit_local", "fit_alone"])
def test_fitting_the_local_parts_changes_nothing_shared(task: RecommendationTask, users: Any, fit: str) -> None:
    task = with_settings(task, item_id="local")
    model = trained(task)
    spec = task.spec(model)
    before = public_arrays(model, spec)
    league = model.merchant_log_popularity.clone()
    getattr(task, fit)(model, users)
    for name, array in public_arrays(model, spec).items():
        np.testing.assert_array_equal(array, before[name])
    assert not torch.equal(model.merchant_log_popularity, league)
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == set(spec.shared)


def test_the_same_histories_give_the_same_local_parts(task: RecommendationTask, users: Any) -> None:
    task = with_settings(task, item_id="local")
    first, second = trained(task), trained(task)
    task.fit_alone(second, users)
    for model in (first, second):
        task.fit_local(model, users)
    for name, array in local_arrays(task, first).items():
        np.testing.assert_array_equal(array, local_arrays(task, second)[name])


def test_a_residual_moves_what_the_merchants_users_buy_and_lowers_their_loss(
    task: RecommendationTask, make_users: Callable[..., Any]
) -> None:
    task = with_settings(task, item_id="local", residual_steps=30, residual_learning_rate=1.0)
    users = make_users([[(1 + user % 3, 1.0), (4, 2.0), (5, 3.0)] for user in range(12)])
    model = trained(task)
    task.fit_local(model, users)
    residual = model.merchant_item_residual
    assert residual is not None
    assert not residual[0].any()
    lengths = residual.norm(dim=1)
    assert lengths[4:6].min() > 2 * lengths[6:].max()
    batch = task.batch(users, everybody(users), np.random.default_rng(3), CPU)
    negatives = task.negatives(np.random.default_rng(4), CPU)
    with_it, without = (
        task._losses(model, batch, negatives, model.merchant_log_popularity, rows).mean()
        for rows in (residual, None)
    )
    assert with_it < without - 0.1


def test_a_merchant_without_users_has_no_residual(
    task: RecommendationTask, make_users: Callable[..., Any]
) -> None:
    task = with_settings(task, item_id="local")
    model = trained(task)
    task.fit_local(model, make_users([]))
    assert model.merchant_item_residual is not None
    assert not model.merchant_item_residual.any()


def test_alone_a_merchant_decides_by_its_own_numbers(task: RecommendationTask, users: Any) -> None:
    other = RecommendationTask(task.config, task._codes_VA, np.zeros(task.n_items + 1, np.float32))
    answers = []
    for one, seed in ((task, 0), (other, 1)):
        model = trained(one, seed)
        with torch.no_grad():
            model.mixing.weights.weight.copy_(torch.tensor([task.config.mixing]))
        one.fit_alone(model, users)
        answers.append(one.scores(model, users, everybody(users), 100.0))
    assert torch.equal(*answers)
    one.fit_local(model, users)
    assert not torch.equal(one.scores(model, users, everybody(users), 100.0), answers[1])


def slow_score(task: RecommendationTask, model: RecommendationModel, events: list[Any], item: int) -> float:
    """The formula of docs/model.md, one item at a time."""
    vectors = task.item_vectors(model)
    if model.merchant_item_residual is not None:
        vectors = vectors + model.merchant_item_residual
    owned = {i for i, _ in events}
    mean = sum((vectors[i] for i in owned), torch.zeros(vectors.shape[1])) / (len(owned) + task.config.prior_items)
    x = math.log1p(len(owned)) / 3 - 1
    user = mean + model.tower.context.weight.detach() @ torch.tensor([1.0, x, x * x])
    ages = [100.0 - day for i, day in events if i == item]
    recent = sum(0.5 ** (age / task.config.repeat_half_life_days) for age in ages)
    features = [
        float(user @ vectors[item]),
        float(model.merchant_log_popularity[item]),
        math.log(1 + len(ages) / task.config.repeat_smoothing),
        math.log(1 + recent / task.config.repeat_smoothing),
    ]
    weights = model.mixing.weights.weight.detach()[0].tolist()
    return sum(weight * feature for weight, feature in zip(weights, features, strict=True))


@pytest.mark.parametrize("item_id", ["none", "local", "shared"])
def test_scores_follow_the_formula(
    task: RecommendationTask, make_users: Callable[..., Any], make_events: Callable[..., Any], item_id: str
) -> None:
    task = with_settings(task, item_id=item_id)
    events = [*make_events(np.random.default_rng(11), task.n_items, [5, 30, 1]), []]
    events[1] += events[1][-1:]
    users = make_users(events)
    model = trained(task)
    task.fit_local(model, users)
    scores = task.scores(model, users, np.arange(4), at_day=100.0)
    assert scores.shape == (4, task.n_items + 1)
    assert torch.isneginf(scores[:, 0]).all()
    for user, own in enumerate(events):
        for item in (1, 2, own[0][0] if own else 3, task.n_items):
            assert scores[user, item].item() == pytest.approx(slow_score(task, model, own, item), abs=1e-3)


def test_scores_of_a_user_do_not_depend_on_who_else_is_scored(task: RecommendationTask, users: Any) -> None:
    model = trained(task)
    together = task.scores(model, users, everybody(users), 100.0)
    for user in range(len(users)):
        alone = task.scores(model, users, np.array([user]), 100.0)[0]
        torch.testing.assert_close(together[user], alone, rtol=1e-4, atol=1e-5)


def test_evaluation_covers_both_views(
    task: RecommendationTask, make_evaluated: Callable[..., Any], make_events: Callable[..., Any]
) -> None:
    events = make_events(np.random.default_rng(12), task.n_items, [5, 9])
    views = task.evaluate(task.build(0), make_evaluated(events, [[1, 2], [3]]), [3, 100])
    assert set(views) == {"all", "novel"}
    assert set(views["all"].per_user) == {f"{m}@{k}" for m in ("recall", "ndcg", "hit_rate") for k in (3, 100)}
    assert views["all"].per_user["recall@100"].tolist() == [1.0, 1.0]


def test_a_merchant_without_users_is_evaluated(
    task: RecommendationTask, make_evaluated: Callable[..., Any]
) -> None:
    assert len(task.evaluate(task.build(0), make_evaluated([], []), [3])["all"].users) == 0


def test_bf16_autocast_is_used_on_cuda_only(
    task: RecommendationTask, users: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any, bool]] = []
    original = torch.autocast

    def spy(device: str, *, dtype: torch.dtype, enabled: bool) -> Any:
        asked.append((device, dtype, enabled))
        return original(device, dtype=dtype, enabled=enabled)

    monkeypatch.setattr(torch, "autocast", spy)
    batch = task.batch(users, everybody(users), np.random.default_rng(0), CPU)
    losses = task.loss_per_user(task.build(0), batch, task.negatives(np.random.default_rng(0), CPU))
    assert losses.dtype == torch.float32
    assert asked == [("cpu", torch.bfloat16, False)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_losses_on_cuda_agree_with_the_cpu(task: RecommendationTask, users: Any) -> None:
    cuda = torch.device("cuda")
    rows = []
    for device in (CPU, cuda):
        model = trained(task).to(device)
        batch = task.batch(users, everybody(users), np.random.default_rng(0), device)
        rows.append(task.loss_per_user(model, batch, task.negatives(np.random.default_rng(0), device)).cpu())
    torch.testing.assert_close(rows[0], rows[1], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "bad",
    [
        *({"dimension": 0}, {"targets": 0}, {"prior_items": 0.0}, {"trained": ()}, {"trained": ("everything",)}),
        *({"item_id": "both"}, {"residual_steps": 0}, {"residual_learning_rate": 0.0}),
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RecommendationConfig(**bad)


def test_a_popularity_of_another_catalogue_is_refused(task: RecommendationTask) -> None:
    with pytest.raises(ConfigError, match="40 items"):
        task.set_league_popularity(task.build(0), np.zeros(3, dtype=np.float32))


def test_the_context_alone_is_a_few_dozen_weights(codes: Any) -> None:
    model = RecommendationTask(RecommendationConfig(trained=("context",)), codes).build(0)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 48


def test_evaluation_scores_a_bounded_number_of_users_at_a_time(
    task: RecommendationTask,
    make_evaluated: Callable[..., Any],
    make_events: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(4)
    events = make_events(rng, task.n_items, rng.integers(1, 30, 600).tolist())
    one = make_evaluated(events, [rng.integers(1, task.n_items + 1, 2).tolist() for _ in events])
    model = task.build(seed=1)
    whole = evaluate_scores(task.scores(model, one.histories, np.arange(600), one.cut_day), one, [10])
    asked: list[int] = []
    scores = task.scores

    def watched(model: Any, histories: Any, users: Any, at_day: float) -> Any:
        asked.append(len(users))
        return scores(model, histories, users, at_day)

    monkeypatch.setattr(task, "scores", watched)
    found = task.evaluate(model, one, [10])
    assert asked == [256, 256, 88]
    for view in ("all", "novel"):
        np.testing.assert_array_equal(found[view].users, whole[view].users)
        for name, values in whole[view].per_user.items():
            np.testing.assert_array_equal(found[view].per_user[name], values)
