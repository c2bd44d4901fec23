# SPDX-License-Identifier: Apache-2.0
"""A hostile mirror, a thief of online keys, a hostile release signer: each refused, and nothing was installed."""

import copy
import functools
import hashlib
import http.server
import io
import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from releases import contents
from releases.errors import (
    ContentError,
    FeedExpired,
    FeedForged,
    FeedMixed,
    FeedRolledBack,
    MetadataMalformed,
    MetadataTooLong,
    PullRefused,
    RootRefused,
    SourceUnreachable,
    TargetAltered,
    TargetMissing,
    TargetTooLong,
    UnsafeTargetName,
)
from releases.keys import Signers, SigningKey
from releases.pull import activate, active, feed_state, installed, pull
from tests.releases.small_release import Platform, card, files, mirror, new_merchant, new_platform, serving


@dataclass(frozen=True)
class Scene:
    """A merchant who serves release 1, and a mirror's folder that the attacker may change at will."""

    platform: Platform
    home: Path
    mirror: Path

    @property
    def metadata(self) -> Path:
        return self.mirror / "metadata"

    def copy_platform(self) -> None:
        """Let the mirror offer what the platform has published."""
        shutil.copytree(self.platform.folder, self.mirror, dirs_exist_ok=True)

    def refused(self, error: type[Exception], match: str, source: str | None = None) -> None:
        """Pulling is refused with exactly this error; release 1 stays; the honest platform still gets through."""
        with mirror(self.mirror) as url, pytest.raises(error, match=match) as caught:
            pull(self.home, source or url)
        assert type(caught.value) is error
        assert installed(self.home) == (1,)
        assert active(self.home).version == 1
        assert pull(self.home, self.platform.source).version == max(self.platform.repository().versions())
        assert active(self.home).version == 1


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    platform = new_platform(tmp_path)
    home = new_merchant(tmp_path, platform)
    platform.publish(0)
    activate(home, pull(home, platform.source).version)
    scene = Scene(platform, home, tmp_path / "mirror")
    scene.copy_platform()
    return scene


# The mirror replays what was once true.


def test_old_timestamp_is_refused_as_rollback(scene: Scene) -> None:
    scene.platform.repository().refresh_timestamp()
    pull(scene.home, scene.platform.source)
    scene.refused(FeedRolledBack, r"timestamp version 2 must be >= 3")


def test_a_whole_old_repository_is_refused_as_rollback(scene: Scene) -> None:
    scene.platform.publish(1)
    pull(scene.home, scene.platform.source, 1)
    scene.refused(FeedRolledBack, r"timestamp\.json")


def test_old_snapshot_under_a_new_timestamp_is_refused_as_mix_and_match(scene: Scene) -> None:
    scene.platform.publish(1)
    old = (scene.metadata / "2.snapshot.json").read_bytes()
    scene.copy_platform()
    (scene.metadata / "3.snapshot.json").write_bytes(old)
    scene.refused(FeedMixed, r"3\.snapshot\.json")


def test_old_targets_under_a_new_snapshot_are_refused_as_mix_and_match(scene: Scene) -> None:
    old = (scene.metadata / "2.targets.json").read_bytes()
    scene.platform.publish(1)
    scene.copy_platform()
    (scene.metadata / "3.targets.json").write_bytes(old)
    scene.refused(FeedMixed, r"3\.targets\.json")


def test_a_stolen_timestamp_key_cannot_roll_the_snapshot_back(scene: Scene) -> None:
    scene.platform.publish(1)
    pull(scene.home, scene.platform.source, 1)
    point_timestamp_at(scene, "1.snapshot.json", version=9)
    scene.refused(FeedRolledBack, "snapshot version")


def test_expired_feed_is_refused_as_frozen(scene: Scene) -> None:
    past = datetime.now(UTC) - timedelta(days=2)
    frozen = Platform(scene.platform.root_keys, scene.platform.signers, scene.mirror)
    frozen.repository(clock=lambda: past).refresh_timestamp()
    scene.refused(FeedExpired, r"timestamp\.json is expired.*keeps serving")
    assert active(scene.home).release_age_s() > 0
    assert not feed_state(scene.home).stale()


# The mirror changes files.


def target(scene: Scene, name: str, version: int = 2) -> Path:
    """Where the mirror keeps a file of a release."""
    return next((scene.mirror / "targets" / str(version)).glob(f"*.{name}"))


@pytest.mark.parametrize("name", sorted(contents.NAMES))
def test_a_flipped_bit_in_a_target_is_refused(scene: Scene, name: str) -> None:
    scene.platform.publish(1)
    scene.copy_platform()
    data = bytearray(target(scene, name).read_bytes())
    data[-1] ^= 1
    target(scene, name).write_bytes(data)
    scene.refused(TargetAltered, f"2/{re.escape(name)}.*hash")


def test_a_shorter_target_is_refused(scene: Scene) -> None:
    scene.platform.publish(1)
    scene.copy_platform()
    path = target(scene, "scorer.onnx")
    path.write_bytes(path.read_bytes()[:-1])
    scene.refused(TargetAltered, r"2/scorer\.onnx.*length")


def test_a_longer_target_is_refused(scene: Scene) -> None:
    scene.platform.publish(1)
    scene.copy_platform()
    path = target(scene, "scorer.onnx")
    path.write_bytes(path.read_bytes() + b"more")
    scene.refused(TargetTooLong, r"2/scorer\.onnx")


def test_a_missing_target_is_refused(scene: Scene) -> None:
    scene.platform.publish(1)
    scene.copy_platform()
    target(scene, "catalogue.parquet").unlink()
    scene.refused(TargetMissing, r"2/catalogue\.parquet")


class Hostile(http.server.SimpleHTTPRequestHandler):
    """A mirror that answers some paths with an endless, a slow or a broken-off body."""

    sent_bytes = 0

    def __init__(self, *arguments: Any, ending: str, manner: str, **keywords: Any) -> None:
        self.ending, self.manner = ending, manner
        super().__init__(*arguments, **keywords)

    def do_GET(self) -> None:
        if not self.path.endswith(self.ending):
            super().do_GET()
            return
        self.send_response(200)
        if self.manner == "broken off":
            self.send_header("Content-Length", "100")
        self.end_headers()
        try:
            for _ in range({"endless": 4096, "slow": 60, "broken off": 1}[self.manner]):
                chunk = b" " * (65536 if self.manner == "endless" else 1)
                self.wfile.write(chunk)
                self.wfile.flush()
                type(self).sent_bytes += len(chunk)
                time.sleep(0 if self.manner == "endless" else 0.05)
        except OSError:
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


def hostile(scene: Scene, ending: str, manner: str) -> Callable[..., http.server.BaseHTTPRequestHandler]:
    Hostile.sent_bytes = 0
    return functools.partial(Hostile, directory=str(scene.mirror), ending=ending, manner=manner)


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        ("timestamp.json", MetadataTooLong),
        ("2.root.json", MetadataTooLong),
        ("3.snapshot.json", MetadataTooLong),
        ("3.targets.json", MetadataTooLong),
        (".model.safetensors", TargetTooLong),
    ],
)
def test_endless_data_is_refused_within_its_bound(scene: Scene, ending: str, error: type[Exception]) -> None:
    scene.platform.publish(1)
    scene.copy_platform()
    with serving(hostile(scene, ending, "endless")) as url:
        scene.refused(error, re.escape(ending.removeprefix(".")), url)
    assert 0 < Hostile.sent_bytes < 32 * 2**20


@pytest.mark.parametrize("ending", ["timestamp.json", ".model.safetensors"])
def test_a_body_that_trickles_in_ends_at_the_deadline(scene: Scene, ending: str) -> None:
    scene.platform.publish(1)
    scene.copy_platform()
    started = time.monotonic()
    with serving(hostile(scene, ending, "slow")) as url, pytest.raises(SourceUnreachable):
        pull(scene.home, url, timeout_s=0.3)
    assert time.monotonic() - started < 4
    assert installed(scene.home) == (1,)


@pytest.mark.parametrize("ending", ["timestamp.json", ".model.safetensors"])
def test_a_broken_connection_is_refused_as_unreachable(scene: Scene, ending: str) -> None:
    scene.platform.publish(1)
    scene.copy_platform()
    with serving(hostile(scene, ending, "broken off")) as url:
        scene.refused(SourceUnreachable, "the connection broke", url)


# The mirror, or a thief of online keys, writes metadata.


def point_timestamp_at(scene: Scene, snapshot_name: str, *, version: int) -> None:
    """What a thief of the timestamp key can do: name any snapshot."""
    data = (scene.metadata / snapshot_name).read_bytes()
    snapshot = Metadata[Snapshot].from_bytes(data).signed
    meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
    write_timestamp(scene, Timestamp(version=version, expires=tomorrow(), snapshot_meta=meta))


def write_timestamp(scene: Scene, timestamp: Timestamp) -> None:
    metadata = Metadata(timestamp)
    metadata.sign(scene.platform.signers.timestamp[0].signer)
    (scene.metadata / "timestamp.json").write_bytes(metadata.to_bytes())


def offer_targets(scene: Scene, targets: Targets, key: SigningKey) -> None:
    """What a holder of both online keys can do: make the feed name targets signed by `key`."""
    targets.version += 7
    metadata = Metadata(targets)
    metadata.sign(key.signer)
    data = metadata.to_bytes()
    (scene.metadata / f"{targets.version}.targets.json").write_bytes(data)
    meta = MetaFile.from_data(targets.version, data, ["sha256"])
    snapshot = Metadata(Snapshot(version=9, expires=tomorrow(), meta={"targets.json": meta}))
    snapshot.sign(scene.platform.signers.snapshot[0].signer)
    (scene.metadata / "9.snapshot.json").write_bytes(snapshot.to_bytes())
    point_timestamp_at(scene, "9.snapshot.json", version=9)


def refused_for_targets(scene: Scene, error: type[Exception], match: str) -> None:
    """Like `Scene.refused`, for metadata newer than the platform's own: the merchant keeps refusing the feed."""
    with mirror(scene.mirror) as url, pytest.raises(error, match=match) as caught:
        pull(scene.home, url)
    assert type(caught.value) is error
    assert installed(scene.home) == (1,)
    assert active(scene.home).version == 1


def current_targets(scene: Scene) -> Targets:
    return copy.deepcopy(Metadata[Targets].from_file(str(scene.metadata / "2.targets.json")).signed)


def tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize("thief", ["snapshot", "timestamp", "stranger"])
def test_forged_targets_signed_with_the_online_keys_are_refused(scene: Scene, thief: str) -> None:
    key = SigningKey.generate() if thief == "stranger" else scene.platform.signers.of(thief)[0]
    offer_targets(scene, current_targets(scene), key)
    refused_for_targets(scene, FeedForged, r"targets was signed by 0/1 keys")


def test_a_forged_timestamp_is_refused(scene: Scene) -> None:
    metadata = Metadata[Timestamp].from_file(str(scene.metadata / "timestamp.json"))
    metadata.signed.version += 1
    metadata.sign(SigningKey.generate().signer)
    metadata.to_file(str(scene.metadata / "timestamp.json"))
    scene.refused(FeedForged, r"timestamp was signed by 0/1 keys")


def test_a_forged_snapshot_under_a_stolen_timestamp_key_is_refused(scene: Scene) -> None:
    metadata = Metadata[Snapshot].from_file(str(scene.metadata / "2.snapshot.json"))
    metadata.signed.version = 8
    metadata.sign(scene.platform.signers.timestamp[0].signer)
    metadata.to_file(str(scene.metadata / "8.snapshot.json"))
    point_timestamp_at(scene, "8.snapshot.json", version=8)
    refused_for_targets(scene, FeedForged, r"snapshot was signed by 0/1 keys")


def test_another_roles_metadata_is_no_timestamp(scene: Scene) -> None:
    shutil.copyfile(scene.metadata / "2.snapshot.json", scene.metadata / "timestamp.json")
    scene.refused(MetadataMalformed, "Expected 'timestamp', got 'snapshot'")


@pytest.mark.parametrize(
    "data", [b"", b"null", b"{}", b"[" * 10_000, b"\xff", b'{"signed": {"_type": "timestamp"}}']
)
def test_malformed_metadata_is_refused(scene: Scene, data: bytes) -> None:
    (scene.metadata / "timestamp.json").write_bytes(data)
    scene.refused(MetadataMalformed, r"timestamp\.json")


@pytest.mark.parametrize("name", ["timestamp.json", "2.root.json", "3.targets.json"])
def test_every_failure_that_the_source_can_cause_is_a_refusal_that_names_the_file(scene: Scene, name: str) -> None:
    scene.platform.publish(1)
    scene.copy_platform()
    source = "1.root.json" if name == "2.root.json" else name
    original = json.loads((scene.metadata / source).read_bytes())

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        document = copy.deepcopy(original)
        mutate(document, data)
        (scene.metadata / name).write_bytes(json.dumps(document).encode())
        with pytest.raises(PullRefused, match=re.escape(name)):
            pull(scene.home, str(scene.mirror))
        assert installed(scene.home) == (1,)

    attack()


def mutate(document: Any, data: st.DataObject) -> None:
    """Replace one value somewhere in what is signed by something else."""
    node = document["signed"]
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not (isinstance(node[key], dict | list) and node[key] and data.draw(st.booleans())):
            break
        node = node[key]
    junk = [junk for junk in (None, True, -1, 2**70, 0.5, "", "x", [], {}) if junk != node[key]]
    if key == "spec_version":
        junk.remove(None)  # read as the current version: what is signed stays the same
    node[key] = data.draw(st.sampled_from(junk))


@pytest.mark.parametrize(
    "path",
    [
        "../../../home/releases/root.json",
        "2/../../../escape/card.json",
        "/etc/card.json",
        "2/%2e%2e%2fcard.json",
        "2\\card.json",
        "02/card.json",
        "2/card.json\n",
        "2/weights.pkl",
        "2/sub/card.json",
        "-1/card.json",
        "２/card.json",
    ],
)
def test_path_traversal_or_any_target_outside_the_closed_set_of_names_is_refused_even_when_signed(
    scene: Scene, path: str
) -> None:
    targets = current_targets(scene)
    targets.targets[path] = TargetFile.from_data(path, b"x", ["sha256"])
    offer_targets(scene, targets, scene.platform.signers.targets[0])
    refused_for_targets(scene, UnsafeTargetName, "Refuse this feed")


def sign_release(scene: Scene, payload: dict[str, bytes], hashes: dict[str, str] | None = None) -> None:
    """What a hostile holder of the targets key can do: sign any six files as release 2."""
    targets = current_targets(scene)
    for name, data in payload.items():
        signed = TargetFile.from_data(f"2/{name}", data, ["sha256"])
        (scene.mirror / "targets" / "2").mkdir(exist_ok=True)
        (scene.mirror / "targets" / "2" / f"{signed.hashes['sha256']}.{name}").write_bytes(data)
        signed.hashes = hashes or signed.hashes
        targets.targets[signed.path] = signed
    offer_targets(scene, targets, scene.platform.signers.targets[0])


def whole_payload() -> dict[str, bytes]:
    payload = files(1)
    model_hash = hashlib.sha256(payload["model.safetensors"]).hexdigest()
    whole = card(release_version=2, model_hash=model_hash)
    return payload | {"card.json": whole.to_json(), "README.md": whole.readme().encode()}


@pytest.mark.parametrize("digest", ["../../../../escape", "A" * 64, "0" * 63, ""])
def test_a_hash_that_is_no_hash_is_refused(scene: Scene, digest: str) -> None:
    sign_release(scene, whole_payload(), {"sha256": digest})
    refused_for_targets(scene, MetadataMalformed, "one SHA-256")


@pytest.mark.parametrize("hashes", [{"md5": "0" * 32}, {"md5": "0" * 32, "sha256": "0" * 64}])
def test_a_weak_or_second_hash_is_refused(scene: Scene, hashes: dict[str, str]) -> None:
    sign_release(scene, whole_payload(), hashes)
    refused_for_targets(scene, MetadataMalformed, "one SHA-256")


def test_a_signed_release_without_all_files_is_refused(scene: Scene) -> None:
    payload = whole_payload()
    del payload["card.json"]
    sign_release(scene, payload)
    refused_for_targets(scene, TargetMissing, r"without card\.json")


def test_a_signed_size_beyond_the_formats_bound_is_refused(scene: Scene) -> None:
    targets = current_targets(scene)
    for name in contents.NAMES:
        targets.targets[f"2/{name}"] = TargetFile(10**15, {"sha256": "0" * 64}, f"2/{name}")
    offer_targets(scene, targets, scene.platform.signers.targets[0])
    refused_for_targets(scene, TargetTooLong, "1000000000000000 bytes")


class Exploit:
    """Unpickling this would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was read",))


def pickled_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([[Exploit()]], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize("name", sorted(contents.PAYLOAD_NAMES))
def test_nothing_pickled_is_ever_read_even_when_signed(scene: Scene, name: str) -> None:
    data = pickled_array() if name == "item_vectors.npy" else pickle.dumps(Exploit())
    payload = whole_payload() | {name: data}
    if name == "model.safetensors":
        digest = hashlib.sha256(data).hexdigest()
        payload["card.json"] = card(release_version=2, model_hash=digest).to_json()
    sign_release(scene, payload)
    refused_for_targets(scene, ContentError, re.escape(name))


def test_the_card_of_another_version_is_refused_even_when_signed(scene: Scene) -> None:
    payload = whole_payload()
    payload["card.json"] = payload["card.json"].replace(b'"release_version": 2', b'"release_version": 5')
    sign_release(scene, payload)
    refused_for_targets(scene, ContentError, "expected release version 2, found 5")


# The mirror, or a thief of one root key, writes a root.


def new_root(scene: Scene, change: Callable[[Root], None], *keys: SigningKey) -> None:
    root = copy.deepcopy(Metadata[Root].from_file(str(scene.metadata / "1.root.json")).signed)
    root.version = 2
    change(root)
    metadata = Metadata(root)
    for key in keys:
        metadata.sign(key.signer, append=True)
    (scene.metadata / "2.root.json").write_bytes(metadata.to_bytes())


def test_root_rotation_below_threshold_is_refused(scene: Scene) -> None:
    thief = SigningKey.generate()
    new_root(scene, lambda root: root.add_key(thief.public, "targets"), scene.platform.root_keys[0])
    scene.refused(RootRefused, r"root was signed by 1/2 keys")


def test_root_rotation_to_the_thiefs_own_keys_is_refused(scene: Scene) -> None:
    thief = [SigningKey.generate() for _ in range(3)]

    def take_over(root: Root) -> None:
        for old in scene.platform.root_keys:
            root.revoke_key(old.keyid, "root")
        for key in thief:
            root.add_key(key.public, "root")

    new_root(scene, take_over, *thief, scene.platform.root_keys[0])
    scene.refused(RootRefused, r"root was signed by 1/2 keys")


def test_lowering_the_threshold_with_one_key_is_refused(scene: Scene) -> None:
    new_root(scene, lambda root: setattr(root.roles["root"], "threshold", 1), scene.platform.root_keys[0])
    scene.refused(RootRefused, r"root was signed by 1/2 keys")


def test_one_root_key_cannot_count_twice(scene: Scene) -> None:
    new_root(scene, lambda root: None, scene.platform.root_keys[0])
    document = json.loads((scene.metadata / "2.root.json").read_bytes())
    document["signatures"] *= 2
    (scene.metadata / "2.root.json").write_bytes(json.dumps(document).encode())
    scene.refused(MetadataMalformed, r"2\.root\.json")


def test_a_skipped_root_version_is_refused(scene: Scene) -> None:
    new_root(scene, lambda root: setattr(root, "version", 3), *scene.platform.root_keys)
    scene.refused(RootRefused, "Expected root version 2")


def test_online_keys_cannot_sign_a_root(scene: Scene) -> None:
    signers = scene.platform.signers
    new_root(scene, lambda root: None, *signers.targets, *signers.snapshot, *signers.timestamp)
    scene.refused(RootRefused, r"root was signed by 0/2 keys")


def test_a_revoked_release_signer_is_refused(scene: Scene) -> None:
    revoked = scene.platform.signers.targets[0]
    replacement = SigningKey.generate()

    def rotate(root: Root) -> None:
        root.revoke_key(revoked.keyid, "targets")
        root.add_key(replacement.public, "targets")

    new_root(scene, rotate, *scene.platform.root_keys[:2])
    offer_targets(scene, current_targets(scene), revoked)
    refused_for_targets(scene, FeedForged, r"targets was signed by 0/1 keys")


# A folder as the source.


def test_a_folder_source_reads_regular_files_inside_the_folder_only(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_bytes((scene.metadata / "timestamp.json").read_bytes())
    (scene.metadata / "timestamp.json").unlink()
    (scene.metadata / "timestamp.json").symlink_to(tmp_path / "secret.json")
    scene.refused(SourceUnreachable, "no such file", str(scene.mirror))


def test_a_device_in_a_folder_source_is_refused(scene: Scene) -> None:
    (scene.metadata / "timestamp.json").unlink()
    (scene.metadata / "timestamp.json").symlink_to("/dev/zero")
    scene.refused(SourceUnreachable, "no such file", str(scene.mirror))


# The merchant's machine dies.


def test_a_pull_killed_in_the_middle_succeeds_when_repeated(scene: Scene) -> None:
    scene.platform.publish(1)
    scene.copy_platform()
    with serving(hostile(scene, ".model.safetensors", "slow")) as url:
        code = (
            f"from pathlib import Path; from releases.pull import pull; pull(Path({str(scene.home)!r}), {url!r})"
        )
        process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
        for _ in wait_until(lambda: Hostile.sent_bytes > 0):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list((scene.home / "releases" / "staging" / "2").iterdir())
    assert active(scene.home).version == 1
    assert installed(scene.home) == (1,)
    with mirror(scene.mirror) as url:
        assert pull(scene.home, url).version == 2
    assert activate(scene.home, 2).read("model.safetensors") == files(1)["model.safetensors"]


def wait_until(done: Callable[[], bool]) -> Iterator[None]:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        yield
        time.sleep(0.02)


def test_stolen_online_keys_cannot_publish(scene: Scene) -> None:
    online = Signers((), scene.platform.signers.snapshot, scene.platform.signers.timestamp)
    stolen = Platform(scene.platform.root_keys, online, scene.mirror)
    with pytest.raises(Exception, match="targets was signed by 0/1 keys"):
        stolen.publish(1)
    assert stolen.repository().versions() == (1,)
    stolen.repository().refresh_timestamp()
    assert pull(scene.home, str(scene.mirror)).version == 1
