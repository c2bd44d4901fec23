# SPDX-License-Identifier: Apache-2.0
"""Where a merchant's protocol state survives a crash (specification §7).

Guarantees:
- after save returns, load gives the saved bytes, also after a crash
- a crash during save leaves the old bytes or the new ones
- the file can be read by its owner only
- two processes never share a store, nor any two stores of one folder
"""

import fcntl
import os
from pathlib import Path
from typing import Protocol

from privacy.secagg.errors import StateRefused


class KeyStore(Protocol):
    """Keeps one byte string. `save` returns only when the bytes survive a crash."""

    def save(self, state: bytes) -> None: ...

    def load(self) -> bytes | None: ...


class MemoryKeyStore:
    """For tests and simulation: survives as long as the process."""

    def __init__(self, state: bytes | None = None) -> None:
        self._state = state

    def save(self, state: bytes) -> None:
        self._state = state

    def load(self) -> bytes | None:
        return self._state

    def __repr__(self) -> str:
        return "MemoryKeyStore(hidden)"


class FileKeyStore:
    """One file, mode 0600, replaced atomically; one process at a time holds its folder, by a lock file there."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """Raises StateRefused when another node holds the folder: two with one state would break the protocol.

        `durable` is False in simulations alone, where the process may die and the machine does not.
        """
        self._path = path
        self._durable = durable
        self._new = path.with_name(path.name + ".new")
        self._lock = os.open(path.with_name("state.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StateRefused(f"{path.parent} is in use by another process; stop the other node first") from None

    def save(self, state: bytes) -> None:
        descriptor = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(state)
            file.flush()
            if self._durable:
                os.fsync(file.fileno())
        self._new.replace(self._path)
        if not self._durable:
            return
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def load(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Give the file free; the store is of no use afterwards. A process that ends does so too."""
        os.close(self._lock)
