# SPDX-License-Identifier: Apache-2.0
"""Ranking figures against a slow reference, and intervals against what they mean."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.metrics import (
    NOBODY,
    NORMAL,
    SEVERAL,
    Interval,
    both_shown,
    coverage_interval,
    difference_interval,
    evaluate_in_chunks,
    evaluate_scores,
    mean_interval,
    merge_views,
    ratio_interval,
    resampled_means,
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
    assert views["all"].recommended(4).tolist() == [False, True, True, True, True]
    assert views["novel"].recommended(4).tolist() == [False, False, False, True, True]
    assert views["novel"].per_user["hit_rate@4"].tolist() == [1.0]


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
            for k, shown in expected.shown.items():
                np.testing.assert_array_equal(found[view].shown[k], shown)


def test_no_users_at_all_in_chunks(make_evaluated: Callable[..., Any]) -> None:
    views = evaluate_in_chunks(lambda users: torch.zeros(len(users), 5), make_evaluated([], []), [2])
    assert views["novel"].recommended(2).tolist() == [False] * 5


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
    assert len(views["all"].per_user["ndcg@2"]) == 0
    assert coverage_interval(views["all"].shown[2][1:], 0) == Interval(0.0, 0.0, 0.0)


def test_an_item_is_shown_to_nobody_to_one_user_or_to_several(make_evaluated: Callable[..., Any]) -> None:
    one = make_evaluated([[(1, 1.0)], [(1, 1.0)], [(1, 1.0)]], [[1], [2], [3]])
    scores = torch.tensor([[0.0, 9.0, 8.0, 0.0, 0.0], [0.0, 9.0, 0.0, 8.0, 1.0], [0.0, 0.0, 8.0, 9.0, 0.0]])
    views = evaluate_scores(scores, one, [1, 2])
    assert views["all"].shown[1].tolist() == [NOBODY, SEVERAL, NOBODY, 2, NOBODY]
    assert views["all"].shown[2].tolist() == [NOBODY, SEVERAL, SEVERAL, SEVERAL, NOBODY]
    # In the novel view the first user has no target: the places are of the other two.
    assert views["novel"].shown[1].tolist() == [NOBODY, NOBODY, NOBODY, SEVERAL, NOBODY]
    assert views["novel"].shown[2].tolist() == [NOBODY, NOBODY, 1, SEVERAL, 0]


def test_merged_merchants_are_their_users_one_after_the_other(make_evaluated: Callable[..., Any]) -> None:
    one = make_evaluated([[(1, 1.0)]], [[2]])
    first = evaluate_scores(torch.tensor([[0.0, 1.0, 2.0, 0.0]]), one, [1])
    second = evaluate_scores(torch.tensor([[0.0, 1.0, 0.0, 2.0]]), one, [1])
    merged = merge_views([first, second])["all"]
    assert merged.per_user["hit_rate@1"].tolist() == [1.0, 0.0]
    assert merged.shown[1].tolist() == [NOBODY, NOBODY, 0, 1]
    assert "users=2" in repr(merged)


def test_who_is_shown_an_item_in_two_lots_is_one_only_where_both_say_the_same() -> None:
    first = np.array([NOBODY, NOBODY, 3, 3, 3, SEVERAL], np.int32)
    second = np.array([NOBODY, 4, NOBODY, 3, 4, NOBODY], np.int32)
    expected = [NOBODY, 4, 3, 3, SEVERAL, SEVERAL]
    assert both_shown(first, second).tolist() == both_shown(second, first).tolist() == expected


Floats = npt.NDArray[np.float64]


def means_of(
    *columns: Floats, persons: npt.NDArray[np.int64] | None = None, seed: int = 0, resamples: int = 1000
) -> Floats:
    """Resampled means of figures per user; each user is a person unless told."""
    values = np.stack(columns, axis=1)
    who = np.arange(len(values)) if persons is None else persons
    sums = np.zeros((int(who.max()) + 1, len(columns)))
    np.add.at(sums, who, values)
    return resampled_means(sums, np.bincount(who).astype(float), seed=seed, resamples=resamples)


def interval_of(values: Floats, **how: Any) -> Interval:
    return mean_interval(float(values.mean()), means_of(values, **how)[:, 0])


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        interval = interval_of(rng.exponential(size=80), seed=trial, resamples=300)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.86 <= covered / 200 <= 0.99


def test_an_interval_depends_on_the_values_and_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).random(50)
    first = interval_of(values, seed=3)
    assert interval_of(values.copy(), seed=3) == first
    assert interval_of(values, seed=4) != first
    monkeypatch.setattr("models.metrics.DRAWN_AT_ONCE", 50 * 7)
    again = interval_of(values, seed=3)
    assert (again.low, again.high) == pytest.approx((first.low, first.high), rel=1e-12)


def test_rows_of_one_person_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(3).random(40), 4)
    alone = interval_of(values)
    together = interval_of(values, persons=np.repeat(np.arange(40), 4))
    assert alone.mean == pytest.approx(together.mean)
    assert together.high - together.low > 1.6 * (alone.high - alone.low)


def test_paired_difference_and_uplift_of_a_constant_gain() -> None:
    theirs = np.random.default_rng(4).random(300) + 0.5
    means = means_of(theirs + 0.1, theirs, theirs * 1.2)
    difference = difference_interval(theirs.mean() + 0.1, theirs.mean(), means[:, 0], means[:, 1])
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    uplift = ratio_interval(theirs.mean() * 1.2, theirs.mean(), means[:, 2], means[:, 1])
    assert (uplift.mean, uplift.low, uplift.high) == pytest.approx((0.2, 0.2, 0.2))


def test_uplift_over_nothing_is_not_a_number() -> None:
    assert math.isnan(ratio_interval(1.0, 0.0, np.ones(3), np.zeros(3)).mean)
    nothing = resampled_means(np.zeros((0, 1)), np.zeros(0), resamples=3)[:, 0]
    assert math.isnan(ratio_interval(math.nan, math.nan, nothing, nothing).mean)


def shown_to(lists: npt.NDArray[np.int64], items: int) -> npt.NDArray[np.int32]:
    """The lists of one person each, int64 [P, k], as a view knows them."""
    shown = np.full(items, NOBODY, np.int32)
    for person, own in enumerate(lists):
        shown[own] = np.where(shown[own] == NOBODY, person, SEVERAL)
    return shown


def test_the_interval_of_coverage_holds_the_figure_and_errs_to_the_wide_side() -> None:
    """Persons with lists from a skewed catalogue: it covers the average of as many persons.

    The percentiles of a bootstrap of the union would not even hold the figure.
    """
    rng, items, persons = np.random.default_rng(6), 120, 40
    weights = 1.0 / np.arange(1, items + 1)
    weights /= weights.sum()

    def league() -> npt.NDArray[np.int64]:
        return np.stack([rng.choice(items, 5, replace=False, p=weights) for _ in range(persons)])

    found = [coverage_interval(shown_to(league(), items), persons) for _ in range(300)]
    truth = float(np.mean([f.mean for f in found]))
    assert all(f.low <= f.mean <= f.high for f in found)
    assert np.mean([f.low <= truth <= f.high for f in found]) >= 0.93
    spread = float(np.std([f.mean for f in found]))
    assert 1.0 <= np.mean([f.high - f.low for f in found]) / (2 * NORMAL * spread) <= 1.6
    lists = league()
    resampled = [(shown_to(lists[rng.integers(0, persons, persons)], items) != NOBODY).mean() for _ in range(200)]
    assert np.quantile(resampled, 0.975) < coverage_interval(shown_to(lists, items), persons).mean


def test_coverage_is_the_share_of_the_catalogue_and_moves_with_what_one_person_alone_is_shown() -> None:
    everybody_alike = coverage_interval(np.array([SEVERAL, NOBODY, SEVERAL, NOBODY], np.int32), 3)
    assert everybody_alike == Interval(0.5, 0.5, 0.5)
    one_stands_out = coverage_interval(np.array([SEVERAL, 2, 2, NOBODY], np.int32), 3)
    # Without the third person coverage is 1/4, without another 3/4: a variance of 2 · (2/9 · 1/4).
    assert one_stands_out.mean == 0.75
    assert one_stands_out.low == pytest.approx(max(0.75 - NORMAL * math.sqrt(2 * 2 / 9 / 4), 0.0))
    assert one_stands_out.high == 1.0
