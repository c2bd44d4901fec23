# SPDX-License-Identifier: Apache-2.0
"""Pull a release from a mirror or a folder: fetch, verify, flush, rename. The merchant's only way in.

Guarantees:
- A refused or interrupted pull installs nothing and leaves the active release as it was.
- An expired feed refuses to install; the active release stays usable.
- Pulling again is harmless: what is whole stays, what is damaged on disk is repaired in place.
- An installed version never changes its files.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from releases import contents, durable
from releases.errors import ContentError, InstalledAltered, ReleaseChanged, TargetTooLong, UnknownVersion
from releases.feed import Feed
from releases.installed import (
    PROOF_NAME,
    activate,
    active,
    active_version,
    altered_names,
    feed_state,
    installed,
    pinned_root,
    proved,
    release_folder,
    releases_folder,
    rollback,
    trust,
    verified,
)
from releases.signed import Proof, proved_releases, trusted_root
from releases.sources import Source, open_source
from releases.stages import Release, VerifiedRelease

__all__ = [
    "activate",
    "active",
    "active_version",
    "available",
    "feed_state",
    "installed",
    "pull",
    "rollback",
    "trust",
    "verified",
]

TIMEOUT_S: Final = 3600.0


def available(home: Path, source: str, *, timeout_s: float = TIMEOUT_S) -> tuple[Release, ...]:
    """What the source offers, oldest first, by verified metadata. Raises PullRefused's children."""
    with durable.locked(releases_folder(home) / "staging"), closing(open_source(source, timeout_s)) as opened:
        _, _, releases = _refreshed(home, opened)
    return tuple(releases.values())


def pull(home: Path, source: str, version: int | None = None, *, timeout_s: float = TIMEOUT_S) -> VerifiedRelease:
    """Install a version (default: the newest) from a URL or a folder, without activating it.

    The root must have been pinned by `trust`. Raises PullRefused's children, ContentError for a signed release
    that breaks the format (nothing was installed), or OSError when the merchant's own disk fails.
    `timeout_s` bounds the whole download.
    """
    staging = releases_folder(home) / "staging"
    with durable.locked(staging), closing(open_source(source, timeout_s)) as opened:
        _clear(staging)
        feed, proof, releases = _refreshed(home, opened)
        release = _chosen(releases, version)
        folder = release_folder(home, release.version)
        if folder.is_dir():
            _repair(home, feed, release, proof, staging)
        else:
            _install(folder, feed, release, proof, staging)
        _clear(staging)
    return verified(home, release.version)


def _refreshed(home: Path, source: Source) -> tuple[Feed, Proof, dict[int, Release]]:
    pinned = pinned_root(home)
    metadata = releases_folder(home) / "metadata"
    feed = Feed(metadata, pinned, source)
    try:
        feed.refresh()
    finally:
        _sync_tree(metadata)  # what has been seen protects from rollback, also after a power cut
    proof = feed.proof(trusted_root(pinned).version)
    return feed, proof, proved_releases(pinned, proof)


def _chosen(releases: dict[int, Release], version: int | None) -> Release:
    wanted = max(releases, default=None) if version is None else version
    release = None if wanted is None else releases.get(wanted)
    if release is None:
        raise UnknownVersion(
            f"release {wanted or 'newest'}: the feed lists {list(releases)}. Choose one of these."
        )
    for name, file in release.files.items():
        try:
            contents.check_size(name, file.size_bytes)
        except ContentError as error:
            raise TargetTooLong(f"release {release.version}: {error}") from error
    return release


def _install(folder: Path, feed: Feed, release: Release, proof: Proof, staging: Path) -> None:
    building = staging / str(release.version)
    building.mkdir()
    _fetch(feed, release, release.files, building)
    contents.check_folder(building, release.version)
    durable.write(building / PROOF_NAME, proof.to_json(), mode=0o444)
    durable.sync(building)
    folder.parent.mkdir(exist_ok=True)
    durable.replace(building, folder)


def _repair(home: Path, feed: Feed, release: Release, proof: Proof, staging: Path) -> None:
    """Bring an installed version in line with what is signed now, file by file, each swapped atomically."""
    folder = release_folder(home, release.version)
    with suppress(InstalledAltered):  # a damaged proof can't object; the new one replaces it
        if proved(home, release.version) != release:
            raise ReleaseChanged(
                f"release {release.version}: installed with other files than are signed now; a version never "
                "changes. Ask the platform which one is right."
            )
    damaged = altered_names(folder, release)
    _fetch(feed, release, damaged, staging)
    for name in damaged:
        durable.replace(staging / name, folder / name)
    durable.write(folder / PROOF_NAME, proof.to_json(), mode=0o444)


def _fetch(feed: Feed, release: Release, names: Iterable[str], folder: Path) -> None:
    for name in sorted(names):
        feed.fetch(release.version, name, folder / name)
        (folder / name).chmod(0o444)
        durable.sync(folder / name)


def _clear(staging: Path) -> None:
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


def _sync_tree(folder: Path) -> None:
    for path, _, names in os.walk(folder):
        for name in names:
            durable.sync(Path(path) / name)
        durable.sync(Path(path))
