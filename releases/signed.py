# SPDX-License-Identifier: Apache-2.0
"""What the platform's signatures say, from bytes alone: no network, no clock, no files (sans-IO).

A proof is the chain of roots after the pinned one and the targets metadata, verbatim, as they were verified
when a release was installed; with the pinned root it proves the release again at any later time.

Guarantees:
- A release is proved only by an unbroken chain of roots from the pinned one.
- A target outside the closed set of names is refused.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from releases import contents
from releases.errors import (
    FeedForged,
    MetadataMalformed,
    RootNotPinned,
    RootRefused,
    TargetMissing,
    UnsafeTargetName,
)
from releases.stages import Release, SignedFile

_PATH: Final = re.compile(r"([1-9][0-9]{0,8})/([A-Za-z_.]+)")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Proof:
    """Signed metadata as it was fetched: later roots in order, and targets."""

    roots: tuple[bytes, ...]
    targets: bytes

    def to_json(self) -> bytes:
        """The proof in one file, so that it is replaced whole."""
        return json.dumps(
            {"roots": [root.decode() for root in self.roots], "targets": self.targets.decode()}
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Proof":
        """Read a proof; raises MetadataMalformed."""
        try:
            fields = json.loads(data)
            return cls(tuple(root.encode() for root in fields["roots"]), fields["targets"].encode())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise MetadataMalformed("signed.json: expected a proof, found another file. Pull again.") from error


def trusted_root(data: bytes) -> Root:
    """Parse a root that is to be pinned; it must be signed by itself. Raises RootNotPinned."""
    try:
        root = Metadata[Root].from_bytes(data)
        if not isinstance(root.signed, Root):
            raise RootNotPinned(
                f"root: expected root metadata, found {root.signed.type}. Ask the platform for it."
            )
        root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    except RepositoryError as error:
        raise RootNotPinned(
            f"root: expected root metadata signed by itself ({error}). Ask the platform."
        ) from error
    return root.signed


def proved_releases(pinned: bytes, proof: Proof) -> dict[int, Release]:
    """The releases that a proof covers, by version. Raises RootNotPinned, RootRefused, FeedForged or what
    `listed_releases` raises."""
    root = trusted_root(pinned)
    for data in proof.roots:
        root = _next_root(root, data)
    try:
        targets = Metadata[Targets].from_bytes(proof.targets)
        root.verify_delegate("targets", targets.signed_bytes, targets.signatures)
    except UnsignedMetadataError as error:
        raise FeedForged(f"targets: {error}: not the release signers' keys. Refuse this feed.") from error
    except RepositoryError as error:
        raise MetadataMalformed(f"targets: {error}. Pull again.") from error
    return listed_releases(targets.signed)


def _next_root(root: Root, data: bytes) -> Root:
    """TUF specification 5.3.4 and 5.3.5: signed by the old root's threshold and its own, version plus one."""
    try:
        new = Metadata[Root].from_bytes(data)
        for judge in (root, new.signed):
            judge.verify_delegate("root", new.signed_bytes, new.signatures)
    except (RepositoryError, ValueError, AttributeError) as error:
        raise RootRefused(f"root {root.version + 1}: {error}. Refuse this feed.") from error
    if not isinstance(new.signed, Root) or new.signed.version != root.version + 1:
        raise RootRefused(f"root: expected version {root.version + 1}, found {new.signed.version}.")
    return new.signed


def listed_releases(targets: Targets) -> dict[int, Release]:
    """The releases that targets metadata lists, by version.

    Raises UnsafeTargetName for any path other than `<version>/<one of the six names>`, MetadataMalformed for
    hashes other than one SHA-256, TargetMissing for a release without all six.
    """
    found: dict[int, dict[str, SignedFile]] = {}
    for path, target in targets.targets.items():
        match = _PATH.fullmatch(path)
        if match is None or match[2] not in contents.NAMES:
            raise UnsafeTargetName(
                f"targets: expected names like '3/card.json', found {path[:80]!r}. Refuse this feed."
            )
        found.setdefault(int(match[1]), {})[match[2]] = SignedFile(target.length, _sha256(target))
    for version, files in found.items():
        _check_complete(version, list(files))
    return {version: Release(version, files) for version, files in sorted(found.items())}


def _sha256(target: TargetFile) -> str:
    # The first hash becomes part of a file name (TUF specification 6.2), so its form is checked here.
    digest = target.hashes.get("sha256", "")
    if list(target.hashes) != ["sha256"] or not _SHA256.fullmatch(digest):
        raise MetadataMalformed(f"targets: {target.path}: expected one SHA-256, found {list(target.hashes)}.")
    return digest


def _check_complete(version: int, names: Sequence[str]) -> None:
    if missing := sorted(contents.NAMES - set(names)):
        raise TargetMissing(
            f"targets: release {version} is signed without {', '.join(missing)}. Tell the platform."
        )
