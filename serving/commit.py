# SPDX-License-Identifier: Apache-2.0
"""Group commit: what arrived in one tick, or while the disk was busy, becomes one transaction.

There is no timer: an event alone waits for one fsync, a thousand at once wait for one fsync together.

Guarantees:
    an event is answered only after its commit
    an event counts in the very next recommendation
    what waits for the disk is bounded
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serving.errors import EventLogError, Overloaded
from serving.event_log import EventLog, LoggedEvent
from serving.window import Entry, HotWindows

_T = TypeVar("_T")


class GroupCommit:
    """Writes events to the log on one thread of its own, then into the hot windows."""

    def __init__(self, log: EventLog, windows: HotWindows, *, max_pending_events: int) -> None:
        self._log = log
        self._windows = windows
        self._max_pending_events = max_pending_events
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="event-log")
        self._pending: list[tuple[Sequence[LoggedEvent], asyncio.Future[int]]] = []
        self._n_pending = 0
        self._writer: asyncio.Task[None] | None = None
        self.n_commits = 0

    async def submit(self, events: Sequence[LoggedEvent]) -> int:
        """Store events; returns how many were duplicates once all are on disk and in the windows.

        Raises:
            Overloaded: too many events wait for the disk; none of these is stored.
            EventLogError: the disk refused; none of these is stored.
        """
        if self._n_pending + len(events) > self._max_pending_events:
            raise Overloaded(f"expected at most {self._max_pending_events} waiting events; send again shortly")
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pending.append((events, done))
        self._n_pending += len(events)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        return await done

    async def on_thread(self, work: Callable[[], _T]) -> _T:
        """Run work on the writer's thread, between two commits."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def drain(self) -> None:
        """Wait for what has been submitted, then end the thread."""
        while self._writer is not None:
            await asyncio.shield(self._writer)
        self._thread.shutdown()

    async def _write(self) -> None:
        try:
            while self._pending:
                group, self._pending = self._pending, []
                await self._commit(group)
        finally:
            self._writer = None

    async def _commit(self, group: list[tuple[Sequence[LoggedEvent], asyncio.Future[int]]]) -> None:
        flat = [logged for events, _ in group for logged in events]
        try:
            seqs = await self.on_thread(lambda: self._log.append(flat))
        except EventLogError as error:
            for _, done in group:
                if not done.done():
                    done.set_exception(error)
            return
        finally:
            self._n_pending -= len(flat)
        self.n_commits += 1
        start = 0
        for events, done in group:
            own = seqs[start : start + len(events)]
            start += len(events)
            for logged, seq in zip(events, own, strict=True):
                if seq is not None and logged.bought is not None:
                    entry = Entry(logged.timestamp_us, logged.event.item_id, seq)
                    self._windows.record(logged.event.user_id, entry, bought=logged.bought)
            if not done.done():
                done.set_result(own.count(None))
