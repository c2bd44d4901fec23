# SPDX-License-Identifier: Apache-2.0
"""Where a merchant's protocol state survives a crash (specification §7).

Guarantees:
- after save returns, load gives the saved bytes, also after a crash
- a crash during save leaves the old bytes or the new ones
- the file can be read by its owner only
"""

import os
import tempfile
from pathlib import Path
from typing import Protocol


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
    """One file, mode 0600, replaced atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, state: bytes) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=self._path.name + ".")
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(state)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
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
