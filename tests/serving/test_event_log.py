# SPDX-License-Identifier: Apache-2.0
"""The durable log, the hot window in front of it, and group commit."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.commit import GroupCommit
from serving.errors import EventLogBusy, EventLogError, Overloaded
from serving.event_log import EventLog, LoggedEvent, to_microseconds
from serving.messages import Event
from serving.window import Entry, HotWindows, Recent

START = datetime(2026, 1, 1, tzinfo=UTC)
EVENT_TYPES = ("view", "wishlist", "cart", "purchase", "return")


def logged(user: str, item: str, *, minute: int = 0, event: str = "purchase", received_us: int = 10**15, **more):
    moment = START + timedelta(minutes=minute)
    return LoggedEvent.of(Event(user_id=user, item_id=item, event=event, timestamp=moment, **more), received_us)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    opened = EventLog(tmp_path / "log" / "events.sqlite")
    yield opened
    opened.close()


def items(recent: Recent) -> list[str]:
    return [entry.item_id for entry in recent.bought]


def test_a_restart_recovers_the_most_recent_events_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    first = EventLog(path)
    first.append([logged("u", f"i{minute}", minute=minute) for minute in (3, 1, 2, 0)])
    first.close()
    again = EventLog(path)
    assert items(again.recent("u", 3)) == ["i1", "i2", "i3"]
    assert again.recent("v", 3).bought == []
    again.close()


def test_a_duplicate_event_id_is_idempotent(log: EventLog) -> None:
    one = logged("u", "a", event_id="e1")
    assert log.append([one, one]) == [1, None]
    assert log.append([one]) == [None]
    same_content = logged("u", "b", minute=5)
    assert log.append([same_content, same_content])[1] is None
    no_moment = [LoggedEvent.of(Event(user_id="u", item_id="c", event="view"), 1) for _ in range(2)]
    assert None not in log.append(no_moment)
    assert log.count() == 4


def test_a_batch_is_stored_whole_or_not_at_all(log: EventLog) -> None:
    bad = LoggedEvent(Event(user_id="u", item_id="b", event="view"), b"key", 2**70, 1)
    with pytest.raises((EventLogError, OverflowError)):
        log.append([logged("u", "a"), bad])
    assert log.count() == 0
    assert log.append([logged("u", "a")]) == [1]


def test_retention_bounds_the_log_by_age_and_by_rows(log: EventLog) -> None:
    log.append([logged("u", f"i{n}", minute=n, received_us=n) for n in range(20)])
    assert log.prune(received_before_us=5, max_events=100) == 5
    assert log.count() == 15
    while log.prune(received_before_us=5, max_events=4):
        pass
    assert items(log.recent("u", 100)) == ["i16", "i17", "i18", "i19"]


def test_the_log_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "log" / "events.sqlite"
    log = EventLog(path)
    log.append([logged("u", "a")])
    for file in (path.parent, *path.parent.iterdir()):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    log.close()


def test_a_second_log_and_a_damaged_log_are_refused(log: EventLog, tmp_path: Path) -> None:
    with pytest.raises(EventLogBusy, match="another home"):
        EventLog(tmp_path / "log" / "events.sqlite")
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"no database" * 1000)
    with pytest.raises(EventLogError, match="expected a SQLite file"):
        EventLog(damaged)
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(EventLogError, match="expected format 1, found 99"):
        EventLog(newer)


def test_the_view_has_the_columns_of_the_data_contract(log: EventLog, tmp_path: Path) -> None:
    log.append([logged("u", "a", minute=1, price=2.5, quantity=2, basket_id="b", promotion=True)])
    connection = sqlite3.connect(tmp_path / "log" / "events.sqlite")
    cursor = connection.execute("SELECT * FROM events")
    assert [column[0] for column in cursor.description] == [
        "user_id", "item_id", "timestamp", "event", "quantity", "price", "basket_id", "promotion",
    ]  # fmt: skip
    assert cursor.fetchall() == [("u", "a", "2026-01-01T00:01:00.000000Z", "purchase", 2.0, 2.5, "b", 1)]
    connection.close()


def test_microseconds_are_exact() -> None:
    assert to_microseconds(datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)) == 1_767_225_600_000_001


steps = st.lists(
    st.tuples(
        st.sampled_from("uvw"),
        st.sampled_from("abcdef"),
        st.integers(0, 8),
        st.sampled_from(EVENT_TYPES),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, max_users=st.integers(1, 3), per_user=st.integers(1, 5))
def test_a_window_equals_a_fresh_read_of_the_log(
    tmp_path_factory: pytest.TempPathFactory, steps, max_users: int, per_user: int
) -> None:
    log = EventLog(tmp_path_factory.mktemp("log") / "events.sqlite")
    try:
        windows = HotWindows(log.recent, max_users=max_users, max_events_per_user=per_user, max_events=7)
        for user, item, minute, event, read in steps:
            one = logged(user, item, minute=minute, event=event)
            (seq,) = log.append([one])
            if read:
                windows.get(user)  # between the commit and the record: must not count twice
            if seq is not None and one.bought is not None:
                windows.record(user, Entry(one.timestamp_us, item, seq), bought=one.bought)
            assert windows.n_users <= max_users
            assert windows.n_events <= 7
        for user in "uvw":
            fresh = log.recent(user, per_user)
            assert list(windows.get(user).bought) == fresh.bought
            assert list(windows.get(user).interest) == fresh.interest
    finally:
        log.close()


def test_memory_is_bounded_by_users_and_by_events() -> None:
    stored = {f"u{n}": [Entry(t, "i", 10 * n + t) for t in range(10)] for n in range(100)}
    windows = HotWindows(
        lambda user, limit: Recent(stored.get(user, [])[-limit:], [], 1000),
        max_users=30,
        max_events_per_user=5,
        max_events=60,
    )
    for user in stored:
        windows.get(user)
    assert (windows.n_users, windows.n_events) == (12, 60)
    for n in range(1000):
        windows.get(f"stranger {n}")
    assert windows.n_users == 12


def commit_for(log: EventLog, max_pending: int = 100) -> tuple[GroupCommit, HotWindows]:
    windows = HotWindows(log.recent, max_users=10, max_events_per_user=10, max_events=100)
    return GroupCommit(log, windows, max_pending_events=max_pending), windows


def test_what_arrived_in_one_tick_is_one_commit(log: EventLog) -> None:
    commit, windows = commit_for(log)

    async def work() -> list[int]:
        done = await asyncio.gather(*(commit.submit([logged("u", f"i{n}", minute=n)]) for n in range(8)))
        await commit.drain()
        return done

    assert asyncio.run(work()) == [0] * 8
    assert commit.n_commits == 1
    assert len(windows.get("u").bought) == 8


def test_an_event_is_answered_only_after_its_commit(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, _ = commit_for(log)
    append = log.append
    committed: list[int] = []

    def slow(batch):
        seqs = append(batch)
        committed.extend(seqs)
        return seqs

    monkeypatch.setattr(log, "append", slow)

    async def work() -> None:
        await commit.submit([logged("u", "a")])
        assert committed == [1]
        await commit.drain()

    asyncio.run(work())


def test_what_waits_for_the_disk_is_bounded(log: EventLog) -> None:
    commit, _ = commit_for(log, max_pending=3)

    async def work() -> None:
        first = asyncio.create_task(commit.submit([logged("u", f"i{n}") for n in range(3)]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await commit.submit([logged("u", "one too many")])
        assert await first == 0
        assert await commit.submit([logged("u", "later")]) == 0
        await commit.drain()

    asyncio.run(work())


def test_a_disk_that_refuses_fails_the_request_and_nothing_else(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, windows = commit_for(log)
    append = log.append

    def refuse(batch):
        raise EventLogError("disk full")

    async def work() -> None:
        monkeypatch.setattr(log, "append", refuse)
        with pytest.raises(EventLogError):
            await commit.submit([logged("u", "a")])
        monkeypatch.setattr(log, "append", append)
        assert await commit.submit([logged("u", "a")]) == 0
        await commit.drain()

    asyncio.run(work())
    assert len(windows.get("u").bought) == 1
