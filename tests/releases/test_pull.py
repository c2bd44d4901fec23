# SPDX-License-Identifier: Apache-2.0
"""The merchant's side: install, activate, roll back, repair, and what is kept when something breaks."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from releases import contents, durable
from releases.errors import (
    FeedExpired,
    InstalledAltered,
    NothingToRollBackTo,
    NotInstalled,
    ReleaseChanged,
    ReleaseError,
    RootNotPinned,
    SourceUnreachable,
    UnknownVersion,
)
from releases.installed import release_folder, releases_folder
from releases.publish import Expiry, Repository
from releases.pull import activate, active, available, feed_state, installed, pull, rollback, trust
from releases.stages import SEAL, FeedState, Release, VerifiedRelease
from tests.releases.small_release import Platform, card, files, mirror, new_merchant, new_platform


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return new_platform(tmp_path)


@pytest.fixture
def home(tmp_path: Path, platform: Platform) -> Path:
    return new_merchant(tmp_path, platform)


def test_release_travels_over_http_to_active(platform: Platform, home: Path) -> None:
    platform.publish()
    with mirror(platform.folder) as url:
        pulled = pull(home, url)
    assert pulled.version == 1
    assert installed(home) == (1,)
    with pytest.raises(NotInstalled, match="Pull and activate"):
        active(home)
    activate(home, 1)
    release = active(home)
    assert release.card.model_hash == contents.sha256_file(release.folder / "model.safetensors")
    assert release.card.release_version == 1
    assert release.card.epsilon == 8.0
    for name, data in files().items():
        assert release.read(name) == data
    assert release.item_vectors().shape == (4, 2)
    assert release.item_vectors().dtype == np.float32


def test_air_gapped_pull_from_a_folder_gives_the_same_release(platform: Platform, home: Path) -> None:
    platform.publish()
    pull(home, platform.source)
    assert activate(home, 1).read("scorer.onnx") == files()["scorer.onnx"]


def test_installed_files_are_read_only(platform: Platform, home: Path) -> None:
    platform.publish()
    folder = pull(home, platform.source).folder
    assert all(path.stat().st_mode & 0o222 == 0 for path in folder.iterdir())


def test_pull_takes_the_newest_or_the_version_asked_for(platform: Platform, home: Path) -> None:
    for seed in range(3):
        platform.publish(seed)
    assert [release.version for release in available(home, platform.source)] == [1, 2, 3]
    assert pull(home, platform.source).version == 3
    assert pull(home, platform.source, 1).version == 1
    assert installed(home) == (1, 3)
    with pytest.raises(UnknownVersion, match="release 9"):
        pull(home, platform.source, 9)


def test_pull_from_an_empty_feed_says_so(platform: Platform, home: Path) -> None:
    with pytest.raises(UnknownVersion, match="newest"):
        pull(home, platform.source)


def test_pull_without_a_pinned_root_is_refused(platform: Platform, tmp_path: Path) -> None:
    platform.publish()
    with pytest.raises(RootNotPinned, match="another way than the mirror"):
        pull(tmp_path / "fresh", platform.source)


def test_another_root_cannot_be_pinned_over_the_first(platform: Platform, home: Path, tmp_path: Path) -> None:
    root = platform.repository().root_bytes()
    trust(home, root)
    (tmp_path / "other").mkdir()
    other = new_platform(tmp_path / "other").repository().root_bytes()
    with pytest.raises(RootNotPinned, match="another root is pinned"):
        trust(home, other)
    with pytest.raises(RootNotPinned, match="signed by itself"):
        trust(tmp_path / "fresh", root.replace(b'"threshold":2', b'"threshold":1'))
    with pytest.raises(RootNotPinned, match="found timestamp"):
        trust(tmp_path / "fresh", (platform.folder / "metadata" / "timestamp.json").read_bytes())


def test_rollback_returns_to_the_activation_before(platform: Platform, home: Path) -> None:
    for seed in range(3):
        platform.publish(seed)
        pull(home, platform.source)
    for version in (1, 3, 3, 2):
        activate(home, version)
    assert active(home).version == 2
    assert rollback(home).version == 3
    assert rollback(home).version == 1
    with pytest.raises(NothingToRollBackTo, match="Activate a version"):
        rollback(home)
    activate(home, 2)
    assert rollback(home).version == 1


def test_activation_swaps_one_link(platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(2):
        platform.publish(seed)
        pull(home, platform.source)
    activate(home, 1)
    real = durable.replace
    seen: list[int] = []

    def watched(source: Path, destination: Path) -> None:
        seen.append(active(home).version)
        real(source, destination)
        seen.append(active(home).version)

    monkeypatch.setattr(durable, "replace", watched)
    activate(home, 2)
    assert seen == [1, 1, 1, 2]


def test_a_crash_in_activation_leaves_the_old_release(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(2):
        platform.publish(seed)
        pull(home, platform.source)
    activate(home, 1)
    for crash_at in range(2):
        with monkeypatch.context() as patch:
            crash_after(patch, crash_at)
            with pytest.raises(Crash):
                activate(home, 2)
        assert active(home).version == 1
    assert activate(home, 2).version == 2
    assert rollback(home).version == 1


def test_pulling_again_is_harmless(platform: Platform, home: Path) -> None:
    platform.publish()
    first = pull(home, platform.source)
    before = {path.name: path.stat().st_ino for path in first.folder.iterdir() if path.name != "signed.json"}
    again = pull(home, platform.source)
    assert again == first
    assert {
        path.name: path.stat().st_ino for path in again.folder.iterdir() if path.name != "signed.json"
    } == before


@pytest.mark.parametrize("name", sorted(contents.NAMES))
def test_a_flipped_bit_on_disk_is_found_whenever_a_release_is_opened(
    platform: Platform, home: Path, name: str
) -> None:
    platform.publish()
    release = pull(home, platform.source)
    activate(home, 1)
    flip_a_bit(release.folder / name)
    with pytest.raises(InstalledAltered, match="Pull version 1 again"):
        active(home)
    with pytest.raises(InstalledAltered, match=name.replace(".", r"\.")):
        release.read(name)
    assert pull(home, platform.source) == release
    assert active(home).read(name)


def test_a_missing_or_extra_file_on_disk_is_found(platform: Platform, home: Path) -> None:
    platform.publish()
    folder = pull(home, platform.source).folder
    activate(home, 1)
    (folder / "weights.pkl").write_bytes(b"")
    with pytest.raises(InstalledAltered, match=r"weights\.pkl"):
        active(home)
    (folder / "weights.pkl").unlink()
    (folder / "scorer.onnx").unlink()
    with pytest.raises(InstalledAltered):
        active(home)
    pull(home, platform.source)
    assert active(home).version == 1


def test_a_link_to_the_right_bytes_is_no_release_file(platform: Platform, home: Path, tmp_path: Path) -> None:
    platform.publish()
    folder = pull(home, platform.source).folder
    (folder / "scorer.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "scorer.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(InstalledAltered, match=r"scorer\.onnx"):
        activate(home, 1)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[" * 100_000, b'{"roots": [], "targets": "{}"}', b'{"roots": [1]}']
)
def test_a_damaged_proof_on_disk_is_found_and_repaired(platform: Platform, home: Path, data: bytes) -> None:
    platform.publish()
    folder = pull(home, platform.source).folder
    activate(home, 1)
    (folder / "signed.json").chmod(0o644)
    (folder / "signed.json").write_bytes(data)
    with pytest.raises(InstalledAltered, match="proof"):
        active(home)
    pull(home, platform.source)
    assert active(home).version == 1


def test_an_installed_version_never_changes_its_files(platform: Platform, home: Path, tmp_path: Path) -> None:
    platform.publish(0)
    kept = pull(home, platform.source)
    twin = Platform(platform.root_keys, platform.signers, tmp_path / "twin")
    twin.folder.mkdir()
    recreate(twin, platform)
    for _ in range(3):
        twin.repository().refresh_timestamp()
    with pytest.raises(ReleaseChanged, match="never"):
        pull(home, twin.source)
    assert activate(home, 1) == kept


def test_an_expired_feed_refuses_to_install_and_the_active_release_stays_usable(tmp_path: Path) -> None:
    past = datetime.now(UTC) - timedelta(days=3)
    platform = new_platform(tmp_path)
    home = new_merchant(tmp_path, platform)
    platform.publish(0)
    pull(home, platform.source)
    activate(home, 1)
    platform.repository(clock=lambda: past).publish(files(1), card())
    with pytest.raises(FeedExpired, match="keeps serving"):
        pull(home, platform.source)
    assert installed(home) == (1,)
    release = active(home)
    assert release.version == 1
    assert release.release_age_s(release.card.created + timedelta(hours=2)) == 7200.0
    assert release.release_age_s() > 7200.0


def test_feed_state_tells_when_the_feed_is_stale(platform: Platform, home: Path) -> None:
    assert feed_state(home).stale()
    platform.publish()
    pull(home, platform.source)
    state = feed_state(home)
    assert not state.stale()
    assert state.stale(datetime.now(UTC) + timedelta(days=1))
    assert not state.stale(datetime.now(UTC) + timedelta(hours=23))
    assert FeedState(None).stale()


def test_rollback_works_when_the_feed_has_expired(tmp_path: Path) -> None:
    platform = new_platform(tmp_path, expiry=Expiry(online_days=1))
    home = new_merchant(tmp_path, platform)
    for seed in range(2):
        platform.publish(seed)
        activate(home, pull(home, platform.source).version)
    platform.repository(clock=lambda: datetime.now(UTC) - timedelta(days=3)).refresh_timestamp()
    with pytest.raises(FeedExpired):
        pull(home, platform.source)
    assert rollback(home).version == 1


def test_a_source_without_a_repository_says_so(platform: Platform, home: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match="address"):
        pull(home, str(tmp_path / "nowhere"))
    with mirror(tmp_path / "nowhere") as url:
        pass
    with pytest.raises(SourceUnreachable, match="address"):
        pull(home, url)


def test_only_verification_makes_a_verified_release(platform: Platform, home: Path) -> None:
    platform.publish()
    release = pull(home, platform.source)
    with pytest.raises(TypeError, match="nothing else verifies"):
        VerifiedRelease(release.release, release.folder, release.card, object())
    assert release.seal is SEAL
    assert isinstance(release.release, Release)
    assert "object" not in repr(release)


def test_read_returns_only_bytes_that_match_the_signature(platform: Platform, home: Path) -> None:
    platform.publish()
    release = pull(home, platform.source)
    with pytest.raises(NotInstalled, match="no file"):
        release.read("../../root.json")
    (release.folder / "scorer.onnx").unlink()
    with pytest.raises(InstalledAltered, match="Pull version 1 again"):
        release.read("scorer.onnx")


def test_a_refused_or_interrupted_pull_installs_nothing(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.publish(0)
    activate(home, pull(home, platform.source).version)
    platform.publish(1)
    steps = 0
    while True:
        with monkeypatch.context() as patch:
            crash_after(patch, steps)
            try:
                pull(home, platform.source)
                break
            except Crash:
                assert installed(home) in ((1,), (1, 2))
                assert active(home).version == 1
        steps += 1
    assert steps >= 2
    assert activate(home, 2).read("model.safetensors") == files(1)["model.safetensors"]
    assert [path.name for path in (releases_folder(home) / "staging").iterdir()] == [".lock"]


def test_errors_form_one_tree(platform: Platform, home: Path) -> None:
    platform.publish()
    with pytest.raises(ReleaseError):
        activate(home, 1)
    assert not release_folder(home, 1).exists()


class Crash(BaseException):
    """The machine stops here."""


def crash_after(patch: pytest.MonkeyPatch, renames: int) -> None:
    """Stop at the rename after the given number of renames."""
    real = durable.replace
    left = renames

    def crashing(source: Path, destination: Path) -> None:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1
        real(source, destination)

    patch.setattr(durable, "replace", crashing)


def flip_a_bit(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def recreate(twin: Platform, platform: Platform) -> None:
    """A second repository under the same root whose version 1 has other files."""
    Repository.create(twin.folder, twin.signers, twin.root_keys)
    root = platform.folder / "metadata" / "1.root.json"
    (twin.folder / "metadata" / "1.root.json").write_bytes(root.read_bytes())
    twin.publish(7)
