# SPDX-License-Identifier: Apache-2.0
"""The newest private answer of each run and kind, kept on disk so that a lost one is sent again, not made again.

Guarantees:
- An answer is whole on disk before it leaves; a damaged one is not sent.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from client.errors import WireError
from client.wire import Reply, decode_reply, encode_reply

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class AnswerStore:
    """Files `<run>-<kind>.answer`: inputs digest, hash of the body, body.

    Attributes:
        folder: where they lie.
        durable: flush to disk; False in simulations, where only the process may die, not the machine.
    """

    folder: Path
    durable: bool

    def find(self, run: str, kind: str, inputs_digest: bytes) -> Reply | None:
        """The stored reply to exactly these inputs, or None."""
        try:
            data = self._path(run, kind).read_bytes()
        except FileNotFoundError:
            return None
        stored, checksum, body = (
            data[:DIGEST_BYTES],
            data[DIGEST_BYTES : 2 * DIGEST_BYTES],
            data[2 * DIGEST_BYTES :],
        )
        if stored != inputs_digest or hashlib.sha256(body).digest() != checksum:
            return None
        try:
            return decode_reply(body)
        except WireError:
            return None

    def store(self, run: str, kind: str, inputs_digest: bytes, reply: Reply) -> str:
        """Write the reply, replace the older one; returns the hex SHA-256 of its body."""
        body = encode_reply(reply)
        checksum = hashlib.sha256(body)
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self._path(run, kind)
        temporary = final.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(inputs_digest + checksum.digest() + body)
            file.flush()
            if self.durable:
                os.fsync(file.fileno())
        temporary.replace(final)
        if self.durable:
            _sync_folder(self.folder)
        return checksum.hexdigest()

    def _path(self, run: str, kind: str) -> Path:
        return self.folder / f"{hashlib.sha256(run.encode()).hexdigest()[:16]}-{kind}.answer"


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
