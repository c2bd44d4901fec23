# SPDX-License-Identifier: Apache-2.0
"""A signed release of every format version is verified for ever; each bad neighbour of it is refused by name."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from releases import errors
from releases.pull import activate, active, feed_state, installed, pull, trust

FOLDER = Path(__file__).parents[1] / "vectors" / "releases" / "v1"
BAD: list[dict[str, Any]] = json.loads((FOLDER / "bad.json").read_text())


def pinned(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    trust(home, (FOLDER / "repository" / "metadata" / "1.root.json").read_bytes())
    return home


def test_the_release_of_format_version_1_is_verified_for_ever(tmp_path: Path) -> None:
    home = pinned(tmp_path)
    pull(home, str(FOLDER / "repository"))
    activate(home, 1)
    release = active(home)
    assert release.card.format_version == 1
    assert release.card.created == datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (release.card.mode, release.card.epsilon, release.card.delta) == ("local", 8.0, 1e-5)
    assert release.card.model_hash == "ec25d0e396937c6d62551a8ce7e2c76c3addbe528857eedb99774bedd5b6a47c"
    assert release.card.metrics[0].name == "ndcg@10"
    assert release.item_vectors().shape == (4, 2)
    assert release.read("README.md").startswith(b"---\n")
    assert not feed_state(home).stale()


@pytest.mark.parametrize("bad", BAD, ids=[bad["name"] for bad in BAD])
def test_bad_neighbours_are_refused(tmp_path: Path, bad: dict[str, Any]) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(FOLDER / "repository", repository)
    (path,) = repository.glob(bad["file"])
    data = bytearray(path.read_bytes())
    if "remove" in bad:
        path.unlink()
    elif "xor_at" in bad:
        data[bad["xor_at"]] ^= 1
        path.write_bytes(data)
    else:
        old, new = (word.encode() for word in bad["replace"])
        assert data.count(old) == 1
        path.write_bytes(data.replace(old, new))
    home = pinned(tmp_path)
    with pytest.raises(errors.PullRefused) as caught:
        pull(home, str(repository))
    assert type(caught.value).__name__ == bad["error"], caught.value
    assert installed(home) == ()


def test_every_refusal_class_has_a_clear_message_and_a_place_in_the_tree() -> None:
    for name, kind in vars(errors).items():
        if isinstance(kind, type):
            assert issubclass(kind, errors.ReleaseError)
            assert f"── {name} " in errors.__doc__ or name == "ReleaseError"
            assert kind.__doc__
