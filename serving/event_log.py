# SPDX-License-Identifier: Apache-2.0
"""The durable event log: one SQLite file in WAL mode, every commit fsync'd.

Assumes a local disk (SQLite's WAL does not work over network file systems) and one serving process per
home, which a lock enforces. The view `events` has the columns of the data contract, so that training
reads the same file: `sqlite:///HOME/serving/events.sqlite?table=events`.

Guarantees:
    an accepted event survives kill minus nine
    a duplicate event id is idempotent
    a batch is stored whole or not at all
    retention bounds the log by age and by rows
    the log is readable by its owner only
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from pathlib import Path

from serving.errors import EventLogBusy, EventLogError
from serving.messages import Event
from serving.window import Entry, Recent

FORMAT_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS event_log (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    event_key BLOB NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    timestamp_us INTEGER NOT NULL,
    received_us INTEGER NOT NULL,
    event TEXT NOT NULL,
    bought INTEGER,
    quantity REAL NOT NULL,
    price REAL,
    basket_id TEXT,
    promotion INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS event_log_by_user ON event_log (user_id, bought, timestamp_us, item_id);
CREATE INDEX IF NOT EXISTS event_log_by_receipt ON event_log (received_us);
CREATE VIEW IF NOT EXISTS events AS
    SELECT user_id, item_id,
           strftime('%Y-%m-%dT%H:%M:%S', timestamp_us / 1000000, 'unixepoch')
               || printf('.%06dZ', timestamp_us % 1000000) AS timestamp,
           event, quantity, price, basket_id, promotion
    FROM event_log;
"""
_INSERT = """
INSERT INTO event_log (event_key, user_id, item_id, timestamp_us, received_us, event, bought, quantity,
                       price, basket_id, promotion)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (event_key) DO NOTHING
"""
_RECENT = """
SELECT timestamp_us, item_id, seq FROM event_log
WHERE user_id = ? AND bought = ? AND seq <= ? ORDER BY timestamp_us DESC, item_id DESC, seq DESC LIMIT ?
"""
_PRUNE_CHUNK = 5_000


@dataclass(frozen=True, slots=True, repr=False)
class LoggedEvent:
    """An event with its time of receipt, its moment and its identity fixed, ready to be stored."""

    event: Event
    event_key: bytes
    timestamp_us: int
    received_us: int

    def __repr__(self) -> str:
        return "<LoggedEvent: redacted>"

    @classmethod
    def of(cls, event: Event, received_us: int) -> LoggedEvent:
        """Fix an event's moment (its own, or that of receipt) and its 16-byte identity."""
        timestamp_us = received_us if event.timestamp is None else to_microseconds(event.timestamp)
        return cls(event, _event_key(event, timestamp_us), timestamp_us, received_us)

    @property
    def bought(self) -> bool | None:
        """Whether it is a purchase or shows interest; None for a return, which is no part of a history."""
        return None if self.event.event == "return" else self.event.event == "purchase"

    def row(self) -> tuple[object, ...]:
        """The values of the insert statement."""
        event = self.event
        return (
            self.event_key,
            event.user_id,
            event.item_id,
            self.timestamp_us,
            self.received_us,
            event.event,
            self.bought,
            event.quantity,
            event.price,
            event.basket_id,
            event.promotion,
        )


class EventLog:
    """The log of one home. `append` and `prune` on one thread, `recent` on another.

    Raises:
        EventLogBusy: another process holds this log.
        EventLogError: the file is damaged, of another format, or can't be created.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = _lock(path.with_suffix(".lock"))
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._writer = _connect(path)
            self._reader = _connect(path)
            _check_format(self._writer, path)
            self._writer.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock_fd)
            raise EventLogError(
                f"event log {path}: expected a SQLite file that can be written, found: {error}; "
                "check the disk and the owner, or move the file away and restore a copy"
            ) from error
        except EventLogError:
            os.close(self._lock_fd)
            raise

    def append(self, batch: Sequence[LoggedEvent]) -> list[int | None]:
        """Store a batch in one transaction; on return it is on disk.

        Returns the seq of each event, in order; None for one whose id the log holds already.

        Raises:
            EventLogError: the disk refused; nothing of the batch is stored.
        """
        seqs: list[int | None] = []
        try:
            with self._writer as transaction:
                transaction.execute("BEGIN IMMEDIATE")
                for logged in batch:
                    cursor = transaction.execute(_INSERT, logged.row())
                    seqs.append(cursor.lastrowid if cursor.rowcount == 1 else None)
        except sqlite3.Error as error:
            raise EventLogError(
                f"event log: expected to store {len(batch)} events, found {type(error).__name__}; "
                "check free space and the health of the disk"
            ) from error
        return seqs

    def recent(self, user_id: str, limit: int) -> Recent:
        """The user's `limit` most recent purchases and as many signs of interest, by their own time."""
        last_seq = self._reader.execute("SELECT ifnull(max(seq), 0) FROM event_log").fetchone()[0]
        bought, interest = (
            [
                Entry(*row)
                for row in reversed(self._reader.execute(_RECENT, (user_id, kind, last_seq, limit)).fetchall())
            ]
            for kind in (1, 0)
        )
        return Recent(bought, interest, last_seq)

    def prune(self, *, received_before_us: int, max_events: int) -> int:
        """Remove events received before a moment, and the oldest rows beyond `max_events`.

        At most one chunk of rows per call, so that no event waits long behind it; returns how many
        went, and is called again until that is 0.
        """
        with self._writer as transaction:
            transaction.execute("BEGIN IMMEDIATE")
            removed = transaction.execute(
                "DELETE FROM event_log WHERE seq IN (SELECT seq FROM event_log WHERE received_us < ? LIMIT ?)",
                (received_before_us, _PRUNE_CHUNK),
            ).rowcount
            # Seqs have gaps only where rows were removed or ignored: this keeps at most max_events rows.
            removed += transaction.execute(
                "DELETE FROM event_log WHERE seq IN (SELECT seq FROM event_log "
                "WHERE seq <= (SELECT max(seq) FROM event_log) - ? ORDER BY seq LIMIT ?)",
                (max_events, _PRUNE_CHUNK),
            ).rowcount
        return removed

    def count(self) -> int:
        """Events in the log."""
        return int(self._reader.execute("SELECT count(*) FROM event_log").fetchone()[0])

    def close(self) -> None:
        """Fold the WAL into the file and let go of the lock."""
        self._reader.close()
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._writer.close()
        os.close(self._lock_fd)


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exact (a float of seconds is not)."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _event_key(event: Event, timestamp_us: int) -> bytes:
    if event.event_id is not None:
        parts: tuple[str, ...] = ("id", event.event_id)
    elif event.timestamp is not None:
        content = (event.user_id, event.item_id, event.event, str(timestamp_us), repr(event.quantity))
        parts = ("content", *content, event.basket_id or "")
    else:
        parts = ("fresh", uuid.uuid4().hex)
    digest = blake2b(digest_size=16, person=b"hansa-event/1")
    for part in parts:  # length before content: no two lists of parts hash the same bytes
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return digest.digest()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # power loss too, not only the death of the process
    connection.execute("PRAGMA secure_delete = ON")  # what retention removes is overwritten
    return connection


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found not in (0, FORMAT_VERSION):
        raise EventLogError(
            f"event log {path}: expected format {FORMAT_VERSION}, found {found}; "
            "serve it with the version of Hansa that wrote it"
        )
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise EventLogBusy(
            f"{path.parent}: expected no other serving process, found one that holds the lock; "
            "stop it first, or serve from another home"
        ) from error
    return fd
