# SPDX-License-Identifier: Apache-2.0
"""Ranking figures against a slow reference, and intervals against what they mean."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.metrics import (
    ViewMetrics,
    bootstrap_intervals,
    evaluate_in_chunks,
    evaluate_scores,
    merge_views,
    paired_difference,
    relative_uplift,
    summarise,
)


def slow_figures(scores: list[float], targets: set[int], hidden: set[int], k: int) -> dict[str, float]:
    ranked = sorted((i for i in range(1, len(scores)) if i not in hidden), key=lambda i: -scores[i])[:k]
    hits = [item in targets for item in ranked]
    gained = sum(1 / math.log2(rank + 2) for rank, hit in enumerate(hits) if hit)
    ideal = sum(1 / math.log2(rank + 2) for rank in range(min(k, len(targets))))
    return {
        f"recall@{k}": sum(hits) / len(targets),
        f"ndcg@{k}": gained / ideal,
        f"hit_rate@{k}": float(any(hits)),
    }


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[float]], list[set[int]], list[set[int]], int]:
    n_items = draw(st.integers(1, 12))
    n_users = draw(st.integers(1, 5))
    item_sets = st.sets(st.integers(1, n_items), min_size=1, max_size=n_items)
    order = st.permutations(range(n_items + 1))
    scores = [[float(v) for v in draw(order)] for _ in range(n_users)]
    seen = [draw(item_sets) for _ in range(n_users)]
    targets = [draw(item_sets) for _ in range(n_users)]
    return scores, seen, targets, draw(st.integers(1, 15))


# The fixture is a pure function, so examples may share it.
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_figures_equal_a_slow_reference_over_the_whole_catalogue(
    make_evaluated: Callable[..., Any], case: Any
) -> None:
    scores, seen, targets, k = case
    one = make_evaluated([[(item, 1.0) for item in sorted(row)] for row in seen], [sorted(t) for t in targets])
    views = evaluate_scores(torch.tensor(scores), one, [k])
    for view in ("all", "novel"):
        wanted = [t if view == "all" else t - s for t, s in zip(targets, seen, strict=True)]
        users = [u for u, row in enumerate(wanted) if row]
        assert views[view].users.tolist() == users
        for row, user in enumerate(users):
            hidden = seen[user] if view == "novel" else set()
            for name, value in slow_figures(scores[user], wanted[user], hidden, k).items():
                assert views[view].per_user[name][row] == pytest.approx(value), (view, name)


def test_in_the_novel_view_no_seen_item_is_ever_recommended(make_evaluated: Callable[..., Any]) -> None:
    one = make_evaluated([[(1, 1.0), (2, 2.0)]], [[1, 3]])
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0, 5.0]])
    views = evaluate_scores(scores, one, [4])
    assert views["all"].recommended[4].tolist() == [False, True, True, True, True]
    assert views["novel"].recommended[4].tolist() == [False, False, False, True, True]
    assert views["novel"].per_user["hit_rate@4"].tolist() == [1.0]
    assert views["novel"].coverage(4) == 0.5


def test_figures_in_chunks_of_users_equal_the_figures_of_all_users_at_once(
    make_evaluated: Callable[..., Any], make_events: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(3)
    events = make_events(rng, 30, rng.integers(1, 12, 23).tolist())
    one = make_evaluated(events, [rng.integers(1, 31, 3).tolist() for _ in events])
    scores = torch.from_numpy(rng.normal(size=(23, 31)).astype(np.float32))
    whole = evaluate_scores(scores, one, [3, 7])
    for users_at_once in (1, 5, 22, 23, 24):
        asked: list[int] = []

        def some(users: Any, asked: list[int] = asked) -> torch.Tensor:
            asked.append(len(users))
            return scores[torch.from_numpy(users)]

        found = evaluate_in_chunks(some, one, [3, 7], users_at_once)
        assert sum(asked) == 23
        assert max(asked) <= users_at_once
        for view, expected in whole.items():
            np.testing.assert_array_equal(found[view].users, expected.users)
            for name, values in expected.per_user.items():
                np.testing.assert_array_equal(found[view].per_user[name], values)
            for k, shown in expected.recommended.items():
                np.testing.assert_array_equal(found[view].recommended[k], shown)


def test_no_users_at_all_in_chunks(make_evaluated: Callable[..., Any]) -> None:
    views = evaluate_in_chunks(lambda users: torch.zeros(len(users), 5), make_evaluated([], []), [2])
    assert views["novel"].recommended[2].tolist() == [False] * 5


def test_scores_are_not_changed(make_evaluated: Callable[..., Any]) -> None:
    scores = torch.arange(5.0)[None]
    before = scores.clone()
    evaluate_scores(scores, make_evaluated([[(1, 1.0)]], [[2]]), [2])
    assert torch.equal(scores, before)


def test_a_row_per_user_is_expected(make_evaluated: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="a row for each of 1 users, found 2"):
        evaluate_scores(torch.zeros(2, 5), make_evaluated([[(1, 1.0)]], [[2]]), [2])


def test_no_users_at_all(make_evaluated: Callable[..., Any]) -> None:
    views = evaluate_scores(torch.zeros(0, 5), make_evaluated([], []), [2])
    figures = summarise(views["all"])
    assert math.isnan(figures["ndcg@2"].mean)
    assert figures["coverage@2"].mean == 0.0


def test_merged_merchants_are_their_users_one_after_the_other(make_evaluated: Callable[..., Any]) -> None:
    one = make_evaluated([[(1, 1.0)]], [[2]])
    first = evaluate_scores(torch.tensor([[0.0, 1.0, 2.0, 0.0]]), one, [1])
    second = evaluate_scores(torch.tensor([[0.0, 1.0, 0.0, 2.0]]), one, [1])
    merged = merge_views([first, second])["all"]
    assert merged.per_user["hit_rate@1"].tolist() == [1.0, 0.0]
    assert merged.coverage(1) == pytest.approx(2 / 3)
    assert "users=2" in repr(merged)


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        interval = bootstrap_intervals(rng.exponential(size=(80, 1)), seed=trial, resamples=300)[0]
        covered += interval.low <= 1.0 <= interval.high
    assert 0.86 <= covered / 200 <= 0.99


def test_an_interval_depends_on_the_values_and_the_seed_alone() -> None:
    values = np.random.default_rng(2).random((50, 2))
    assert bootstrap_intervals(values, seed=3) == bootstrap_intervals(values.copy(), seed=3)
    assert bootstrap_intervals(values, seed=3) != bootstrap_intervals(values, seed=4)


def test_rows_of_one_person_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(3).random(40), 4)[:, None]
    alone = bootstrap_intervals(values)[0]
    together = bootstrap_intervals(values, persons=np.repeat(np.arange(40), 4))[0]
    assert alone.mean == pytest.approx(together.mean)
    assert together.high - together.low > 1.6 * (alone.high - alone.low)


def test_paired_difference_and_uplift_of_a_constant_gain() -> None:
    theirs = np.random.default_rng(4).random(300) + 0.5
    difference = paired_difference(theirs + 0.1, theirs)
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    uplift = relative_uplift(theirs * 1.2, theirs)
    assert (uplift.mean, uplift.low, uplift.high) == pytest.approx((0.2, 0.2, 0.2))


def test_uplift_over_nothing_is_not_a_number() -> None:
    assert math.isnan(relative_uplift(np.ones(3), np.zeros(3)).mean)
    assert math.isnan(relative_uplift(np.zeros(0), np.zeros(0)).mean)


def test_every_metric_of_a_view_has_an_interval() -> None:
    view = ViewMetrics(np.arange(3), {"ndcg@1": np.array([0.0, 1.0, 1.0])}, {1: np.array([False, True, False])})
    figures = summarise(view)
    assert set(figures) == {"ndcg@1", "coverage@1"}
    assert figures["ndcg@1"].low <= figures["ndcg@1"].mean <= figures["ndcg@1"].high
