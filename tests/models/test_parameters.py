# SPDX-License-Identifier: Apache-2.0
"""Arrays in and out of a model."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.errors import ParameterMismatch
from models.parameters import ParameterSpec, load_public, load_shared, public_arrays, shared_arrays
from models.recommendation import RecommendationTask


def test_spec_names_shared_fixed_and_local_parts(task: RecommendationTask) -> None:
    spec = task.spec(task.build(0))
    assert spec.shared == ("tower.attributes.weight", "tower.context.weight")
    assert spec.fixed == ("league_log_popularity", "mixing.weights.weight")
    assert spec.local == ("merchant_league_weight", "merchant_log_popularity")
    assert spec.public == tuple(sorted((*spec.shared, *spec.fixed)))


def test_an_items_own_vector_is_shared_or_local_as_item_id_says(task: RecommendationTask) -> None:
    def spec(item_id: str) -> ParameterSpec:
        task.config = replace(task.config, item_id=item_id)
        return task.spec(task.build(0))

    assert spec("shared").shared == ("tower.attributes.weight", "tower.context.weight", "tower.ids.weight")
    assert spec("shared").local == spec("none").local
    assert spec("local").local == ("merchant_item_residual", *spec("none").local)
    assert spec("local").public == spec("none").public


def test_a_name_in_two_groups_is_refused() -> None:
    with pytest.raises(ParameterMismatch, match="two groups"):
        ParameterSpec(shared=("a",), fixed=("a",), local=())


def test_a_shared_array_is_a_copy_and_later_training_does_not_change_it(task: RecommendationTask) -> None:
    model = task.build(0)
    before = shared_arrays(model, task.spec(model))
    kept = {name: array.copy() for name, array in before.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    for name, array in before.items():
        np.testing.assert_array_equal(array, kept[name])


def test_round_trip_restores_the_model(task: RecommendationTask) -> None:
    source, target = task.build(0), task.build(1)
    spec = task.spec(source)
    load_public(target, spec, public_arrays(source, spec))
    for name, array in public_arrays(source, spec).items():
        np.testing.assert_array_equal(array, public_arrays(target, spec)[name])


def test_local_parts_are_never_among_the_shared_or_the_public_arrays(task: RecommendationTask, users: Any) -> None:
    model = task.build(0)
    spec = task.spec(model)
    before = public_arrays(model, spec)
    task.fit_local(model, users)
    after = public_arrays(model, spec)
    assert not set(spec.local) & (set(before) | set(shared_arrays(model, spec)))
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def _broken(arrays: dict[str, Any], how: str) -> dict[str, Any]:
    name = "tower.context.weight"
    array = arrays[name]
    if how == "missing":
        return {key: value for key, value in arrays.items() if key != name}
    if how == "unknown":
        return {**arrays, "surprise": array}
    if how == "nan" or how == "inf":
        bad = array.copy()
        bad[0, 0] = np.nan if how == "nan" else -np.inf
        return {**arrays, name: bad}
    changed = {
        "shape": array[:, :1],
        "transposed": np.ascontiguousarray(array.T),
        "float64": array.astype(np.float64),
        "list": array.tolist(),
        "object": array.astype(object),
    }
    return {**arrays, name: changed[how]}


@pytest.mark.parametrize(
    "how", ["missing", "unknown", "nan", "inf", "shape", "transposed", "float64", "list", "object"]
)
def test_arrays_that_do_not_fit_are_refused_and_change_nothing(task: RecommendationTask, how: str) -> None:
    model = task.build(0)
    spec = task.spec(model)
    before = shared_arrays(model, spec)
    moved = {name: array + 1.0 for name, array in before.items()}
    with pytest.raises(ParameterMismatch):
        load_shared(model, spec, _broken(moved, how))
    for name, array in shared_arrays(model, spec).items():
        np.testing.assert_array_equal(array, before[name])
