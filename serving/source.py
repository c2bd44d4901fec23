# SPDX-License-Identifier: Apache-2.0
"""Where the served release comes from: the merchant's installed releases, verified as they are opened."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Protocol

from releases.installed import active, active_version, feed_state


class Release(Protocol):
    """What serving needs of a verified release (`releases.stages.VerifiedRelease` is one)."""

    @property
    def version(self) -> int:
        """Number of the release, 1 and up."""

    def read(self, name: str) -> bytes:
        """A file's bytes, verified against the signature as they are read."""

    def release_age_s(self) -> float:
        """Seconds since the release was created."""


class Feed(Protocol):
    """The newest verified feed (`releases.stages.FeedState` is one)."""

    def stale(self, now: datetime | None = None) -> bool:
        """Whether the platform's word on what is newest has run out."""


class ReleaseSource(Protocol):
    """What is active in a home."""

    def active_version(self) -> int:
        """The active version, without verifying it: cheap, asked every few seconds. Raises when none is."""

    def active(self) -> Release:
        """The active release, verified now. Raises when it doesn't verify."""

    def feed(self) -> Feed:
        """The state of the feed that releases come from; cheap."""


class InstalledReleases:
    """The releases that the releases room installed in a home."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def active_version(self) -> int:
        """The version that the active link names; raises releases.errors.NotInstalled."""
        return active_version(self._home)

    def active(self) -> Release:
        """The active release; raises releases.errors.InstalledError or RootNotPinned."""
        return active(self._home)

    def feed(self) -> Feed:
        """When the newest verified feed runs out."""
        return feed_state(self._home)
