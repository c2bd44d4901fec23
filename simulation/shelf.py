# SPDX-License-Identifier: Apache-2.0
"""What a process keeps of the merchants that it read, so that the next round need not read them again.

A round asks every merchant in turn: giving up the oldest for the newest would keep nothing of use. So what came
first stays, and what finds no room is made anew each time it is asked for.

Guarantees:
- what is kept was made of no more events than there is room for
"""

from collections.abc import Callable, Hashable
from typing import TypeVar

HELD_EVENTS = 1_200_000  # some 20 bytes each; the league that ships has 1.1 million
Made = TypeVar("Made")


class Shelf:
    """Things made of merchants' events, by key, up to `room` events in all."""

    def __init__(self, room: int = HELD_EVENTS) -> None:
        self._room = room
        self._kept: dict[Hashable, object] = {}

    def get(self, key: Hashable, events: int, make: Callable[[], Made]) -> Made:
        """What was kept under `key`, or what `make` makes of a merchant's `events` events."""
        if key in self._kept:
            return self._kept[key]  # type: ignore[return-value]
        made = make()
        if events <= self._room:
            self._room -= events
            self._kept[key] = made
        return made
