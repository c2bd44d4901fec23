# SPDX-License-Identifier: Apache-2.0
"""The exported scorer answers as the model does, on every edge."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from models.errors import ExportError
from models.export import check_scorer
from models.recommendation import RecommendationModel, RecommendationTask


@pytest.fixture
def model(task: RecommendationTask, users: Any) -> RecommendationModel:
    model = task.build(0)
    with torch.no_grad():
        model.tower.context.weight.normal_(generator=torch.Generator().manual_seed(1))
    task.fit_local(model, users)
    return model


def run(
    scorer: bytes, model: RecommendationModel, history: Any, age: Any, mask: Any = None, k: int = 5
) -> tuple[Any, Any]:
    popularity = model.merchant_log_popularity.numpy()
    session = ort.InferenceSession(scorer, providers=["CPUExecutionProvider"])
    feeds = {
        "history": np.asarray(history, dtype=np.int64),
        "age_days": np.asarray(age, dtype=np.float32),
        "merchant_log_popularity": popularity,
        "mask": np.zeros((1, len(popularity)), np.float32) if mask is None else mask,
        "k": np.array(k, dtype=np.int64),
    }
    items, scores = session.run(["items", "scores"], feeds)
    return items, scores


def test_inputs_and_outputs_are_the_contract(task: RecommendationTask, model: RecommendationModel) -> None:
    session = ort.InferenceSession(task.export(model).scorer, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, len(i.shape)) for i in session.get_inputs()] == [
        ("history", "tensor(int64)", 2),
        ("age_days", "tensor(float)", 2),
        ("merchant_log_popularity", "tensor(float)", 1),
        ("mask", "tensor(float)", 2),
        ("k", "tensor(int64)", 0),
    ]
    assert [(o.name, o.type) for o in session.get_outputs()] == [
        ("items", "tensor(int64)"),
        ("scores", "tensor(float)"),
    ]


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("length", [0, 1, 30])
def test_scores_equal_torch(task: RecommendationTask, model: RecommendationModel, batch: int, length: int) -> None:
    rng = np.random.default_rng(batch * 100 + length)
    history = rng.integers(0, task.n_items + 1, (batch, length))
    age = np.where(history > 0, rng.uniform(0, 300, history.shape), 0.0).astype(np.float32)
    expected = task.decide(model, torch.from_numpy(history), torch.from_numpy(age)).numpy()
    items, scores = run(task.export(model).scorer, model, history, age, k=task.n_items)
    np.testing.assert_allclose(np.take_along_axis(expected, items, 1), scores, atol=1e-4)
    np.testing.assert_allclose(-np.sort(-expected[:, 1:], axis=1), scores, atol=1e-4)


def test_padding_changes_nothing_and_an_empty_history_is_answered(
    task: RecommendationTask, model: RecommendationModel
) -> None:
    scorer = task.export(model).scorer
    _, short = run(scorer, model, [[3, 5]], [[9.0, 1.0]])
    _, long = run(scorer, model, [[3, 5, 0, 0, 0]], [[9.0, 1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(short, long, atol=1e-6)
    _, nothing = run(scorer, model, np.zeros((1, 0)), np.zeros((1, 0)))
    _, padding = run(scorer, model, [[0, 0]], [[0.0, 0.0]])
    np.testing.assert_allclose(nothing, padding, atol=1e-6)
    assert np.isfinite(nothing).all()


def test_a_k_larger_than_the_catalogue_is_cut_and_padding_is_never_recommended(
    task: RecommendationTask, model: RecommendationModel
) -> None:
    items, scores = run(task.export(model).scorer, model, [[3, 5]], [[9.0, 1.0]], k=10_000)
    assert items.shape == scores.shape == (1, task.n_items)
    assert sorted(items[0].tolist()) == list(range(1, task.n_items + 1))


def test_masked_items_come_last_with_a_score_of_minus_infinity(
    task: RecommendationTask, model: RecommendationModel
) -> None:
    scorer = task.export(model).scorer
    best = run(scorer, model, [[3, 5], [4, 0]], [[9.0, 1.0], [2.0, 0.0]], k=3)[0]
    mask = np.zeros((2, task.n_items + 1), dtype=np.float32)
    np.put_along_axis(mask, best, -np.inf, axis=1)
    items, scores = run(scorer, model, [[3, 5], [4, 0]], [[9.0, 1.0], [2.0, 0.0]], mask, k=task.n_items)
    for user in range(2):
        assert not set(items[user, :-3].tolist()) & {0, *best[user].tolist()}
        assert np.isneginf(scores[user, -3:]).all()
        assert np.isfinite(scores[user, :-3]).all()


def test_an_event_from_the_future_counts_as_of_now(task: RecommendationTask, model: RecommendationModel) -> None:
    scorer = task.export(model).scorer
    _, future = run(scorer, model, [[3]], [[-5.0]])
    _, now = run(scorer, model, [[3]], [[0.0]])
    np.testing.assert_array_equal(future, now)


def test_the_graph_holds_no_merchants_data(
    task: RecommendationTask, model: RecommendationModel, make_users: Callable[..., Any]
) -> None:
    scorer = task.export(model).scorer
    task.fit_local(model, make_users([[(7, 1.0)], [(7, 2.0)]]))
    assert task.export(model).scorer == scorer
    popularity = model.merchant_log_popularity.numpy()
    for constant in onnx.load_from_string(scorer).graph.initializer:
        value = numpy_helper.to_array(constant)
        assert value.shape != popularity.shape or np.isneginf(value[0])


@pytest.mark.parametrize("fit", ["fit_local", "fit_alone"])
def test_a_merchants_own_vectors_are_checked_in_the_scorers_place_and_are_not_in_it(
    task: RecommendationTask, users: Any, fit: str
) -> None:
    task.config = replace(task.config, item_id="local")
    model = task.build(0)
    before = task.export(model)
    getattr(task, fit)(model, users)
    exported = task.export(model)
    assert (exported.scorer, exported.item_vectors) == (before.scorer, before.item_vectors)
    with pytest.raises(ExportError, match="differs"):
        check_scorer(
            exported.scorer,
            lambda history, age: task.decide(model, torch.from_numpy(history), torch.from_numpy(age)).numpy(),
            model.merchant_log_popularity.numpy(),
        )


def test_item_vectors_are_plain_npy(task: RecommendationTask, model: RecommendationModel) -> None:
    vectors = np.load(io.BytesIO(task.export(model).item_vectors), allow_pickle=False)
    assert vectors.dtype == np.float32
    assert vectors.shape == (task.n_items + 1, task.config.dimension)
    assert not vectors[0].any()


def test_an_exported_scorer_that_differs_from_the_model_is_never_returned(
    task: RecommendationTask, model: RecommendationModel
) -> None:
    exported = task.export(model)
    wrong = lambda history, age: np.zeros((len(history), task.n_items + 1), np.float32)  # noqa: E731
    with pytest.raises(ExportError, match="differs from the model"):
        check_scorer(exported.scorer, wrong, model.merchant_log_popularity.numpy())
    with torch.no_grad():
        model.tower.attributes.weight[3] = torch.nan
    with pytest.raises(ExportError):
        task.export(model)
