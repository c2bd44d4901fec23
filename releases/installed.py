# SPDX-License-Identifier: Apache-2.0
"""What a merchant holds: installed releases, which one is active, and their proofs. Needs no network.

    home/releases/root.json          the pinned root        installed/3/   a release and signed.json, its proof
    home/releases/metadata/          TUF's cache            generations/7  -> ../installed/3
    home/releases/staging/           files on their way     active         -> generations/7

Guarantees:
- A flipped bit on disk is found whenever a release is opened.
- Activation swaps one link: a reader finds the old release or the new one.
- Rollback returns to the activation before, also when the feed has expired.
"""

import re
from pathlib import Path
from typing import Final

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Timestamp

from releases import contents, durable
from releases.card import ModelCard
from releases.errors import (
    ContentError,
    InstalledAltered,
    NothingToRollBackTo,
    NotInstalled,
    PullRefused,
    RootNotPinned,
)
from releases.signed import Proof, proved_releases, trusted_root
from releases.stages import SEAL, FeedState, Release, VerifiedRelease

PROOF_NAME: Final = "signed.json"
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}")


def releases_folder(home: Path) -> Path:
    """Where a merchant's home keeps its releases."""
    return home / "releases"


def release_folder(home: Path, version: int) -> Path:
    """Where an installed version lies."""
    return releases_folder(home) / "installed" / str(version)


def trust(home: Path, root: bytes) -> None:
    """Pin the root of trust, once. The same root again is no error; another one raises RootNotPinned."""
    trusted_root(root)
    path = releases_folder(home) / "root.json"
    with durable.locked(path.parent):
        if path.is_file():
            if path.read_bytes() != root:
                raise RootNotPinned(
                    f"{path}: another root is pinned already. A root is rotated by the platform's signatures; "
                    "remove the file only if the merchant's owner says so."
                )
            return
        durable.write(path, root, mode=0o444)


def pinned_root(home: Path) -> bytes:
    """The pinned root; raises RootNotPinned when there is none."""
    path = releases_folder(home) / "root.json"
    try:
        return path.read_bytes()
    except OSError as error:
        raise RootNotPinned(
            f"{path}: expected a pinned root, found none. Get it from the platform by another way than the mirror "
            "and pin it first."
        ) from error


def installed(home: Path) -> tuple[int, ...]:
    """The installed versions, ascending; listed, not verified."""
    return _numbers(releases_folder(home) / "installed")


def active_version(home: Path) -> int:
    """The version that `active` points to; raises NotInstalled when nothing is active."""
    folder = releases_folder(home)
    try:
        generation = folder / (folder / "active").readlink()
        return int(generation.readlink().name)
    except (OSError, ValueError) as error:
        raise NotInstalled(f"{folder}: expected an active release, found none. Pull and activate one.") from error


def active(home: Path) -> VerifiedRelease:
    """The active release, verified now. Raises NotInstalled, InstalledAltered or RootNotPinned."""
    return verified(home, active_version(home))


def activate(home: Path, version: int) -> VerifiedRelease:
    """Verify an installed version and make it the active one; any installed version may be chosen."""
    release = verified(home, version)
    folder = releases_folder(home)
    generations = folder / "generations"
    with durable.locked(generations):
        current = _current_generation(folder)
        if current and active_version(home) == version:
            return release
        for abandoned in _numbers(generations):
            if abandoned > current:
                (generations / str(abandoned)).unlink()
        durable.link(generations / str(current + 1), f"../installed/{version}")
        durable.link(folder / "active", f"generations/{current + 1}")
    return release


def rollback(home: Path) -> VerifiedRelease:
    """Activate what was active before; the merchant's own right. Raises NothingToRollBackTo."""
    folder = releases_folder(home)
    generations = folder / "generations"
    with durable.locked(generations):
        before = _current_generation(folder) - 1
        if before < 1:
            raise NothingToRollBackTo(f"{folder}: expected an earlier activation, found none. Activate a version.")
        release = verified(home, int((generations / str(before)).readlink().name))
        durable.link(folder / "active", f"generations/{before}")
    return release


def feed_state(home: Path) -> FeedState:
    """When the newest verified feed runs out; cheap, to be asked often."""
    path = releases_folder(home) / "metadata" / "timestamp.json"
    try:
        return FeedState(Metadata[Timestamp].from_bytes(path.read_bytes()).signed.expires)
    except (OSError, RepositoryError):
        return FeedState(None)


def verified(home: Path, version: int) -> VerifiedRelease:
    """An installed version, its proof and every file verified now. Raises NotInstalled or InstalledAltered."""
    folder = release_folder(home, version)
    if not folder.is_dir():
        raise NotInstalled(
            f"release {version}: not installed; installed are {list(installed(home))}. Pull it first."
        )
    again = f"Pull version {version} again."
    release = proved(home, version)
    names = {path.name for path in folder.iterdir()}
    if names != contents.NAMES | {PROOF_NAME}:
        raise InstalledAltered(f"{folder}: expected the six files and their proof, found {sorted(names)}. {again}")
    if damaged := altered_names(folder, release):
        raise InstalledAltered(f"{folder}: {', '.join(damaged)}: other bytes on disk than were signed. {again}")
    try:
        card = ModelCard.from_json((folder / "card.json").read_bytes())
    except ContentError as error:
        raise InstalledAltered(f"{folder}: {error}") from error
    return VerifiedRelease(release, folder, card, SEAL)


def proved(home: Path, version: int) -> Release:
    """What was signed for an installed version, by its own proof; raises InstalledAltered or RootNotPinned."""
    path = release_folder(home, version) / PROOF_NAME
    pinned = pinned_root(home)
    try:
        return proved_releases(pinned, Proof.from_json(path.read_bytes()))[version]
    except (PullRefused, KeyError, OSError) as error:
        raise InstalledAltered(
            f"{path}: the proof doesn't hold ({error}). Pull version {version} again."
        ) from error


def altered_names(folder: Path, release: Release) -> list[str]:
    """The release's files that are missing, or other than signed, in `folder`."""
    return [
        name
        for name, file in sorted(release.files.items())
        if not _matches(folder / name, file.size_bytes, file.sha256)
    ]


def _matches(path: Path, size_bytes: int, sha256: str) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != size_bytes:
        return False
    return contents.sha256_file(path) == sha256


def _current_generation(folder: Path) -> int:
    try:
        return int((folder / "active").readlink().name)
    except FileNotFoundError:
        return 0


def _numbers(folder: Path) -> tuple[int, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(int(path.name) for path in folder.iterdir() if _NUMBER.fullmatch(path.name)))
