# SPDX-License-Identifier: Apache-2.0
"""A hostile mirror, a thief of online keys or of one root key: each refused, and nothing was installed."""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Metadata, Root, Snapshot, Timestamp

from releases import contents
from releases.errors import (
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
)
from releases.keys import Signers, SigningKey
from releases.pull import activate, active, feed_state, installed, pull
from tests.releases.hostile_mirror import (
    Hostile,
    Scene,
    current_targets,
    hostile,
    new_scene,
    offer_targets,
    point_timestamp_at,
    refused_for_targets,
    target,
)
from tests.releases.small_release import Platform, files, mirror, serving


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no attacker here cuts the power
    return new_scene(tmp_path)


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
