# SPDX-License-Identifier: Apache-2.0
"""The stages of a release: `Release` is what signed metadata lists, `VerifiedRelease` what stands on disk.

Guarantees:
- Only verification makes a verified release: the constructor demands a seal that this room keeps to itself.
- Read returns only bytes that match the signature, at the moment of reading, so that a loader that uses
  `read` can't be handed other bytes than were verified.

Assumes: no one who can write to this process's memory. Shapes: V items, d dimensions.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from releases.card import ModelCard
from releases.errors import InstalledAltered, NotInstalled

SEAL: Final = object()


@dataclass(frozen=True, slots=True)
class SignedFile:
    """A file's size and SHA-256 as signed."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Release:
    """A release as signed metadata lists it; its files have not been looked at."""

    version: int
    files: Mapping[str, SignedFile]


@dataclass(frozen=True, slots=True)
class VerifiedRelease:
    """An installed release whose files match what was signed. Made by pull, activate, rollback and active."""

    release: Release
    folder: Path
    card: ModelCard
    seal: object

    def __post_init__(self) -> None:
        if self.seal is not SEAL:
            raise TypeError("a VerifiedRelease comes from pull() or active() only: nothing else verifies")

    def __repr__(self) -> str:
        return f"VerifiedRelease(version={self.version}, folder={str(self.folder)!r})"

    @property
    def version(self) -> int:
        """The release's version, 1 and up."""
        return self.release.version

    def read(self, name: str) -> bytes:
        """A file's bytes, checked against the signature now.

        Raises NotInstalled for a name that is no part of a release, InstalledAltered for other bytes than signed.
        """
        signed = self.release.files.get(name)
        if signed is None:
            raise NotInstalled(f"a release has no file {name!r}; it has {', '.join(sorted(self.release.files))}")
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise InstalledAltered(
                f"{self.folder / name}: {error.strerror}. Pull version {self.version} again."
            ) from error
        found = hashlib.sha256(data).hexdigest()
        if found != signed.sha256:
            raise InstalledAltered(
                f"{self.folder / name}: expected SHA-256 {signed.sha256}, found {found}: the file changed. "
                f"Pull version {self.version} again."
            )
        return data

    def item_vectors(self) -> npt.NDArray[np.float32]:
        """Item vectors [V+1, d], row 0 for padding; verified now, never unpickled."""
        vectors: npt.NDArray[np.float32] = np.load(io.BytesIO(self.read("item_vectors.npy")), allow_pickle=False)
        return vectors

    def release_age_s(self, now: datetime | None = None) -> float:
        """Seconds since the release was created (never negative); `now` has a time zone, default the clock."""
        return max(0.0, ((now or datetime.now(UTC)) - self.card.created).total_seconds())


@dataclass(frozen=True, slots=True)
class FeedState:
    """The newest feed that this merchant has verified: when its signatures run out (None: never pulled)."""

    expires: datetime | None

    def stale(self, now: datetime | None = None) -> bool:
        """Whether the platform's word on what is newest has run out: serve on, and say so."""
        return self.expires is None or (now or datetime.now(UTC)) >= self.expires
