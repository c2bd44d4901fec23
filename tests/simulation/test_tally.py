# SPDX-License-Identifier: Apache-2.0
"""What is kept of merchants' figures: the same persons for every method, and next to nothing per merchant."""

import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from data.samples import EvaluationSet
from models.metrics import NOBODY, SEVERAL, VIEWS, ViewMetrics
from simulation.tally import Audience, Tally, audience

METRICS = ("hit_rate@10", "hit_rate@20", "ndcg@10", "ndcg@20", "recall@10", "recall@20")
USERS, ITEMS = 50, 7500


def window(ids: Sequence[str], novel: Sequence[int]) -> EvaluationSet:
    """Everybody has a next basket; `novel` says how many novel targets each has."""
    everybody = SimpleNamespace(offsets=np.arange(len(ids) + 1))
    targets = SimpleNamespace(offsets=np.cumsum([0, *novel]))
    histories = SimpleNamespace(user_ids=tuple(ids))
    return cast(EvaluationSet, SimpleNamespace(histories=histories, targets_all=everybody, targets_novel=targets))


def test_equal_user_ids_are_one_person_at_every_merchant_numbered_in_the_order_of_ids() -> None:
    windows = {"north": window(["ben", "ann"], [1, 1]), "south": window(["cid", "ann", "\xe9mile"], [0, 2, 1])}
    found = audience(windows.items())
    assert {name: rows.persons.tolist() for name, rows in found.rows["all"].items()} == {
        "north": [1, 0],
        "south": [2, 0, 3],
    }
    assert found.rows["novel"]["south"].users.tolist() == [1, 2]
    assert found.rows["novel"]["south"].persons.tolist() == [0, 2]
    assert found.persons == {"all": 4, "novel": 3}


def test_a_league_where_nobody_is_left_has_nobody() -> None:
    found = audience([("north", window([], []))])
    assert found.persons == {"all": 0, "novel": 0}
    assert audience([]).persons == {"all": 0, "novel": 0}


def views(users: Sequence[int], values: Sequence[float], shown: Sequence[int]) -> Mapping[str, ViewMetrics]:
    found = ViewMetrics(
        np.array(users, np.int64), {"ndcg@10": np.array(values)}, {10: np.array([NOBODY, *shown], np.int32)}
    )
    return dict.fromkeys(VIEWS, found)


@pytest.fixture
def both() -> Audience:
    return audience([("north", window(["ann", "ben"], [1, 1])), ("south", window(["ann", "cid"], [1, 1]))])


def test_two_methods_are_compared_on_the_same_users_only(both: Audience) -> None:
    tally = Tally(both, "popularity", "baseline")
    for users in ([0], [0, 2], [0, 1, 2]):
        with pytest.raises(ValueError, match=r"the 2 users of north's window, found \d others of 'popularity'"):
            tally.add("north", views(users, [0.1] * len(users), [NOBODY]))


def test_the_order_in_which_merchants_answer_changes_no_figure(both: Audience) -> None:
    rng = np.random.default_rng(1)
    answers = {name: views([0, 1], rng.random(2).tolist(), [0, 1, SEVERAL]) for name in ("north", "south")}
    found = []
    for order in (["north", "south"], ["south", "north"]):
        tally = Tally(both, "federated", "federated")
        for name in order:
            tally.add(name, answers[name])
        found.append(tally.scored(seed=0).views["all"])
    assert found[0].figures == found[1].figures
    np.testing.assert_array_equal(found[0].resampled, found[1].resampled)


def test_coverage_counts_what_one_person_is_shown_at_two_merchants_as_that_persons_alone(both: Audience) -> None:
    tally = Tally(both, "federated", "federated")
    tally.add("north", views([0, 1], [0.0, 0.0], [0, 1, 1, NOBODY]))  # Ann is shown item 1, Ben 2 and 3
    tally.add("south", views([0, 1], [0.0, 0.0], [0, 1, NOBODY, NOBODY]))  # Ann item 1 again, Cid 2
    found = tally.scored(seed=0).views["novel"].figures["coverage@10"]
    # Alone: Ann 1 item of 4, Ben 1, Cid none; variance 2 · (2/9) / 16.
    assert found.mean == 0.75
    assert found.low == pytest.approx(0.75 - 1.96 * np.sqrt(2 * 2 / 9 / 16), abs=1e-4)


def answer_of(merchant: int) -> Mapping[str, ViewMetrics]:
    rng = np.random.default_rng(merchant)
    return {
        view: ViewMetrics(
            np.arange(USERS),
            {name: rng.random(USERS) for name in METRICS},
            {k: rng.integers(-2, USERS, ITEMS + 1).astype(np.int32) for k in (10, 20)},
        )
        for view in VIEWS
    }


def windows(merchants: int) -> Iterator[tuple[str, EvaluationSet]]:
    return ((f"m{m}", window([f"{m:04d}-{u}" for u in range(USERS)], [1] * USERS)) for m in range(merchants))


def peak_bytes(merchants: int) -> int:
    """While a league of so many merchants is measured, from the first window to the last interval."""
    tracemalloc.start()
    tally = Tally(audience(windows(merchants)), "federated", "federated")
    for merchant in range(merchants):
        tally.add(f"m{merchant}", answer_of(merchant))
    tally.scored(seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_what_a_merchant_was_shown_and_its_users_figures_are_not_kept() -> None:
    """Of a merchant of 50 users stay some 9 kB while a method is measured; its figures and lists are 125 kB."""
    answer = answer_of(0)
    arrays = [a for v in answer.values() for a in (v.users, *v.per_user.values(), *v.shown.values())]
    peak_bytes(2)  # imports
    per_merchant = (peak_bytes(120) - peak_bytes(40)) / 80
    assert per_merchant < 12_000 < 0.1 * sum(a.nbytes for a in arrays)
