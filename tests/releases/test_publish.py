# SPDX-License-Identifier: Apache-2.0
"""The platform's side: publishing, crashes, damaged repositories, and the rotation of every key."""

import dataclasses
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from releases import contents, durable
from releases.errors import ContentError, FeedRolledBack, PublishError
from releases.keys import Signers, SigningKey
from releases.publish import Expiry, Repository, sign_root
from releases.pull import activate, active, available, pull
from tests.releases.small_release import Platform, card, files, new_merchant, new_platform, new_signers


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return new_platform(tmp_path)


def test_versions_count_up_from_one(platform: Platform) -> None:
    assert platform.repository().versions() == ()
    assert [platform.publish(seed) for seed in range(3)] == [1, 2, 3]
    assert platform.repository().versions() == (1, 2, 3)


def test_publish_takes_paths_as_well_as_bytes(platform: Platform, tmp_path: Path) -> None:
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
    assert platform.repository().publish({name: tmp_path / name for name in files()}, card()) == 1
    home = new_merchant(tmp_path, platform)
    assert pull(home, platform.source).read("scorer.onnx") == files()["scorer.onnx"]


def test_default_expiry_is_a_day_online_and_a_year_offline(platform: Platform) -> None:
    platform.publish()
    metadata = platform.folder / "metadata"
    left_days = {
        "timestamp": Metadata[Timestamp].from_file(str(metadata / "timestamp.json")).signed.expires,
        "snapshot": Metadata[Snapshot].from_file(str(metadata / "2.snapshot.json")).signed.expires,
        "targets": Metadata[Targets].from_file(str(metadata / "2.targets.json")).signed.expires,
        "root": Metadata[Root].from_file(str(metadata / "1.root.json")).signed.expires,
    }
    rounded = {
        role: round((expires - datetime.now(UTC)).total_seconds() / 86400) for role, expires in left_days.items()
    }
    assert rounded == {"timestamp": 1, "snapshot": 1, "targets": 365, "root": 365}


def test_refresh_timestamp_keeps_the_feed_alive_without_the_release_signers_key(tmp_path: Path) -> None:
    platform = new_platform(tmp_path)
    home = new_merchant(tmp_path, platform)
    platform.repository(clock=lambda: datetime.now(UTC) - timedelta(days=5)).publish(files(), card())
    online = dataclasses.replace(platform.signers, targets=())
    due = platform.repository(signers=online).refresh_timestamp()
    assert 359 <= (due - datetime.now(UTC)).days <= 360
    assert pull(home, platform.source).version == 1


class Crash(BaseException):
    """The machine stops here."""


@pytest.mark.parametrize("action", ["publish", "refresh", "rotate"])
def test_a_crash_in_the_middle_leaves_a_repository_that_clients_can_use(
    platform: Platform, tmp_path: Path, action: str
) -> None:
    home = new_merchant(tmp_path, platform)
    platform.publish(0)
    activate(home, pull(home, platform.source).version)
    new = new_signers()
    both = Signers(*((*platform.signers.of(role), *new.of(role)) for role in ("targets", "snapshot", "timestamp")))
    signed = rotated(platform, **{role: new.of(role) for role in ("targets", "snapshot", "timestamp")})
    real = durable.replace
    crashes = 0
    while True:
        left = crashes

        def crashing(source: Path, destination: Path) -> None:
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1
            real(source, destination)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "replace", crashing)
            try:
                repository = platform.repository(signers=both)
                match action:
                    case "publish":
                        repository.publish(files(1), card())
                    case "refresh":
                        repository.refresh_timestamp()
                    case _:
                        repository.publish_root(signed)
                break
            except Crash:
                pass
        assert pull(home, platform.source).version == 1
        crashes += 1
    assert crashes == {"publish": 9, "refresh": 2, "rotate": 4}[action]
    assert pull(home, platform.source).version == (2 if action == "publish" else 1)
    assert active(home).version == 1


def test_creation_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashing(source: Path, destination: Path) -> None:
        raise Crash

    monkeypatch.setattr(durable, "replace", crashing)
    with pytest.raises(Crash):
        new_platform(tmp_path)
    assert not (tmp_path / "repository").exists()
    with pytest.raises(PublishError, match="Create one first"):
        Repository(tmp_path / "repository", new_signers())


def test_create_never_overwrites(platform: Platform) -> None:
    with pytest.raises(PublishError, match="empty or absent"):
        Repository.create(platform.folder, platform.signers, platform.root_keys)


@pytest.mark.parametrize("threshold", [0, 4])
def test_a_threshold_beyond_the_keys_is_refused(tmp_path: Path, threshold: int) -> None:
    keys = [SigningKey.generate() for _ in range(3)]
    with pytest.raises(PublishError, match="distinct keys"):
        Repository.create(tmp_path / "repository", new_signers(), keys, root_threshold=threshold)


def test_the_same_root_key_thrice_is_one_key(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="distinct keys"):
        Repository.create(tmp_path / "repository", new_signers(), [SigningKey.generate()] * 3)


def test_wrong_contents_publish_nothing(platform: Platform) -> None:
    repository = platform.repository()
    good = files()
    with pytest.raises(ContentError, match="expected the files"):
        repository.publish({**good, "README.md": b"mine"}, card())
    with pytest.raises(ContentError, match="expected the files"):
        repository.publish({"scorer.onnx": b"x"}, card())
    with pytest.raises(ContentError, match="release version 0 or 1, found 5"):
        repository.publish(good, card(release_version=5))
    with pytest.raises(ContentError, match="model hash"):
        repository.publish(good, card(model_hash="f" * 64))
    with pytest.raises(ContentError, match="3 items"):
        repository.publish(good, card(items=4))
    assert repository.versions() == ()
    assert repository.publish(good, card(release_version=1)) == 1


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "2.targets.json", "1.root.json"])
def test_a_repository_whose_own_signatures_dont_hold_is_never_signed_again(platform: Platform, name: str) -> None:
    platform.publish()
    path = platform.folder / "metadata" / name
    path.write_bytes(path.read_bytes().replace(b'"version":', b'"version":1'))
    with pytest.raises(PublishError, match="Restore it from a backup"):
        platform.publish()
    path.unlink()
    with pytest.raises(PublishError):
        platform.repository().refresh_timestamp()


def test_a_targets_file_in_the_snapshots_place_is_never_signed(platform: Platform) -> None:
    platform.publish()
    metadata = platform.folder / "metadata"
    shutil.copyfile(metadata / "2.targets.json", metadata / "2.snapshot.json")
    with pytest.raises(PublishError, match="expected snapshot, found targets"):
        platform.publish()


def rotated(platform: Platform, signers: int = 2, **roles: object) -> bytes:
    """The next root with these keys for these roles, signed by so many old root keys."""
    public = {role: [key.public for key in keys] for role, keys in roles.items()}  # type: ignore[attr-defined]
    draft = platform.repository().draft_root(public)
    for key in platform.root_keys[:signers]:
        draft = sign_root(draft, key)
    return draft


def test_legitimate_rotation_of_the_release_signers_key_is_accepted(platform: Platform, tmp_path: Path) -> None:
    home = new_merchant(tmp_path, platform)
    platform.publish(0)
    activate(home, pull(home, platform.source).version)
    anna = SigningKey.generate()
    signers = dataclasses.replace(platform.signers, targets=(*platform.signers.targets, anna))
    assert platform.repository(signers=signers).publish_root(rotated(platform, targets=[anna])) == 2
    only_anna = dataclasses.replace(platform.signers, targets=(anna,))
    assert platform.repository(signers=only_anna).publish(files(1), card()) == 2
    assert pull(home, platform.source).version == 2
    assert active(home).version == 1
    with pytest.raises(PublishError, match="targets was signed by 0/1 keys"):
        platform.publish(2)


def test_one_of_several_release_signers_is_enough(tmp_path: Path) -> None:
    platform = new_platform(tmp_path)
    anna, bert = SigningKey.generate(), SigningKey.generate()
    signers = dataclasses.replace(platform.signers, targets=(anna,))
    platform.repository(signers=signers).publish_root(rotated(platform, targets=[anna, bert]))
    home = new_merchant(tmp_path, platform)
    for key in (anna, bert):
        platform.repository(signers=dataclasses.replace(signers, targets=(key,))).publish(files(), card())
    assert pull(home, platform.source).version == 2


def test_legitimate_root_rotation_at_the_threshold_is_accepted(platform: Platform, tmp_path: Path) -> None:
    home = new_merchant(tmp_path, platform)
    platform.publish(0)
    activate(home, pull(home, platform.source).version)
    fresh = tuple(SigningKey.generate() for _ in range(3))
    draft = rotated(platform, root=fresh)
    with pytest.raises(PublishError, match=r"root was signed by 0/2 keys, as the new root demands"):
        platform.repository().publish_root(draft)
    for key in fresh[1:]:
        draft = sign_root(draft, key)
    platform.repository().publish_root(draft)
    platform.publish(1)
    assert pull(home, platform.source).version == 2
    assert active(home).version == 1

    later = Platform(fresh, platform.signers, platform.folder)
    assert later.repository().publish_root(rotated(later)) == 3
    assert pull(home, platform.source).version == 2
    newcomer = new_merchant(tmp_path / "newcomer", later)
    assert pull(newcomer, platform.source).version == 2


def test_a_root_takes_effect_only_with_the_thresholds_of_the_old_root_and_of_the_new_one(
    platform: Platform,
) -> None:
    fresh = [SigningKey.generate() for _ in range(3)]
    draft = rotated(platform, root=fresh)
    for key in (None, fresh[0]):
        draft = draft if key is None else sign_root(draft, key)
        with pytest.raises(PublishError, match=r"root was signed by ./2 keys, as the new root demands"):
            platform.repository().publish_root(draft)
    with pytest.raises(PublishError, match=r"root was signed by 1/2 keys, as the old root demands"):
        platform.repository().publish_root(rotated(platform, signers=1))
    assert not (platform.folder / "metadata" / "2.root.json").exists()


def test_a_root_whose_online_keys_are_not_here_takes_no_effect(platform: Platform) -> None:
    signed = rotated(platform, timestamp=[SigningKey.generate()])
    with pytest.raises(PublishError, match="timestamp was signed by 0/1 keys"):
        platform.repository().publish_root(signed)
    assert not (platform.folder / "metadata" / "2.root.json").exists()
    platform.publish()


def test_a_root_that_skips_a_version_takes_no_effect(platform: Platform) -> None:
    signed = rotated(platform)
    platform.repository().publish_root(signed)
    with pytest.raises(PublishError, match="expected version 3, found 2"):
        platform.repository().publish_root(signed)


@pytest.mark.parametrize("data", [b"", b"{}"])
def test_another_file_is_no_draft(platform: Platform, data: bytes) -> None:
    with pytest.raises(PublishError, match="drafted root"):
        sign_root(data, platform.root_keys[0])
    with pytest.raises(PublishError, match="drafted root, found timestamp"):
        sign_root((platform.folder / "metadata" / "timestamp.json").read_bytes(), platform.root_keys[0])


def test_a_draft_with_too_few_keys_is_refused(platform: Platform) -> None:
    repository = platform.repository()
    with pytest.raises(PublishError, match="root expects 2 keys, found 1"):
        repository.draft_root({"root": [SigningKey.generate().public]})
    with pytest.raises(PublishError, match="found 'anna'"):
        repository.draft_root({"anna": [SigningKey.generate().public]})
    with pytest.raises(PublishError, match="root expects 4 keys"):
        repository.draft_root({}, root_threshold=4)


def test_rotating_stolen_online_keys_heals_merchants_that_the_thief_fast_forwarded(
    platform: Platform, tmp_path: Path
) -> None:
    home = new_merchant(tmp_path, platform)
    platform.publish(0)
    thief = Platform(platform.root_keys, platform.signers, tmp_path / "mirror")
    shutil.copytree(platform.folder, thief.folder)
    for _ in range(5):
        thief.repository().refresh_timestamp()
    activate(home, pull(home, thief.source).version)
    with pytest.raises(FeedRolledBack):
        pull(home, platform.source)
    new = dataclasses.replace(new_signers(), targets=platform.signers.targets)
    signed = rotated(platform, snapshot=new.snapshot, timestamp=new.timestamp)
    platform.repository(signers=new).publish_root(signed)
    assert pull(home, platform.source).version == 1


def test_published_files_carry_their_hash_in_the_name(platform: Platform) -> None:
    platform.publish()
    names = {path.name.partition(".")[2] for path in (platform.folder / "targets" / "1").iterdir()}
    assert names == contents.NAMES
    for path in (platform.folder / "targets" / "1").iterdir():
        assert path.name.startswith(contents.sha256_file(path))


def test_many_releases_stay_listed(tmp_path: Path) -> None:
    platform = new_platform(tmp_path, expiry=Expiry(online_days=2))
    home = new_merchant(tmp_path, platform)
    for seed in range(5):
        platform.publish(seed)
    assert [release.version for release in available(home, platform.source)] == [1, 2, 3, 4, 5]
