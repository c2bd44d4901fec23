# SPDX-License-Identifier: Apache-2.0
"""What is inside a release: each file broken in each way that a border check knows."""

import contextlib
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from releases import contents
from releases.errors import ContentError
from releases.pull import pull
from tests.releases.small_release import card, files, new_merchant, new_platform


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, files())
    return tmp_path


def write(folder: Path, payload: dict[str, bytes]) -> None:
    for name, data in payload.items():
        (folder / name).write_bytes(data)
    model_hash = contents.sha256_file(folder / "model.safetensors")
    whole = card(release_version=1, model_hash=model_hash)
    (folder / "card.json").write_bytes(whole.to_json())
    (folder / "README.md").write_text(whole.readme(), encoding="utf-8")


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=array.dtype == object)
    return stream.getvalue()


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, vectors=np.zeros((4, 2), np.float32))
    return stream.getvalue()


def parquet(**columns: object) -> bytes:
    base = {"index": pa.array([1, 2, 3], pa.int32()), "item_id": ["a", "b", "c"], "name": ["A", "B", "C"]}
    table = pa.table({name: column for name, column in (base | columns).items() if column is not None})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def tensors(header: object, body: bytes = b"") -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_a_whole_release_passes(folder: Path) -> None:
    assert contents.check_folder(folder, 1).items == 3


BROKEN: dict[str, list[Callable[[], bytes]]] = {
    "model.safetensors": [
        lambda: b"short",
        lambda: struct.pack("<Q", 2**60) + b"{}",
        lambda: tensors([]),
        lambda: tensors({"a": entry("F32", [1], 0, 4)}, b"123"),
        lambda: tensors({"a": entry("F32", [1], 0, 4)}, b"12345"),
        lambda: tensors({"a": entry("F32", [1], 4, 8)}, b"12345678"),
        lambda: tensors({"a": entry("F32", [2], 0, 4)}, b"1234"),
        lambda: tensors({"a": entry("OBJECT", [1], 0, 4)}, b"1234"),
        lambda: tensors({"a": entry("F32", [-1, -1], 0, 4)}, b"1234"),
        lambda: tensors({"a": entry("U8", [4], 0, 4), "b": entry("U8", [3], 1, 4)}, b"1234"),
        lambda: tensors({"a": {"dtype": "F32"}}, b""),
    ],
    "scorer.onnx": [lambda: b"<html>", lambda: b"\x80\x04"],
    "item_vectors.npy": [
        lambda: b"\x93NUMPY",
        lambda: npy(np.zeros((4, 2))),
        lambda: npy(np.zeros(4, np.float32)),
        lambda: npy(np.zeros((1, 2), np.float32)),
        lambda: npy(np.zeros((5, 2), np.float32)),
        lambda: npy(np.full((4, 2), np.nan, np.float32)),
        lambda: npy(np.array([[None]], dtype=object)),
        lambda: npy(np.zeros((4, 2), np.float32))[:-1],
        npz,
    ],
    "catalogue.parquet": [
        lambda: b"PAR1",
        lambda: parquet(name=None),
        lambda: parquet(index=pa.array([0, 1, 2], pa.int32())),
        lambda: parquet(index=pa.array([1, 3, 2], pa.int32())),
        lambda: parquet(index=pa.array([1.0, 2.0, 3.0])),
        lambda: parquet(item_id=["a", "a", "c"]),
        lambda: parquet(item_id=["a", None, "c"]),
        lambda: parquet(item_id=[1, 2, 3]),
        lambda: parquet(index=[1, 2], item_id=["a", "b"], name=["A", "B"]),
    ],
}


@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name, cases in BROKEN.items() for n in range(len(cases))]
)
def test_each_broken_file_is_named(folder: Path, name: str, number: int) -> None:
    write(folder, files() | {name: BROKEN[name][number]()})
    with pytest.raises(ContentError, match=name.replace(".", r"\.")):
        contents.check_folder(folder, 1)


@pytest.mark.parametrize("name", sorted(contents.NAMES))
def test_an_empty_missing_or_linked_file_is_named(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(b"")
    with pytest.raises(ContentError, match=name.replace(".", r"\.")):
        contents.check_folder(folder, 1)
    (folder / name).unlink()
    with pytest.raises(ContentError, match="a regular file"):
        contents.check_folder(folder, 1)
    (folder / "elsewhere").write_bytes(data)
    (folder / name).symlink_to(folder / "elsewhere")
    with pytest.raises(ContentError, match="a regular file"):
        contents.check_folder(folder, 1)


def test_vectors_catalogue_and_card_agree_on_the_number_of_items(folder: Path) -> None:
    (folder / "item_vectors.npy").write_bytes(npy(np.zeros((5, 2), np.float32)))
    with pytest.raises(ContentError, match="4 rows"):
        contents.check_folder(folder, 1)


def test_the_card_names_the_models_hash_and_the_version(folder: Path) -> None:
    with pytest.raises(ContentError, match="expected release version 2, found 1"):
        contents.check_folder(folder, 2)
    whole = card(release_version=1, model_hash="0" * 64)
    (folder / "card.json").write_bytes(whole.to_json())
    with pytest.raises(ContentError, match="expected model hash"):
        contents.check_folder(folder, 1)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"# Title"])
def test_a_readme_without_front_matter_is_refused(folder: Path, data: bytes) -> None:
    (folder / "README.md").write_bytes(data)
    with pytest.raises(ContentError, match=r"README\.md"):
        contents.check_folder(folder, 1)


def test_sizes_are_bounded() -> None:
    with pytest.raises(ContentError, match="1 to 1048576 bytes, found 1048577"):
        contents.check_size("card.json", 2**20 + 1)
    contents.check_size("card.json", 2**20)


@settings(max_examples=60, deadline=None)
@example(name="item_vectors.npy", position=25, byte=40)  # an open bracket in the header
@given(
    name=st.sampled_from(sorted(contents.PAYLOAD_NAMES)), position=st.integers(0, 10**6), byte=st.integers(0, 255)
)
def test_any_byte_changed_raises_nothing_but_a_content_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, position: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("release")
    data = bytearray(files()[name])
    data[position % len(data)] = byte
    write(folder, files() | {name: bytes(data)})
    with contextlib.suppress(ContentError):
        contents.check_folder(folder, 1)


def test_nothing_pickled_is_ever_read_for_every_array_is_loaded_with_allow_pickle_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = new_platform(tmp_path)
    home = new_merchant(tmp_path, platform)
    allowed = []
    real = np.load

    def watched(*arguments: Any, **options: Any) -> Any:
        allowed.append(options["allow_pickle"])
        return real(*arguments, **options)

    monkeypatch.setattr(np, "load", watched)
    platform.publish()
    pull(home, platform.source).item_vectors()
    assert allowed == [False, False, False]
