# SPDX-License-Identifier: Apache-2.0
"""Bounded histories, both views, and the sampling of users."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.catalogue import Vocabulary, build_vocabulary
from data.league import League
from data.samples import EvaluationSet, UserHistories, evaluation_set, histories, merge_histories
from data.sampling import poisson_sample
from data.schema import day_of
from data.split import last_weeks
from tests.data.conftest import NOW, START, shared

CUT = START + timedelta(days=90)
ITEMS = ("a", "b", "c", "d")


@pytest.fixture
def vocabulary(league: League) -> Vocabulary:
    return build_vocabulary(league.catalogue)


def known() -> Vocabulary:
    catalogue = pl.DataFrame({"item_id": ITEMS, "kind": ["x", "x", "y", "y"]})
    return build_vocabulary(catalogue)


@st.composite
def shops(draw: st.DrawFn) -> pl.DataFrame:
    """Any events of one merchant: unknown items, views, ties in time, many or few."""
    row = st.tuples(
        st.sampled_from(["u", "v", "w"]),
        st.sampled_from([*ITEMS, "unknown-item"]),
        st.integers(0, 40),
        st.sampled_from(["purchase", "purchase", "view", "return"]),
        st.sampled_from([None, 1.0, 2.0]),
        st.sampled_from([None, "k1", "k2"]),
    )
    rows = draw(st.lists(row, max_size=60))
    users, items, days, kinds, quantities, baskets = (
        (list(c) for c in zip(*rows, strict=True)) if rows else [[]] * 6
    )
    return pl.DataFrame(
        {
            "user_id": pl.Series(users, dtype=pl.String),
            "item_id": pl.Series(items, dtype=pl.String),
            "timestamp": pl.Series([START + timedelta(days=d) for d in days], dtype=pl.Datetime("us", "UTC")),
            "event": pl.Series(kinds, dtype=pl.String),
            "quantity": pl.Series(quantities, dtype=pl.Float32),
            "basket_id": pl.Series(baskets, dtype=pl.String),
        }
    )


def by_hand(events: pl.DataFrame, until: datetime, max_events: int) -> dict[str, list[tuple[int, datetime]]]:
    """What each user's history must be, by a loop."""
    index = {item: number for number, item in enumerate(ITEMS, start=1)}
    result: dict[str, list[tuple[datetime, int]]] = {}
    for row in events.iter_rows(named=True):
        if row["event"] == "purchase" and row["timestamp"] < until and row["item_id"] in index:
            result.setdefault(row["user_id"], []).append((row["timestamp"], index[row["item_id"]]))
    return {user: [(item, when) for when, item in sorted(rows)[-max_events:]] for user, rows in result.items()}


def as_dict(users: UserHistories) -> dict[str, list[int]]:
    spans = zip(users.user_ids, users.offsets[:-1], users.offsets[1:], strict=True)
    return {user: users.items[start:end].tolist() for user, start, end in spans}


@settings(max_examples=50, deadline=None)
@given(shops(), st.integers(1, 8), st.integers(0, 45))
def test_a_user_has_at_most_max_events_events_in_a_history_whatever_they_bought(
    events: pl.DataFrame, max_events: int, day: int
) -> None:
    until = START + timedelta(days=day)
    users = histories(events, known(), until=until, max_events=max_events)
    assert users.lengths().max(initial=0) <= max_events
    assert users.lengths().min(initial=1) >= 1
    expected = by_hand(events, until, max_events)
    assert as_dict(users) == {user: [item for item, _ in rows] for user, rows in sorted(expected.items())}
    assert users.user_ids == tuple(sorted(expected))


@settings(max_examples=30, deadline=None)
@given(shops(), st.integers(0, 45))
def test_no_event_at_or_after_the_cut_is_in_a_history(events: pl.DataFrame, day: int) -> None:
    until = START + timedelta(days=day)
    users = histories(events, known(), until=until, max_events=5)
    assert users.days.max(initial=0.0) < day_of(until)
    before = events.filter(pl.col("timestamp") < until)
    assert as_dict(users) == as_dict(histories(before, known(), until=NOW, max_events=5))


@settings(max_examples=30, deadline=None)
@given(shops(), st.integers(0, 2**31))
def test_the_same_events_in_any_order_give_the_same_histories(events: pl.DataFrame, seed: int) -> None:
    other = events.sample(fraction=1, shuffle=True, seed=seed)
    cut, end = START + timedelta(days=20), START + timedelta(days=41)
    first, second = (evaluation_set(rows, known(), cut=cut, end=end, max_events=4) for rows in (events, other))
    for name in ("items", "days", "quantities", "offsets"):
        assert np.array_equal(getattr(first.histories, name), getattr(second.histories, name))
    for name in ("targets_all", "targets_novel", "seen"):
        assert np.array_equal(getattr(first, name).items, getattr(second, name).items)
        assert np.array_equal(getattr(first, name).offsets, getattr(second, name).offsets)


@settings(max_examples=50, deadline=None)
@given(shops(), st.integers(1, 3))
def test_novel_targets_were_never_bought_before_the_cut_bounded_history_or_not(
    events: pl.DataFrame, max_events: int
) -> None:
    cut, end = START + timedelta(days=20), START + timedelta(days=35)
    found = evaluation_set(events, known(), cut=cut, end=end, max_events=max_events)
    past = by_hand(events, cut, 10_000)
    window = by_hand(events.filter(pl.col("timestamp") >= cut), end, 10_000)
    assert found.histories.user_ids == tuple(sorted(set(past) & set(window)))
    for row, user in enumerate(found.histories.user_ids):
        seen = {item for item, _ in past[user]}
        bought = {item for item, _ in window[user]}
        assert set(found.seen.row(row).tolist()) == seen
        assert set(found.targets_novel.row(row).tolist()) == bought - seen
        basket = set(found.targets_all.row(row).tolist())
        assert basket
        assert basket <= bought


def test_the_small_leagues_histories_are_as_written(league: League, vocabulary: Vocabulary) -> None:
    users = histories(league.merchant_events("north"), vocabulary, until=CUT, max_events=2)
    assert users.user_ids == ("ann", "bob")
    assert users.offsets.tolist() == [0, 2, 3]
    assert users.items.tolist() == [2, 1, 2]
    assert users.days.tolist() == [8766.5, 8773.5, 8769.5]
    assert [users.offsets.dtype, users.items.dtype, users.days.dtype, users.quantities.dtype] == [
        np.int64, np.int32, np.float32, np.float32,
    ]  # fmt: skip


def test_both_views_of_the_small_league(league: League, vocabulary: Vocabulary) -> None:
    found = evaluation_set(
        league.merchant_events("north"), vocabulary, cut=CUT, end=CUT + timedelta(days=30), max_events=9
    )
    assert found.histories.user_ids == ("ann", "bob")
    assert found.targets_all.row(0).tolist() == [1, 3]
    assert found.targets_novel.row(0).tolist() == [3, 5]
    assert found.targets_all.row(1).tolist() == [2]
    assert found.targets_novel.row(1).tolist() == []
    assert found.seen.row(0).tolist() == [1, 2]
    assert found.cut_day == day_of(CUT)
    assert len(found.targets_all) == len(found) == 2


def test_a_basket_is_a_basket_id_where_there_is_one(league: League, vocabulary: Vocabulary) -> None:
    rows = league.merchant_events("north")
    kinds = pl.when(pl.col("item_id") == "cheese").then(pl.lit("k1")).otherwise(pl.lit("k2"))
    found = evaluation_set(rows.with_columns(basket_id=kinds), vocabulary, cut=CUT, end=NOW, max_events=9)
    assert found.targets_all.row(0).tolist() == [3]


def test_nobody_to_evaluate_is_an_empty_set(league: League, vocabulary: Vocabulary) -> None:
    rows = league.merchant_events("south").filter(pl.col("user_id") == "cat")
    found = evaluation_set(rows, vocabulary, cut=CUT, end=NOW, max_events=9)
    assert len(found) == 0
    assert found.targets_all.offsets.tolist() == [0]
    users = histories(rows.clear(), vocabulary, until=NOW, max_events=9)
    assert (len(users), users.offsets.tolist()) == (0, [0])


def test_several_merchants_at_once_are_refused(league: League, vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="one merchant at a time"):
        histories(league.events, vocabulary, until=NOW, max_events=9)
    with pytest.raises(ValueError, match="at least 1, found 0"):
        histories(league.merchant_events("west"), vocabulary, until=NOW, max_events=0)
    with pytest.raises(ValueError, match="no time zone"):
        histories(league.merchant_events("west"), vocabulary, until=datetime(2024, 1, 1), max_events=1)
    with pytest.raises(ValueError, match="end after its cut"):
        evaluation_set(league.merchant_events("west"), vocabulary, cut=NOW, end=NOW, max_events=1)


def test_merged_and_taken_histories_keep_their_rows(league: League, vocabulary: Vocabulary) -> None:
    parts = [histories(league.merchant_events(m), vocabulary, until=NOW, max_events=3) for m in league.merchants]
    merged = merge_histories(parts)
    assert merged.user_ids == ("ann", "bob", "ann", "cat", "dan", "eve")
    assert merged.items.tolist() == [item for part in parts for item in part.items.tolist()]
    some = merged.take([5, 0, 5])
    assert some.user_ids == ("eve", "ann", "eve")
    assert some.lengths().tolist() == [2, 3, 2]
    assert some.items[:2].tolist() == merged.items[-2:].tolist() == some.items[-2:].tolist()
    assert len(merged.take([])) == len(merge_histories([])) == 0


def test_the_text_form_shows_counts_and_no_user(league: League, vocabulary: Vocabulary) -> None:
    found: EvaluationSet = evaluation_set(
        league.merchant_events("north"), vocabulary, cut=CUT, end=NOW, max_events=9
    )
    text = f"{found!r} {found.histories!r} {found.seen!r} {vocabulary!r}"
    assert "ann" not in text
    assert "users=2" in text


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_each_user_is_drawn_independently_with_the_same_probability(rate: float) -> None:
    rng = np.random.default_rng(5)
    draws = np.zeros((20_000, 6), dtype=bool)
    for row in draws:
        row[poisson_sample(6, rate, rng)] = True
    error = np.sqrt(rate * (1 - rate) / len(draws))
    assert np.abs(draws.mean(axis=0) - rate).max() < 4.5 * error
    assert np.abs(np.corrcoef(draws, rowvar=False) - np.eye(6)).max() < 4.5 / np.sqrt(len(draws))
    pooled_error = error / np.sqrt(6)
    assert abs(draws.mean() - rate) < 4 * pooled_error
    assert abs(draws.mean() - 1.1 * rate) > 4 * pooled_error, "a rate that is off by a tenth must be told"


def test_the_number_drawn_is_random_and_may_be_zero() -> None:
    rng = np.random.default_rng(6)
    sizes = [len(poisson_sample(20, 0.05, rng)) for _ in range(2000)]
    assert min(sizes) == 0
    assert abs(np.mean(sizes) - 1.0) < 0.1
    assert abs(np.var(sizes) - 0.95) < 0.15
    drawn = poisson_sample(1000, 0.5, rng)
    assert drawn.dtype == np.int64
    assert (np.diff(drawn) > 0).all()
    assert len(poisson_sample(10, 1.0, rng)) == 10
    assert len(poisson_sample(10, 0.0, rng)) == len(poisson_sample(0, 0.5, rng)) == 0
    with pytest.raises(ValueError, match=r"found 1\.5"):
        poisson_sample(10, 1.5, rng)


def test_the_complete_journeys_test_users(journey: League) -> None:
    split = last_weeks(journey.events)
    vocabulary = shared(journey, split.train_end, carriers=23)
    users, novel = 0, 0
    for merchant in journey.merchants:
        rows = journey.merchant_events(merchant)
        found = evaluation_set(rows, vocabulary, cut=split.valid_end, end=split.test_end, max_events=50)
        users += len(found)
        novel += int((np.diff(found.targets_novel.offsets) > 0).sum())
    assert (users, novel) == (3_526, 3_455)
