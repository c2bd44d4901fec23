# SPDX-License-Identifier: Apache-2.0
"""Baselines on leagues small enough to work out by hand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from models.baselines import BASELINES, evaluate_baselines, item_similarities


def test_similarity_of_items_bought_together(make_users: Callable[..., Any]) -> None:
    first = make_users([[(1, 0.0), (2, 0.0), (2, 5.0)], [(1, 0.0)]])
    second = make_users([[(1, 0.0), (2, 1.0), (3, 1.0)]])
    found = item_similarities([first, second], 3, shrinkage=20.0)
    assert found[1, 2] == pytest.approx(2 / (math.sqrt(3 * 2) + 20))
    assert found[1, 3] == pytest.approx(1 / (math.sqrt(3 * 1) + 20))
    assert found[1, 1] == 0.0
    np.testing.assert_array_equal(found, found.T)
    assert not found[0].any()


@pytest.fixture
def league(make_users: Callable[..., Any], make_evaluated: Callable[..., Any]) -> tuple[list[Any], list[Any]]:
    """Item 1 is the league's favourite, item 4 merchant A's; 2 and 3 go together at merchant B."""
    a = [[(4, 1.0), (4, 90.0), (5, 90.0), (5, 91.0), (5, 92.0)], [(4, 1.0)], [(4, 2.0), (1, 3.0)]]
    b = [[(1, 1.0), (2, 2.0), (3, 2.0)], [(2, 1.0), (3, 1.0)], [(1, 4.0)], [(1, 4.0)], [(1, 5.0), (2, 6.0)]]
    train = [make_users(a), make_users(b)]
    evaluation = [make_evaluated(a, [[5], [1], [2]]), make_evaluated(b, [[1], [3], [1], [3], [3]])]
    return train, evaluation


def first_place(league: tuple[list[Any], list[Any]], view: str, name: str) -> list[float]:
    found = evaluate_baselines(*league, n_items=5, ks=[1])
    return found[name][view].per_user["hit_rate@1"].tolist()


def test_every_baseline_is_judged_on_the_same_users_and_masked_in_the_same_way_as_the_model(
    league: tuple[list[Any], list[Any]],
) -> None:
    found = evaluate_baselines(*league, n_items=5, ks=[1, 2])
    assert tuple(found) == BASELINES
    for views in found.values():
        assert views["all"].users.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
        assert views["novel"].users.tolist() == [1, 2, 3, 4]
        # Whoever is masked for one method is masked for all: nothing owned is shown in the novel view.
        assert not views["novel"].recommended[2][0]


def test_popularity_puts_the_leagues_favourite_first(league: tuple[list[Any], list[Any]]) -> None:
    assert first_place(league, "all", "popularity") == [0, 1, 0, 1, 0, 1, 0, 0]


def test_a_merchants_popularity_puts_its_own_favourite_first(league: tuple[list[Any], list[Any]]) -> None:
    # At A everybody bought item 4, which is nobody's target; masked out, item 1 or 5 follows.
    assert first_place(league, "all", "merchant_popularity")[:3] == [0, 0, 0]
    assert first_place(league, "novel", "merchant_popularity")[0] == 1


def test_own_repeats_put_the_users_most_frequent_item_first(league: tuple[list[Any], list[Any]]) -> None:
    found = first_place(league, "all", "own_repeats")
    assert found[0] == 1  # item 5 three times
    assert found[5] == 1  # item 1 is all that this user ever bought


def test_recent_repeats_forget_what_is_old(
    make_users: Callable[..., Any], make_evaluated: Callable[..., Any]
) -> None:
    events = [[(1, 0.0), (1, 1.0), (2, 99.0)]]
    league = ([make_users(events)], [make_evaluated(events, [[2]])])
    assert first_place(league, "all", "own_repeats") == [0]
    assert first_place(league, "all", "own_recent_repeats") == [1]


def test_item_knn_finds_what_goes_together(league: tuple[list[Any], list[Any]]) -> None:
    # The last user of B bought 1 and 2 and next buys 3, which is bought with 2.
    assert first_place(league, "novel", "item_knn")[-1] == 1
    assert first_place(league, "novel", "item_knn_repeats")[-1] == 1
