# SPDX-License-Identifier: Apache-2.0
"""What a release contains: six files with closed names, bounded sizes and checked insides.

    model.safetensors   shared weights                    scorer.onnx       the scorer, for ONNX Runtime
    item_vectors.npy    float32 [V+1, d], row 0 padding   catalogue.parquet V rows: index 1..V, item_id, name, ...
    card.json           the typed card                    README.md         the card in words

Guarantees:
- Nothing pickled is ever read: arrays load with allow_pickle=False, weights are plain safetensors.
- Vectors, catalogue and card agree on the number of items.
- The card names the model's hash and the version.
"""

import hashlib
import json
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from releases.card import ModelCard
from releases.errors import ContentError

_GIB: Final = 2**30
_MIB: Final = 2**20
MAX_SIZE_BYTES: Final = {
    "README.md": _MIB,
    "card.json": _MIB,
    "catalogue.parquet": 2 * _GIB,
    "item_vectors.npy": 4 * _GIB,
    "model.safetensors": 8 * _GIB,
    "scorer.onnx": 2 * _GIB,
}
NAMES: Final = frozenset(MAX_SIZE_BYTES)
WRITTEN_BY_PUBLISHING: Final = frozenset({"README.md", "card.json"})
PAYLOAD_NAMES: Final = NAMES - WRITTEN_BY_PUBLISHING
_SAFETENSORS_ITEM_BYTES: Final = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_MAX_HEADER_BYTES: Final = 16 * _MIB


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_folder(folder: Path, version: int) -> ModelCard:
    """Check a release's six files from outside in and return its card; raises ContentError that names the file."""
    for name in sorted(NAMES):
        check_size(name, _size_bytes(folder / name))
    card = ModelCard.from_json((folder / "card.json").read_bytes())
    if card.release_version != version:
        raise _broken("card.json", f"release version {version}", str(card.release_version))
    model_hash = sha256_file(folder / "model.safetensors")
    if card.model_hash != model_hash:
        raise _broken("card.json", f"model hash {model_hash}", card.model_hash)
    _check_readme(folder / "README.md")
    _check_safetensors(folder / "model.safetensors")
    _check_onnx(folder / "scorer.onnx")
    items = _check_vectors(folder / "item_vectors.npy")
    _check_catalogue(folder / "catalogue.parquet", items)
    if card.items != items:
        raise _broken("card.json", f"{items} items, as item_vectors.npy", str(card.items))
    return card


def check_size(name: str, size_bytes: int) -> None:
    """Raise ContentError when a release's file is empty or above its bound."""
    if not 0 < size_bytes <= MAX_SIZE_BYTES[name]:
        raise _broken(name, f"1 to {MAX_SIZE_BYTES[name]} bytes", f"{size_bytes} bytes")


def _size_bytes(path: Path) -> int:
    if path.is_symlink() or not path.is_file():
        raise _broken(path.name, "a regular file", "none")
    return path.stat().st_size


def _broken(name: str, expected: str, found: str) -> ContentError:
    return ContentError(f"{name}: expected {expected}, found {found}. Export the release again.")


def _check_readme(path: Path) -> None:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _broken(path.name, "UTF-8 text", "other bytes") from error
    if not text.startswith("---\n"):
        raise _broken(path.name, "front matter that starts with '---'", repr(text[:10]))


def _check_safetensors(path: Path) -> None:
    """Tensors known by dtype and shape that tile the file exactly (the format's own rules)."""
    with path.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if not 2 <= header_bytes <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise _broken(path.name, "a safetensors header", f"a header of {header_bytes} bytes")
        raw = stream.read(header_bytes)
    body_bytes = path.stat().st_size - 8 - header_bytes
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        spans = sorted(_span(entry) for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(path.name, "a safetensors header", f"a broken one ({error})") from error
    end = 0
    for start, stop in spans:
        if start != end:
            raise _broken(path.name, f"a tensor at offset {end}", f"one at {start}")
        end = stop
    if end != body_bytes:
        raise _broken(path.name, f"{body_bytes} bytes of tensors", f"{end}")


def _span(entry: dict[str, object]) -> tuple[int, int]:
    start, stop = (int(offset) for offset in entry["data_offsets"])  # type: ignore[attr-defined]
    sizes = [int(size) for size in entry["shape"]]  # type: ignore[attr-defined]
    length = _SAFETENSORS_ITEM_BYTES[str(entry["dtype"])]
    for size in sizes:
        if size < 0:
            raise ValueError(f"negative size {size}")
        length *= size
    if start < 0 or stop - start != length:
        raise ValueError(f"a tensor of {length} bytes with offsets {start} to {stop}")
    return start, stop


def _check_onnx(path: Path) -> None:
    """The protobuf tag of ModelProto.ir_version (field 1, varint) opens every ONNX file."""
    with path.open("rb") as stream:
        if stream.read(1) != b"\x08":
            raise _broken(path.name, "an ONNX model", "other bytes")


def _check_vectors(path: Path) -> int:
    """V, from float32 vectors [V+1, d] in C order."""
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy evaluates the header's text: TokenError, SyntaxError, ValueError and more
        raise _broken(path.name, "a plain numpy array", f"{error}") from error
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.dtype("<f4") or vectors.ndim != 2:
        raise _broken(path.name, "float32 [V+1, d]", _described(vectors))
    if vectors.shape[0] < 2 or vectors.shape[1] < 1:
        raise _broken(path.name, "at least one item", f"shape {vectors.shape}")
    if not all(np.isfinite(vectors[row : row + 65536]).all() for row in range(0, len(vectors), 65536)):
        raise _broken(path.name, "finite numbers", "NaN or infinity")
    return int(vectors.shape[0]) - 1


def _described(array: object) -> str:
    return f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "an archive"


def _check_catalogue(path: Path, items: int) -> None:
    try:
        table = pq.read_table(path, columns=["index", "item_id", "name"])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _broken(path.name, "Parquet with columns index, item_id, name", f"{error}") from error
    if table.column_names != ["index", "item_id", "name"]:
        raise _broken(path.name, "columns index, item_id, name", ", ".join(table.column_names))
    if table.num_rows != items:
        raise _broken(path.name, f"{items} rows, as item_vectors.npy", f"{table.num_rows}")
    index = table.column("index").to_numpy()
    if not np.issubdtype(index.dtype, np.integer) or not np.array_equal(index, np.arange(1, items + 1)):
        raise _broken(path.name, f"index 1 to {items} in order", "another order or type")
    ids = table.column("item_id")
    if not pa.types.is_string(ids.type) and not pa.types.is_large_string(ids.type):
        raise _broken(path.name, "item_id as text", str(ids.type))
    if ids.null_count or len(ids.unique()) != items:
        raise _broken(path.name, "distinct item_id without nulls", "nulls or repeats")
