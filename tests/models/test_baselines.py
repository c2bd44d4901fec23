# SPDX-License-Identifier: Apache-2.0
"""Baselines on leagues small enough to work out by hand."""

import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from models.baselines import BASELINES, NEIGHBOURS, evaluate_baselines, item_similarities
from models.metrics import merge_views


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


def merged(train: Any, evaluation: Any, n_items: int, ks: list[int], **how: bool) -> dict[str, dict[str, Any]]:
    """Each baseline's figures over the league."""
    parts = list(evaluate_baselines(train, evaluation, n_items, ks, **how))
    return {name: merge_views([part[name] for part in parts]) for name in parts[0]}


def first_place(league: tuple[list[Any], list[Any]], view: str, name: str) -> list[float]:
    found = merged(*league, n_items=5, ks=[1])
    return found[name][view].per_user["hit_rate@1"].tolist()


def test_every_baseline_is_judged_on_the_same_users_and_masked_in_the_same_way_as_the_model(
    league: tuple[list[Any], list[Any]],
) -> None:
    found = merged(*league, n_items=5, ks=[1, 2])
    assert tuple(found) == BASELINES
    for views in found.values():
        assert views["all"].users.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
        assert views["novel"].users.tolist() == [1, 2, 3, 4]
        # Whoever is masked for one method is masked for all: nothing owned is shown in the novel view.
        assert not views["novel"].recommended(2)[0]


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


class OneByOne:
    """Gives merchants one by one, anew each time it is gone through, and knows how many are alive at once."""

    def __init__(self, make: Callable[[int], Any], merchants: int) -> None:
        self.make, self.merchants, self.passes, self.most = make, merchants, 0, 0
        self.alive: list[int] = []

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        for number in range(self.merchants):
            one = self.make(number)
            self.alive.append(number)
            weakref.finalize(one, self.alive.remove, number)
            self.most = max(self.most, len(self.alive))
            yield one
            del one


def test_merchants_are_read_one_by_one_and_none_is_held(
    make_users: Callable[..., Any], make_evaluated: Callable[..., Any], make_events: Callable[..., Any]
) -> None:
    def events(number: int) -> Any:
        return make_events(np.random.default_rng(number), 40, [4, 9, 15])

    targets = [[1, 2], [3], [40]]
    train = OneByOne(lambda number: make_users(events(number)), 70)
    evaluation = OneByOne(lambda number: make_evaluated(events(number), targets), 70)
    found = merged(train, evaluation, 40, [5])
    assert (train.passes, evaluation.passes) == (2, 1)
    # The one that is being read, and the one before it.
    assert max(train.most, evaluation.most) <= 2
    whole = merged(list(train), list(evaluation), 40, [5])
    for name, views in found.items():
        assert len(views["all"].users) == 3 * 70
        for metric, values in views["novel"].per_user.items():
            np.testing.assert_array_equal(values, whole[name]["novel"].per_user[metric])


def test_without_neighbours_the_other_baselines_stay_as_they_are(league: tuple[list[Any], list[Any]]) -> None:
    everything = merged(*league, n_items=5, ks=[2])
    found = merged(*league, n_items=5, ks=[2], neighbours=False)
    assert tuple(found) == tuple(name for name in BASELINES if name not in NEIGHBOURS)
    for name, views in found.items():
        np.testing.assert_array_equal(views["all"].per_user["ndcg@2"], everything[name]["all"].per_user["ndcg@2"])


def test_similarities_do_not_depend_on_how_merchants_are_stacked(
    make_users: Callable[..., Any], make_events: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [make_users(make_events(np.random.default_rng(n), 30, [5, 9, 20])) for n in range(4)]
    whole = item_similarities(train, 30)
    monkeypatch.setattr("models.baselines.PAIRS_AT_ONCE", 1)
    monkeypatch.setattr("models.baselines.ROWS_AT_ONCE", 7)
    np.testing.assert_array_equal(item_similarities(train, 30), whole)
