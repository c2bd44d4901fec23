# SPDX-License-Identifier: Apache-2.0
"""The numbers of secure epochs and rounds: each is handed out once in a roster's whole life, over all its runs.

Assumes one run at a time over a roster; what a second one repeats, every merchant refuses.

Guarantees:
- A number is on disk before it is used; a restarted platform goes on above it.
"""

from pathlib import Path

import msgspec

from server.checkpoints import write_durably
from server.errors import ServerError


class _Numbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    epoch: int = 0
    round: int = 0


class RisingNumbers:
    """One file in `folder`, named by the roster's digest."""

    def __init__(self, folder: Path, roster: bytes) -> None:
        self._path = folder / f"{roster.hex()}.json"

    def next_epoch(self) -> tuple[int, int]:
        """A new epoch's number and the first round that it serves."""
        before = self._read()
        after = self._write(_Numbers(before.epoch + 1, before.round))
        return after.epoch, after.round + 1

    def next_round(self) -> int:
        """A new round's number."""
        before = self._read()
        return self._write(_Numbers(before.epoch, before.round + 1)).round

    def _read(self) -> _Numbers:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Numbers)
        except FileNotFoundError:
            return _Numbers()
        except msgspec.MsgspecError as broken:
            raise ServerError(
                f"{self._path}: {broken}; write epoch and round above every one that was ever used"
            ) from None

    def _write(self, numbers: _Numbers) -> _Numbers:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, msgspec.json.encode(numbers))
        return numbers
