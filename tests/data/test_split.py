# SPDX-License-Identifier: Apache-2.0
"""Time splits leak nothing."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.catalogue import build_vocabulary
from data.errors import PreparationError
from data.league import League
from data.samples import histories
from data.schema import day_of
from data.split import TimeSplit, last_weeks, split_by_time

ORIGIN = datetime(2024, 1, 1, tzinfo=UTC)


def frame(hours: list[int]) -> pl.DataFrame:
    moments = [ORIGIN + timedelta(hours=hour) for hour in hours]
    return pl.DataFrame({"timestamp": pl.Series(moments, dtype=pl.Datetime("us", "UTC"))}).with_row_index()


@given(
    st.lists(st.integers(0, 24 * 7 * 30), min_size=1),
    st.lists(st.integers(0, 5000), min_size=3, max_size=3, unique=True),
)
def test_no_event_of_the_validation_or_test_weeks_is_in_the_training_part(
    hours: list[int], cuts: list[int]
) -> None:
    events = frame(hours)
    split = TimeSplit(*(ORIGIN + timedelta(hours=cut) for cut in sorted(cuts)))
    train, valid, test = split_by_time(events, split)
    for part, start, end in (
        (train, None, split.train_end),
        (valid, split.train_end, split.valid_end),
        (test, split.valid_end, split.test_end),
    ):
        moments = part["timestamp"].to_list()
        assert all((start is None or start <= moment) and moment < end for moment in moments)


@given(
    st.lists(st.integers(0, 24 * 7 * 30), min_size=1),
    st.lists(st.integers(0, 5000), min_size=3, max_size=3, unique=True),
)
def test_every_event_before_the_test_end_is_in_exactly_one_part(hours: list[int], cuts: list[int]) -> None:
    events = frame(hours)
    split = TimeSplit(*(ORIGIN + timedelta(hours=cut) for cut in sorted(cuts)))
    parts = pl.concat(split_by_time(events, split))
    expected = events.filter(pl.col("timestamp") < split.test_end)
    assert sorted(parts["index"]) == sorted(expected["index"])


def test_the_split_leaks_nothing(journey: League) -> None:
    """Changing every event at or after the cut changes nothing that is trained on."""
    split = last_weeks(journey.events)
    later = pl.col("timestamp") >= split.train_end
    changed = journey.events.with_columns(
        item_id=pl.when(later).then(pl.col("item_id").shuffle(seed=1)).otherwise("item_id"),
        quantity=pl.when(later).then(99.0).otherwise("quantity").cast(pl.Float32),
    )
    merchant = journey.merchants[7]
    vocabulary = build_vocabulary(journey.catalogue)
    known = []
    for events in (journey.events, changed):
        own = events.filter(pl.col("merchant_id") == merchant)
        users = histories(own, vocabulary, until=split.train_end, max_events=50)
        known.append(users)
    users, users_again = known
    assert users.user_ids == users_again.user_ids
    assert users.items.tobytes() == users_again.items.tobytes()
    assert users.days.tobytes() == users_again.days.tobytes()
    assert users.quantities.tobytes() == users_again.quantities.tobytes()
    assert users.days.max() < day_of(split.train_end)


def test_the_last_weeks_of_the_complete_journey_are_weeks_46_to_53(journey: League) -> None:
    split = last_weeks(journey.events)
    assert split == TimeSplit(
        datetime(2017, 10, 9, 5, tzinfo=UTC),
        datetime(2017, 11, 6, 5, tzinfo=UTC),
        datetime(2018, 1, 1, 5, tzinfo=UTC),
    )


def test_too_short_a_history_is_refused_with_the_span_it_has() -> None:
    with pytest.raises(PreparationError, match=r"span 3\.0 weeks"):
        last_weeks(frame([0, 24 * 21]))
    with pytest.raises(PreparationError, match="no events"):
        last_weeks(frame([]))


def test_a_split_in_disorder_or_without_time_zone_is_refused() -> None:
    later = ORIGIN + timedelta(days=1)
    with pytest.raises(ValueError, match="train_end < valid_end < test_end"):
        TimeSplit(later, ORIGIN, later)
    with pytest.raises(ValueError, match="no time zone"):
        TimeSplit(ORIGIN.replace(tzinfo=None), later, later)
