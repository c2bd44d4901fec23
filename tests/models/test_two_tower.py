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


@pytest.fixture
def nested() -> Any:
    """40 items: 8 brands, of which four stand in each department; "unknown" is on none."""
    brands = np.arange(40) % 8
    return np.concatenate([np.zeros((1, 2), np.int64), np.stack([brands // 4 + 1, brands + 1], axis=1)])


def from_catalogue(codes: Any, dimension: int = 4, seed: int = 0) -> torch.Tensor:
    tower = ContentTower(codes, dimension, prior_items=5.0, seed=seed, catalogue_start=True)
    return tower.attributes.weight.detach()


def test_values_of_the_same_items_start_near_one_another(nested: Any) -> None:
    rows = from_catalogue(nested)
    brands, (first, second) = rows[-8:], rows[1:3]
    torch.testing.assert_close(rows[1:3].norm(dim=1), torch.ones(2))
    torch.testing.assert_close(brands.norm(dim=1), torch.ones(8))
    own, other = brands[:4] @ first, brands[:4] @ second
    assert bool((own > other + 0.3).all())


def test_a_start_from_the_catalogue_is_the_same_for_all_seeds_but_for_a_turn(codes: Any) -> None:
    one, other = from_catalogue(codes, 16, seed=0)[1:], from_catalogue(codes, 16, seed=1)[1:]
    known = torch.isclose(one.norm(dim=1), torch.ones(len(one)), atol=1e-4)
    torch.testing.assert_close(
        (one @ one.T)[known][:, known], (other @ other.T)[known][:, known], atol=1e-2, rtol=0
    )


def test_a_start_from_the_catalogue_leaves_other_random_numbers_alone_and_repeats_itself(codes: Any) -> None:
    torch.manual_seed(5)
    ContentTower(codes, 4, prior_items=5.0, seed=0)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = from_catalogue(codes)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, from_catalogue(codes))


def test_a_start_from_the_catalogue_is_the_same_on_any_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 30, 5000), rng.integers(30, 1000, 5000)], axis=1)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(from_catalogue(codes, 16))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert torch.equal(*found)


def test_a_catalogue_smaller_than_the_dimension_and_values_of_no_item_start_too(nested: Any) -> None:
    rows = from_catalogue(nested, dimension=32)
    assert bool(torch.isfinite(rows).all())
    random = ContentTower(nested, 32, prior_items=5.0, seed=0).attributes.weight.detach()
    assert torch.equal(rows[0], random[0])  # "unknown"
