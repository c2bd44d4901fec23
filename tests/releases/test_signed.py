# SPDX-License-Identifier: Apache-2.0
"""Proofs: what signatures say from bytes alone."""

from pathlib import Path

import pytest

from releases.errors import FeedForged, MetadataMalformed, RootNotPinned, RootRefused
from releases.keys import SigningKey
from releases.publish import sign_root
from releases.signed import Proof, proved_releases
from tests.releases.small_release import Platform, new_platform


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """A platform with one release and two root rotations, the first of which changed the release signer."""
    platform = new_platform(tmp_path)
    anna = SigningKey.generate()
    signers = type(platform.signers)((anna,), platform.signers.snapshot, platform.signers.timestamp)
    for change in ({"targets": [anna.public]}, {}):
        draft = platform.repository().draft_root(change)
        for key in platform.root_keys[1:]:
            draft = sign_root(draft, key)
        platform.repository(signers=signers).publish_root(draft)
    after = Platform(platform.root_keys, signers, platform.folder)
    after.publish()
    return after


def metadata(platform: Platform, name: str) -> bytes:
    return (platform.folder / "metadata" / name).read_bytes()


def test_a_release_is_proved_only_by_an_unbroken_chain_of_roots_from_the_pinned_one(
    platform: Platform, tmp_path: Path
) -> None:
    first, second, third = (metadata(platform, f"{version}.root.json") for version in (1, 2, 3))
    targets = metadata(platform, "4.targets.json")
    assert list(proved_releases(first, Proof((second, third), targets))) == [1]
    assert list(proved_releases(second, Proof((third,), targets))) == [1]
    assert list(proved_releases(third, Proof((), targets))) == [1]
    with pytest.raises(FeedForged, match="0/1 keys"):
        proved_releases(first, Proof((), targets))
    with pytest.raises(RootRefused, match="expected version 2, found 3"):
        proved_releases(first, Proof((third,), targets))
    with pytest.raises(RootRefused, match="root 4"):
        proved_releases(third, Proof((targets,), targets))
    (tmp_path / "other").mkdir()
    stranger = new_platform(tmp_path / "other")
    with pytest.raises(RootRefused, match="0/2 keys"):
        proved_releases(stranger.repository().root_bytes(), Proof((second, third), targets))
    with pytest.raises(RootNotPinned):
        proved_releases(targets, Proof((), targets))
    with pytest.raises(MetadataMalformed, match="targets"):
        proved_releases(third, Proof((), b"{}"))
    with pytest.raises((MetadataMalformed, FeedForged)):
        proved_releases(third, Proof((), third))


def test_a_proof_survives_the_json_round_trip() -> None:
    proof = Proof((b"a", "ε".encode()), b"{}")
    assert Proof.from_json(proof.to_json()) == proof
    for data in (b"", b"[]", b'{"roots": 3, "targets": ""}', b"[" * 100_000):
        with pytest.raises(MetadataMalformed, match=r"signed\.json"):
            Proof.from_json(data)
