# SPDX-License-Identifier: Apache-2.0
"""The platform's release repository: a folder of static files that any web server or USB stick can carry.

Built on `tuf.api.metadata` alone (the stable API); `tuf.repository` is not used. TUF specification 1.0, section 6.

Guarantees:
- A crash in the middle leaves a repository that clients can use: files first, then targets, snapshot and, last,
  the timestamp, each written beside, flushed and renamed; what no timestamp names is invisible.
- A repository whose own signatures don't hold is never signed again.
- A root takes effect only with the thresholds of the old root and of the new one.

Assumes: root keys visit this machine only for `create`, better never (`draft_root`, `sign_root`, `publish_root`).
"""

import copy
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from releases import contents, durable
from releases.card import ModelCard
from releases.errors import ContentError, PublishError
from releases.keys import Signers, SigningKey

METADATA: Final = "metadata"
TARGETS: Final = "targets"
_SIGNED_HERE: Final = ("targets", "snapshot", "timestamp")


@dataclass(frozen=True, slots=True)
class Expiry:
    """How long signatures hold, in days. One day online: a frozen mirror shows within a day."""

    root_days: float = 365
    targets_days: float = 365
    online_days: float = 1


@dataclass(frozen=True, slots=True)
class _State:
    root: Metadata[Root]
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]


DEFAULT_EXPIRY: Final = Expiry()


def utc_now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


class Repository:
    """A release repository in `folder`, written with the keys that this machine holds."""

    def __init__(
        self,
        folder: Path,
        signers: Signers,
        *,
        expiry: Expiry = DEFAULT_EXPIRY,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.folder = folder
        self._signers = signers
        self._expiry = expiry
        self._clock = clock
        if not (folder / METADATA / "timestamp.json").is_file():
            raise PublishError(f"{folder}: expected a release repository, found none. Create one first.")

    @classmethod
    def create(
        cls,
        folder: Path,
        signers: Signers,
        root_keys: Sequence[SigningKey],
        *,
        root_threshold: int = 2,
        expiry: Expiry = DEFAULT_EXPIRY,
        clock: Callable[[], datetime] = utc_now,
    ) -> "Repository":
        """A new, empty repository; the folder appears whole or not at all. Raises PublishError."""
        if not 1 <= root_threshold <= len({key.keyid for key in root_keys}):
            raise PublishError(f"root: expected {root_threshold} or more distinct keys, found {len(root_keys)}.")
        if folder.exists() and any(folder.iterdir()):
            raise PublishError(f"{folder}: expected an empty or absent folder. Choose another.")
        now = clock()
        root = Root(expires=now + timedelta(days=expiry.root_days), consistent_snapshot=True)
        for role, keys in (("root", root_keys), *((role, signers.of(role)) for role in _SIGNED_HERE)):
            for key in keys:
                root.add_key(key.public, role)
        root.roles["root"].threshold = root_threshold
        signed_root = Metadata(root)
        for key in root_keys:
            signed_root.sign(key.signer, append=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".tmp-{folder.name}-", dir=folder.parent))
        building.chmod(0o755)
        for name in (METADATA, TARGETS):
            (building / name).mkdir()
        writer = _Writer(building / METADATA, signers, expiry, now)
        writer.commit([signed_root], Targets(version=1), 0, 0)
        durable.write(building / METADATA / "1.root.json", signed_root.to_bytes())
        durable.replace(building, folder)
        return cls(folder, signers, expiry=expiry, clock=clock)

    def root_bytes(self) -> bytes:
        """The newest root: what a merchant pins, handed over by another way than the mirror."""
        return self._root_path(self._load().root.signed.version).read_bytes()

    def versions(self) -> tuple[int, ...]:
        """The published versions, ascending."""
        return _versions(self._load().targets.signed)

    def publish(self, files: Mapping[str, Path | bytes], card: ModelCard) -> int:
        """Publish the payload files with a card and return the new version.

        `files` holds exactly `contents.PAYLOAD_NAMES`; `card` has release_version 0 or the next version, and
        model_hash "" or the hash of `model.safetensors`. Raises ContentError for wrong contents, PublishError
        for a damaged repository or missing keys; then nothing is published.
        """
        if set(files) != contents.PAYLOAD_NAMES:
            raise ContentError(f"expected the files {sorted(contents.PAYLOAD_NAMES)}, found {sorted(files)}.")
        with durable.locked(self.folder):
            state = self._load()
            version = max(_versions(state.targets.signed), default=0) + 1
            staging = self.folder / ".staging"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            _stage(staging, files, card, version)
            targets = copy.deepcopy(state.targets.signed)
            targets.version += 1
            home = self.folder / TARGETS / str(version)
            home.mkdir(exist_ok=True)
            durable.sync(home.parent)
            for name in sorted(contents.NAMES):
                target = TargetFile.from_file(f"{version}/{name}", str(staging / name))
                durable.sync(staging / name)
                durable.replace(staging / name, home / f"{target.hashes['sha256']}.{name}")
                targets.targets[target.path] = target
            self._writer().commit([state.root], targets, *_numbers(state))
            shutil.rmtree(staging)
        return version

    def refresh_timestamp(self) -> datetime:
        """Sign snapshot and timestamp for another day; returns when targets or root need their signers next."""
        with durable.locked(self.folder):
            state = self._load()
            self._writer().commit([state.root], None, *_numbers(state), state.snapshot.signed.meta["targets.json"])
        return min(state.root.signed.expires, state.targets.signed.expires)

    def draft_root(self, role_keys: Mapping[str, Sequence[Key]], *, root_threshold: int | None = None) -> bytes:
        """The next root, unsigned, in which each role named in `role_keys` has exactly these public keys."""
        old = self._load().root.signed
        new = copy.deepcopy(old)
        new.version += 1
        new.expires = self._clock() + timedelta(days=self._expiry.root_days)
        for role, keys in role_keys.items():
            if role not in new.roles or not keys:
                raise PublishError(f"draft root: expected keys for one of {sorted(new.roles)}, found {role!r}.")
            for keyid in tuple(new.roles[role].keyids):
                new.revoke_key(keyid, role)
            for key in keys:
                new.add_key(key, role)
        if root_threshold is not None:
            new.roles["root"].threshold = root_threshold
        for role, entry in new.roles.items():
            if len(entry.keyids) < entry.threshold:
                raise PublishError(
                    f"draft root: {role} expects {entry.threshold} keys, found {len(entry.keyids)}."
                )
        return Metadata(new).to_bytes()

    def publish_root(self, signed: bytes) -> int:
        """Put the next root into effect, re-sign what it changes, and return its version.

        Hold the old and the new online keys here: what both roots accept is written before the root, so that
        clients never see a gap. Without an old key clients refuse, safely, until this call ends. Raises
        PublishError when a threshold is missed or a key of the new root is missing; then nothing is written.
        """
        with durable.locked(self.folder):
            state = self._load()
            root = _parse_root(signed)
            if root.signed.version != state.root.signed.version + 1:
                raise PublishError(f"root: expected version {state.root.signed.version + 1}, found "
                                   f"{root.signed.version}. Draft it again.")  # fmt: skip
            for judge, words in ((state.root.signed, "the old root"), (root.signed, "the new root")):
                _verify(judge, "root", root, words)
            state.targets.signed.version += 1
            self._writer().commit([root, state.root], state.targets.signed, *_numbers(state))
            durable.write(self._root_path(root.signed.version), signed)
        return root.signed.version

    def _root_path(self, version: int) -> Path:
        return self.folder / METADATA / f"{version}.root.json"

    def _writer(self) -> "_Writer":
        return _Writer(self.folder / METADATA, self._signers, self._expiry, self._clock())

    def _load(self) -> _State:
        """The state that the timestamp names, its signatures verified, its age ignored."""
        try:
            root = Metadata[Root].from_bytes(self._root_path(1).read_bytes())
            root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
            while self._root_path(root.signed.version + 1).is_file():
                new = Metadata[Root].from_bytes(self._root_path(root.signed.version + 1).read_bytes())
                for judge in (root.signed, new.signed):
                    judge.verify_delegate("root", new.signed_bytes, new.signatures)
                root = new
            folder = self.folder / METADATA
            timestamp = _load_role(Timestamp, folder / "timestamp.json", root)
            number = timestamp.signed.snapshot_meta.version
            snapshot = _load_role(Snapshot, folder / f"{number}.snapshot.json", root)
            number = snapshot.signed.meta["targets.json"].version
            targets = _load_role(Targets, folder / f"{number}.targets.json", root)
        except (RepositoryError, OSError, KeyError, ValueError) as error:
            raise PublishError(
                f"{self.folder}: the repository's own signatures don't hold ({error}). Restore it from a backup."
            ) from error
        return _State(root, targets, snapshot, timestamp)


def sign_root(draft: bytes, key: SigningKey) -> bytes:
    """Add one root key's signature; needs no repository, so it runs on the offline machine that holds the key."""
    root = _parse_root(draft)
    root.sign(key.signer, append=True)
    return root.to_bytes()


@dataclass(frozen=True, slots=True)
class _Writer:
    """Signs and writes metadata in the only safe order."""

    folder: Path
    signers: Signers
    expiry: Expiry
    now: datetime

    def commit(
        self,
        roots: Sequence[Metadata[Root]],
        targets: Targets | None,
        snapshot_version: int,
        timestamp_version: int,
        targets_meta: MetaFile | None = None,
    ) -> None:
        """Write `targets` and successors of these versions; all is signed as roots[0] demands before any write."""
        online = self.now + timedelta(days=self.expiry.online_days)
        writes: list[tuple[str, bytes]] = []
        if targets is not None:
            targets.expires = self.now + timedelta(days=self.expiry.targets_days)
            data = self._signed("targets", targets, roots)
            writes.append((f"{targets.version}.targets.json", data))
            targets_meta = MetaFile.from_data(targets.version, data, ["sha256"])
        assert targets_meta is not None  # every caller gives one of the two
        snapshot = Snapshot(version=snapshot_version + 1, expires=online, meta={"targets.json": targets_meta})
        data = self._signed("snapshot", snapshot, roots)
        writes.append((f"{snapshot.version}.snapshot.json", data))
        meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
        timestamp = Timestamp(version=timestamp_version + 1, expires=online, snapshot_meta=meta)
        # TUF specification 6.1: the timestamp comes last; it alone makes the rest visible.
        writes.append(("timestamp.json", self._signed("timestamp", timestamp, roots)))
        for name, data in writes:
            durable.write(self.folder / name, data)

    def _signed(self, role: str, signed: Signed, roots: Sequence[Metadata[Root]]) -> bytes:
        allowed = {keyid for root in roots for keyid in root.signed.roles[role].keyids}
        metadata: Metadata[Any] = Metadata(signed)
        for key in self.signers.of(role):
            if key.keyid in allowed:
                metadata.sign(key.signer, append=True)
        _verify(roots[0].signed, role, metadata, "the root")
        return metadata.to_bytes()


def _verify(judge: Root, role: str, metadata: Metadata[Any], words: str) -> None:
    try:
        judge.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError as error:
        raise PublishError(f"{error}, as {words} demands. Sign with more of its keys.") from error


def _load_role(kind: type[Signed], path: Path, root: Metadata[Root]) -> Metadata[Any]:
    metadata = Metadata[Any].from_bytes(path.read_bytes())
    if not isinstance(metadata.signed, kind):
        raise RepositoryError(f"{path.name}: expected {kind.type}, found {metadata.signed.type}")
    root.signed.verify_delegate(kind.type, metadata.signed_bytes, metadata.signatures)
    return metadata


def _parse_root(data: bytes) -> Metadata[Root]:
    try:
        metadata = Metadata[Root].from_bytes(data)
    except RepositoryError as error:
        raise PublishError("root: expected a drafted root, found another file.") from error
    if not isinstance(metadata.signed, Root):
        raise PublishError(f"root: expected a drafted root, found {metadata.signed.type} metadata.")
    return metadata


def _numbers(state: _State) -> tuple[int, int]:
    return state.snapshot.signed.version, state.timestamp.signed.version


def _versions(targets: Targets) -> tuple[int, ...]:
    return tuple(sorted({int(path.partition("/")[0]) for path in targets.targets}))


def _stage(staging: Path, files: Mapping[str, Path | bytes], card: ModelCard, version: int) -> None:
    """Copy the payload, complete the card, write both forms of it, and check the whole."""
    for name, source in files.items():
        if isinstance(source, bytes):
            (staging / name).write_bytes(source)
        else:
            shutil.copyfile(source, staging / name)
    model_hash = contents.sha256_file(staging / "model.safetensors")
    if card.release_version not in (0, version):
        raise ContentError(f"card: expected release version 0 or {version}, found {card.release_version}.")
    if card.model_hash not in ("", model_hash):
        raise ContentError(f"card: expected model hash '' or {model_hash}, found {card.model_hash}.")
    card = dataclasses.replace(card, release_version=version, model_hash=model_hash)
    (staging / "card.json").write_bytes(card.to_json())
    (staging / "README.md").write_text(card.readme(), encoding="utf-8")
    contents.check_folder(staging, version)
