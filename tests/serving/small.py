# SPDX-License-Identifier: Apache-2.0
"""A small league's release: a real ONNX scorer, its catalogue and vectors, and a source that a test sets."""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper
from pyarrow import parquet
from safetensors.numpy import save, save_file

from releases.card import ModelCard
from releases.catalogue import catalogue_digest
from releases.errors import NotInstalled

N_ITEMS = 40
N_DIMENSIONS = 8
DEPARTMENTS = ("bakery", "dairy", "produce", "wine")


def item_id(index: int, prefix: str = "item") -> str:
    """The id of an item of the test catalogue, 1 … V."""
    return f"{prefix}-{index:03d}"


def vectors_for(n_items: int = N_ITEMS, n_dimensions: int = N_DIMENSIONS, seed: int = 0) -> np.ndarray:
    """float32 [V+1, d], row 0 zeros."""
    vectors = np.random.default_rng(seed).normal(size=(n_items + 1, n_dimensions)).astype(np.float32)
    vectors[0] = 0.0
    return vectors


def scorer_bytes(vectors: np.ndarray, *, broken: str = "", broken_at: int = 13) -> bytes:
    """A real ONNX scorer with the contract's inputs and outputs.

    score = vectors @ mean over the history of (0.99 ** age) * vectors + 0.1 * popularity + mask.
    `broken`: "nan" gives NaN scores for a history that holds item `broken_at`, "raise" fails there.
    """
    inputs = [
        helper.make_tensor_value_info("history", TensorProto.INT64, ["B", "L"]),
        helper.make_tensor_value_info("age_days", TensorProto.FLOAT, ["B", "L"]),
        helper.make_tensor_value_info("merchant_log_popularity", TensorProto.FLOAT, [len(vectors)]),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["B", len(vectors)]),
        helper.make_tensor_value_info("k", TensorProto.INT64, []),
    ]
    outputs = [
        helper.make_tensor_value_info("items", TensorProto.INT64, ["B", "K"]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "K"]),
    ]
    constants = {
        "vectors": vectors,
        "vectors_T": np.ascontiguousarray(vectors.T),
        "decay": np.float32(0.99),
        "tenth": np.float32(0.1),
        "axis_1": np.asarray([1], np.int64),
        "axis_2": np.asarray([2], np.int64),
        "flat": np.asarray([1], np.int64),
        "trigger": np.asarray(broken_at, np.int64),
        "nan": np.float32(np.nan if broken == "nan" else 0.0),
        "far": np.asarray(10**6 if broken == "raise" else 0, np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Equal", ["history", "trigger"], ["is_trigger"]),
        node("Cast", ["is_trigger"], ["is_trigger_int"], to=TensorProto.INT64),
        node("Mul", ["is_trigger_int", "far"], ["jump"]),
        node("Add", ["history", "jump"], ["rows"]),
        node("Gather", ["vectors", "rows"], ["events"]),
        node("Pow", ["decay", "age_days"], ["weight"]),
        node("Where", ["is_trigger", "nan_or_weight", "weight"], ["weight_2"])
        if broken == "nan"
        else node("Identity", ["weight"], ["weight_2"]),
        node("Unsqueeze", ["weight_2", "axis_2"], ["weight_3"]),
        node("Mul", ["events", "weight_3"], ["weighted"]),
        node("ReduceMean", ["weighted", "axis_1"], ["user"], keepdims=0),
        node("MatMul", ["user", "vectors_T"], ["match"]),
        node("Mul", ["merchant_log_popularity", "tenth"], ["popular"]),
        node("Add", ["match", "popular"], ["both"]),
        node("Add", ["both", "mask"], ["masked"]),
        node("Reshape", ["k", "flat"], ["k_1"]),
        node("TopK", ["masked", "k_1"], ["scores", "items"], axis=1),
    ]
    if broken == "nan":
        nodes.insert(6, node("Mul", ["weight", "nan"], ["nan_or_weight"]))
    graph = helper.make_graph(
        nodes,
        "scorer",
        inputs,
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def payload(
    *,
    vectors: np.ndarray | None = None,
    prefix: str = "item",
    broken: str = "",
    broken_at: int = 13,
    n_items: int = N_ITEMS,
) -> dict[str, bytes]:
    """The payload files of a release that holds the small scorer."""
    vectors = vectors_for(n_items) if vectors is None else vectors
    stream = io.BytesIO()
    np.save(stream, vectors)
    table = pa.table(
        {
            "index": pa.array(range(1, n_items + 1), pa.int32()),
            "item_id": [item_id(index, prefix) for index in range(1, n_items + 1)],
            "name": [f"Product {index}" for index in range(1, n_items + 1)],
            "department": [DEPARTMENTS[index % 4] for index in range(1, n_items + 1)],
            "brand": [f"brand {index % 7}" for index in range(1, n_items + 1)],
        }
    )
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return {
        "scorer.onnx": scorer_bytes(vectors, broken=broken, broken_at=broken_at),
        "item_vectors.npy": stream.getvalue(),
        "catalogue.parquet": sink.getvalue(),
        "model.safetensors": save({"league_log_popularity": popularity_for(n_items)[::-1].copy()}),
    }


@dataclass(frozen=True)
class MemoryRelease:
    """A release in memory with the interface of a verified one."""

    version: int
    files: dict[str, bytes]
    created_s: float = field(default_factory=time.time)

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return self.files[name]

    def release_age_s(self) -> float:
        """Seconds since it was made."""
        return time.time() - self.created_s


@dataclass
class MemoryReleases:
    """A release source whose active release a test sets; `fresh` is what its feed says."""

    release: MemoryRelease | None = None
    fresh: bool = True

    def active_version(self) -> int:
        """The active version."""
        if self.release is None:
            raise NotInstalled("no release: activate one")
        return self.release.version

    def active(self) -> MemoryRelease:
        """The active release."""
        self.active_version()
        assert self.release is not None
        return self.release

    def feed(self) -> MemoryReleases:
        """The state of the feed."""
        return self

    def stale(self, now: datetime | None = None) -> bool:
        """Whether the feed has run out."""
        return not self.fresh


def popularity_for(n_items: int = N_ITEMS) -> np.ndarray:
    """float32 [V+1]: item V is the most popular."""
    return np.log(np.arange(n_items + 1) + 1.0).astype(np.float32)


def write_local_part(home: Path, popularity: np.ndarray | None = None, prefix: str = "item") -> None:
    """Write the merchant's local part, bound to a test catalogue."""
    popularity = popularity_for() if popularity is None else popularity
    digest = catalogue_digest(item_id(index, prefix) for index in range(1, len(popularity)))
    staged = home / "local.tmp"
    save_file({"merchant_log_popularity": popularity}, staged, metadata={"catalogue_digest": digest})
    staged.replace(home / "local.safetensors")


def card() -> ModelCard:
    """The card of a small release."""
    digest = hashlib.sha256(b"test").hexdigest()
    return ModelCard(
        created=datetime.now(UTC),
        league="test league",
        data_licence="none",
        task="recommendation",
        mode="none",
        unit="one user inside one merchant",
        epsilon=None,
        delta=None,
        accountant="none",
        privacy_statement="No privacy is claimed.",
        rounds=1,
        merchants=3,
        items=N_ITEMS,
        config_hash=digest,
        code_hash=digest,
    )
