# SPDX-License-Identifier: Apache-2.0
"""What lives as long as the process: event log, hot windows, served model, and the watch that swaps it.

A swap loads and warms the new model on a thread of its own beside the old one, then replaces one
reference. A release or local part that can't be loaded changes nothing: the old model serves on.

Guarantees:
    no request fails while a release is swapped
    a release that can't be loaded leaves the old one serving
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from releases.errors import ReleaseError
from serving.commit import GroupCommit
from serving.config import ServingConfig
from serving.errors import RequestError, ServingError
from serving.event_log import EventLog, LoggedEvent, to_microseconds
from serving.logs import log
from serving.messages import Event, EventsAnswer, Filters, HistoryEvent, RecommendAnswer, RecommendRequest
from serving.model import ServedModel, load_model
from serving.recommend import recommend
from serving.source import Feed, ReleaseSource
from serving.window import Entry, History, HotWindows

_US_PER_DAY = 86_400_000_000
_EARLIEST_US = to_microseconds(datetime(2000, 1, 1, tzinfo=UTC))
_CLOCK_SKEW_US = 5 * 60 * 1_000_000
_PRUNE_INTERVAL_S = 3_600.0


class Service:
    """One home's real-time state. Made and used on one event loop."""

    def __init__(self, config: ServingConfig, source: ReleaseSource) -> None:
        self._config = config
        self._source = source
        self._log = EventLog(config.log_path)
        self._windows = HotWindows(
            self._log.recent,
            max_users=config.max_users,
            max_events_per_user=config.max_events_per_user,
            max_events=config.max_hot_events,
        )
        self._commit = GroupCommit(self._log, self._windows, max_pending_events=config.max_pending_events)
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="release-loader")
        self._tasks: list[asyncio.Task[None]] = []
        self._look_now = asyncio.Event()
        self._seen: object = None
        self._failure: str | None = None
        self._model: ServedModel | None = None
        self._feed: Feed = source.feed()

    @property
    def model(self) -> ServedModel | None:
        """The served model; a request takes this reference once and keeps it to its end."""
        return self._model

    async def start(self) -> None:
        """Load what is active, then watch it and the retention bound."""
        await self._look()
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._retain())]

    async def stop(self) -> None:
        """Put every accepted event on disk and close."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._commit.drain()
        self._loader.shutdown()
        self._log.close()

    def look_now(self) -> None:
        """Look for another release without waiting for the next interval (SIGHUP)."""
        self._seen = None
        self._look_now.set()

    async def store(self, events: Sequence[Event]) -> EventsAnswer:
        """Store a batch; on return it is on disk and counts in the very next recommendation.

        Raises:
            RequestError: 422, a timestamp lies before 2000 or more than five minutes ahead.
            Overloaded, EventLogError: nothing is stored.
        """
        received_us = time.time_ns() // 1_000
        logged = [LoggedEvent.of(event, received_us) for event in events]
        for place, one in enumerate(logged):
            _check_moment(one.event.timestamp, one.timestamp_us, received_us, f"$.events[{place}].timestamp")
        duplicates = await self._commit.submit(logged)
        model = self._model
        known = model.catalogue.index_of if model is not None else {}
        return EventsAnswer(
            accepted=len(events) - duplicates,
            duplicates=duplicates,
            unknown_items=sum(event.item_id not in known for event in events),
        )

    def answer(self, request: RecommendRequest, began_s: float) -> RecommendAnswer:
        """Recommend to a user of the log or to a session; `began_s` by time.perf_counter.

        Raises:
            RequestError: 503 without a model, 422 for what can't be answered.
        """
        model = self._model
        if model is None:
            raise no_release()
        now_us = time.time_ns() // 1_000
        at_us = now_us if request.at is None else to_microseconds(request.at)
        _check_moment(request.at, at_us, now_us, "$.at")
        history = self._history(request, now_us)
        if request.at is not None:
            history = History(
                *([entry for entry in entries if entry.timestamp_us <= at_us] for entries in history)
            )
        ranking = recommend(model, history, request.filters, k=request.k, reasons=request.reasons, now_us=at_us)
        age_s = model.release.release_age_s()
        return RecommendAnswer(
            items=ranking.items,
            model_version=model.version,
            fallback=ranking.fallback,
            release_age_s=round(age_s, 1),
            stale=self.is_stale(age_s),
            history_events=ranking.history_events,
            unknown_items=ranking.unknown_items,
            served_ms=round((time.perf_counter() - began_s) * 1e3, 3),
        )

    def is_stale(self, age_s: float) -> bool:
        """Whether a release of this age is served with the label stale: it is old, or its feed has run out."""
        return age_s > self._config.stale_after_s or self._feed.stale()

    def _history(self, request: RecommendRequest, now_us: int) -> History:
        if (request.user_id is None) == (request.history is None):
            raise RequestError(
                422,
                "user-or-history",
                "User or history",
                "Expected exactly one of user_id and history.",
                "Send user_id for a user of the event log, or history for a session that is not stored.",
                field="$.user_id",
            )
        if request.history is not None:
            return _session(request.history, now_us, self._config.max_events_per_user)
        assert request.user_id is not None
        return self._windows.get(request.user_id)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look_now.wait(), self._config.watch_interval_s)
            self._look_now.clear()
            await self._look()

    async def _look(self) -> None:
        """Load another release or local part if there is one.

        A failure changes nothing, is tried again at the next look, and is logged when it is another one.
        """
        try:
            model = await asyncio.get_running_loop().run_in_executor(self._loader, self._load_if_changed)
        except Exception as error:  # whatever is wrong with a release, the old one serves on
            self._seen = None
            # The words of our own errors hold no users' data; those of others are not written down.
            reason = str(error) if isinstance(error, ReleaseError | ServingError) else type(error).__name__
            if reason != self._failure:
                log("release not loaded", level=logging.ERROR, error=error, reason=reason)
            self._failure = reason
            return
        self._failure = None
        if model is not None:
            self._model = model
            log(
                "release loaded",
                model_version=model.version,
                items=model.catalogue.n_items,
                local_part=model.has_local_part,
                local_problem=model.local_problem,
            )

    def _load_if_changed(self) -> ServedModel | None:
        self._feed = self._source.feed()
        seen = (_active_or_none(self._source), _file_state(self._config.local_path))
        if seen == self._seen:
            return None
        self._seen = seen
        model = load_model(self._source.active(), self._config.local_path)
        _rehearse(model)
        return model

    async def _retain(self) -> None:
        while True:
            try:
                await self._prune()
            except sqlite3.Error as error:
                log("retention failed", level=logging.ERROR, error=error)
            await asyncio.sleep(_PRUNE_INTERVAL_S)

    async def _prune(self) -> None:
        before_us = time.time_ns() // 1_000 - int(self._config.retention_days * _US_PER_DAY)
        removed_in_all = 0
        while removed := await self._commit.on_thread(
            lambda: self._log.prune(received_before_us=before_us, max_events=self._config.max_log_events)
        ):
            removed_in_all += removed
            self._windows.clear()
        if removed_in_all:
            log("retention removed events", events=removed_in_all)


def _rehearse(model: ServedModel) -> None:
    """Answer as a request is answered, so that the first one pays for no start-up (numpy's BLAS: 0.1 s)."""
    bought = [Entry(0, item, seq) for seq, item in enumerate(model.catalogue.item_ids[1:65])]
    for _ in range(3):
        recommend(model, History(bought, []), Filters(exclude_bought=True), k=10, reasons=1, now_us=_US_PER_DAY)


def _active_or_none(source: ReleaseSource) -> int | None:
    try:
        return source.active_version()
    except ReleaseError:
        return None  # said once, by the load that follows


def _file_state(path: Path) -> tuple[int, int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino


def no_release() -> RequestError:
    """The answer while no verified release is loaded."""
    return RequestError(
        503,
        "no-release",
        "No release",
        "No verified release is loaded, so there is nothing to recommend from.",
        "Pull and activate one: hansa release pull, hansa release activate. Events are stored meanwhile.",
        headers=(("retry-after", "5"),),
    )


def _session(events: Sequence[HistoryEvent], now_us: int, limit: int) -> History:
    """A session's own history; an event without a timestamp happened now."""
    bought: list[Entry] = []
    interest: list[Entry] = []
    for place, event in enumerate(events):
        at_us = now_us if event.timestamp is None else to_microseconds(event.timestamp)
        _check_moment(event.timestamp, at_us, now_us, f"$.history[{place}].timestamp")
        if event.event != "return":
            (bought if event.event == "purchase" else interest).append(Entry(at_us, event.item_id, place))
    return History(sorted(bought)[-limit:], sorted(interest)[-limit:])


def _check_moment(given: datetime | None, moment_us: int, now_us: int, field: str) -> None:
    if given is None or _EARLIEST_US <= moment_us <= now_us + _CLOCK_SKEW_US:
        return
    raise RequestError(
        422,
        "moment-out-of-range",
        "Moment out of range",
        "Expected a moment between 2000-01-01 and now (five minutes of clock skew allowed).",
        "Check the client's clock and time zone; leave the field out for now.",
        field=field,
        value=given.isoformat(),
    )
