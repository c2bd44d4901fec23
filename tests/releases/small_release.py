# SPDX-License-Identifier: Apache-2.0
"""A release of three items, a platform that publishes it, a merchant that pins its root, a real HTTP mirror."""

import contextlib
import functools
import http.server
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper
from safetensors.numpy import save

from releases.card import Metric, ModelCard
from releases.keys import Signers, SigningKey
from releases.publish import DEFAULT_EXPIRY, Expiry, Repository, utc_now
from releases.pull import trust

ITEMS = 3


def card(**changes: object) -> ModelCard:
    """A private release's card."""
    fields: dict[str, object] = {
        "created": datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC),
        "league": "Complete Journey",
        "data_licence": "MIT",
        "task": "recommendation",
        "mode": "local",
        "unit": "one user inside one merchant",
        "epsilon": 8.0,
        "delta": 1e-5,
        "accountant": "prv",
        "privacy_statement": "Nobody learns whether one user of one merchant is in the data, beyond epsilon.",
        "rounds": 20,
        "merchants": 111,
        "items": ITEMS,
        "config_hash": "c" * 64,
        "code_hash": "d" * 40,
        "metrics": (Metric("novel", "ndcg@10", 0.06, 0.05, 0.07),),
        "limitations": ("Items without attributes are not recommended.",),
    }
    return ModelCard(**(fields | changes))  # type: ignore[arg-type]


@functools.cache
def scorer() -> bytes:
    """The smallest ONNX model: identity."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "identity", ends[:1], ends[1:])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def files(seed: int = 0) -> dict[str, bytes]:
    """The four payload files; another seed, other weights."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(ITEMS + 1, 2)).astype(np.float32)
    stream = io.BytesIO()
    np.save(stream, vectors, allow_pickle=False)
    table = pa.table(
        {
            "index": pa.array(range(1, ITEMS + 1), pa.int32()),
            "item_id": [f"item-{index}" for index in range(1, ITEMS + 1)],
            "name": ["milk", "bread", None],
            "department": ["dairy", "bakery", "unknown"],
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return {
        "model.safetensors": save({"embedding": vectors, "bias": np.zeros(1, np.float32)}),
        "scorer.onnx": scorer(),
        "item_vectors.npy": stream.getvalue(),
        "catalogue.parquet": sink.getvalue(),
    }


@dataclass(frozen=True)
class Platform:
    """A platform's keys and where its repository lies."""

    root_keys: tuple[SigningKey, ...]
    signers: Signers
    folder: Path

    def repository(
        self,
        *,
        signers: Signers | None = None,
        expiry: Expiry = DEFAULT_EXPIRY,
        clock: Callable[[], datetime] = utc_now,
    ) -> Repository:
        return Repository(self.folder, signers or self.signers, expiry=expiry, clock=clock)

    def publish(self, seed: int = 0) -> int:
        return self.repository().publish(files(seed), card())

    @property
    def source(self) -> str:
        return str(self.folder)


def new_signers() -> Signers:
    return Signers((SigningKey.generate(),), (SigningKey.generate(),), (SigningKey.generate(),))


def new_platform(
    folder: Path, *, expiry: Expiry = DEFAULT_EXPIRY, clock: Callable[[], datetime] = utc_now
) -> Platform:
    """A platform with three root keys (threshold 2) and an empty repository."""
    platform = Platform(tuple(SigningKey.generate() for _ in range(3)), new_signers(), folder / "repository")
    Repository.create(platform.folder, platform.signers, platform.root_keys, expiry=expiry, clock=clock)
    return platform


def new_merchant(folder: Path, platform: Platform) -> Path:
    """A merchant's home with the platform's root pinned."""
    home = folder / "home"
    trust(home, platform.repository().root_bytes())
    return home


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """A real HTTP server on loopback for the time of the block; yields its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.02))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def mirror(folder: Path) -> contextlib.AbstractContextManager[str]:
    """A mirror of a repository folder over HTTP."""
    return serving(functools.partial(_Handler, directory=str(folder)))
