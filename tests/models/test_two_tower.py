# SPDX-License-Identifier: Apache-2.0
"""The content tower: what it adds up, and what padding must not do."""

from typing import Any

import numpy as np
import pytest
import torch

from models.errors import ConfigError
from models.two_tower import ContentTower


@pytest.fixture
def tower(codes: Any) -> ContentTower:
    tower = ContentTower(codes, 8, prior_items=5.0, seed=0)
    with torch.no_grad():
        tower.context.weight.normal_(generator=torch.Generator().manual_seed(1))
    return tower


def user(tower: ContentTower, items: list[int], weights: list[float]) -> torch.Tensor:
    return tower.user(tower.items(torch.tensor([items])), torch.tensor([weights]))


def test_an_item_is_the_scaled_sum_of_its_attributes_rows(tower: ContentTower, codes: Any) -> None:
    sizes = codes.max(axis=0) + 1
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rows = tower.attributes.weight[torch.from_numpy(codes[7] + starts)]
    torch.testing.assert_close(tower.items(torch.tensor([7]))[0], rows.sum(0) / np.sqrt(3))


def test_items_of_equal_attributes_are_equal(codes: Any) -> None:
    codes = codes.copy()
    codes[4] = codes[9]
    vectors = ContentTower(codes, 8, prior_items=1.0, seed=0).items(torch.tensor([4, 9, 5]))
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


def test_the_table_is_used_by_its_embedding_module_alone(tower: ContentTower) -> None:
    looked_up: list[torch.Tensor] = []
    tower.attributes.register_forward_hook(lambda module, given, out: looked_up.append(out))
    score = (user(tower, [3, 4], [1.0, 1.0]) * tower.items(torch.tensor([[5]]))[:, 0]).sum()
    through_module = torch.autograd.grad(score, looked_up, retain_graph=True)
    table = torch.zeros_like(tower.attributes.weight)
    codes = [tower.codes[torch.tensor([[3, 4]])], tower.codes[torch.tensor([[5]])]]
    for index, gradient in zip(codes, through_module, strict=True):
        table.index_add_(0, index.reshape(-1), gradient.reshape(-1, 8))
    torch.testing.assert_close(table, torch.autograd.grad(score, tower.attributes.weight)[0])


def test_a_padded_event_changes_neither_a_user_vector_nor_a_gradient(tower: ContentTower) -> None:
    found = []
    for items, weights in (([3, 4], [1.0, 1.0]), ([3, 4, 0, 0], [1.0, 1.0, 0.0, 0.0])):
        vector = user(tower, items, weights)
        gradient = torch.autograd.grad(vector.square().sum(), list(tower.parameters()))
        found.append([vector, *gradient])
    for short, long in zip(*found, strict=True):
        torch.testing.assert_close(short, long)


def test_nothing_owned_leaves_the_context_alone(tower: ContentTower) -> None:
    vector = user(tower, [0, 0], [0.0, 0.0])
    torch.testing.assert_close(vector[0], tower.context.weight @ torch.tensor([1.0, -1.0, 1.0]))


@pytest.mark.parametrize("shape", [(5,), (5, 0), (1, 3)])
def test_a_catalogue_without_items_or_attributes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="an item and an attribute"):
        ContentTower(np.zeros(shape, dtype=np.int32), 8, prior_items=1.0, seed=0)
