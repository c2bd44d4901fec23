# SPDX-License-Identifier: Apache-2.0
"""The hot window: the most recent events of the users seen last, in memory, in front of the event log.

The log is the truth and this is a cache of it: a user who is not here is read from the log, so nothing
has to be rebuilt after a restart.

Guarantees:
    a window equals a fresh read of the log
    memory is bounded by users and by events
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Entry(NamedTuple):
    """One event of a user as scoring needs it; sorts by time, then by item as training does, then by arrival."""

    timestamp_us: int
    item_id: str
    seq: int

    def __repr__(self) -> str:
        return "<Entry: redacted>"


class History(NamedTuple):
    """A user's events, oldest first: purchases, and what shows interest (view, wishlist, cart).

    The model is trained on purchases, and a flood of views must not push them out: so each has its own list.
    """

    bought: Sequence[Entry]
    interest: Sequence[Entry]

    def __repr__(self) -> str:
        return "<History: redacted>"


class Recent(NamedTuple):
    """A user's most recent events as the log held them when `last_seq` was its newest row."""

    bought: list[Entry]
    interest: list[Entry]
    last_seq: int

    def __repr__(self) -> str:
        return "<Recent: redacted>"


class HotWindows:
    """The most recent events per user: LRU over users, at most `max_events_per_user` of each kind.

    One thread only. `load` reads a user from the log.
    """

    def __init__(
        self,
        load: Callable[[str, int], Recent],
        *,
        max_users: int,
        max_events_per_user: int,
        max_events: int,
    ) -> None:
        self._load = load
        self._max_users = max_users
        self._max_events_per_user = max_events_per_user
        self._max_events = max_events
        self._users: OrderedDict[str, Recent] = OrderedDict()
        self._n_events = 0

    @property
    def n_users(self) -> int:
        """Users held in memory."""
        return len(self._users)

    @property
    def n_events(self) -> int:
        """Events held in memory, of all users."""
        return self._n_events

    def get(self, user_id: str) -> History:
        """The user's most recent events; empty for a user whom the log doesn't know."""
        recent = self._users.get(user_id)
        if recent is None:
            recent = self._load(user_id, self._max_events_per_user)
            n_events = _n_events(recent)
            if n_events:  # a stranger costs no memory
                self._users[user_id] = recent
                self._n_events += n_events
                self._evict()
        else:
            self._users.move_to_end(user_id)
        return History(recent.bought, recent.interest)

    def record(self, user_id: str, entry: Entry, *, bought: bool) -> None:
        """Add an event that the log has committed, if its user is in memory.

        An entry that the window was already loaded with (its seq is not newer) changes nothing.
        """
        recent = self._users.get(user_id)
        if recent is None or entry.seq <= recent.last_seq:
            return
        entries = recent.bought if bought else recent.interest
        before = len(entries)
        insort(entries, entry)
        del entries[: -self._max_events_per_user]
        self._n_events += len(entries) - before
        self._users[user_id] = Recent(recent.bought, recent.interest, entry.seq)
        self._users.move_to_end(user_id)
        self._evict()

    def clear(self) -> None:
        """Forget everything: the log has removed events."""
        self._users.clear()
        self._n_events = 0

    def _evict(self) -> None:
        while len(self._users) > self._max_users or self._n_events > self._max_events:
            _, recent = self._users.popitem(last=False)
            self._n_events -= _n_events(recent)


def _n_events(recent: Recent) -> int:
    return len(recent.bought) + len(recent.interest)
