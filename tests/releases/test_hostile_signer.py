# SPDX-License-Identifier: Apache-2.0
"""A hostile holder of the targets key: what is signed, and still refused."""

import hashlib
import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tuf.api.metadata import TargetFile

from releases import contents
from releases.errors import (
    ContentError,
    MetadataMalformed,
    TargetMissing,
    TargetTooLong,
    UnsafeTargetName,
)
from tests.releases.hostile_mirror import Scene, current_targets, new_scene, offer_targets, refused_for_targets
from tests.releases.small_release import card, files


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return new_scene(tmp_path)


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
