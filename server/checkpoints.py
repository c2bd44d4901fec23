# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: one file per round, whole or absent.

A file holds model, strategy state and history as safetensors; its name carries the hash of its bytes. It is
written to a temporary name, flushed to disk and renamed, so a crash leaves either the old newest file or the
new one.

Guarantees:
- A damaged or half-written checkpoint is never loaded: the newest whole one is.
- A run never resumes from another configuration's checkpoints.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from server.errors import CheckpointMismatch, ServerError

FORMAT = "hansa.checkpoint/1"
KEPT = 3
MODEL, AVERAGED, FIXED, STRATEGY = "model/", "averaged/", "fixed/", "strategy/"

Arrays = Mapping[str, npt.NDArray[np.float32]]
State = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """What the platform knows of one round: sums and counts, nothing per merchant but why it was dropped."""

    round: int
    survivors: int
    dropped: dict[int, str]
    statistics: dict[str, float]
    wall_s: float
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run after `round` rounds.

    Attributes:
        arrays: the trained weights, from which the next round goes on.
        averaged: their average over the rounds, where the run averages.
        fixed: what belongs to the model and is not trained.
        strategy: what the strategy carries, see `strategies.state`.
    """

    round: int
    config_hash: str
    arrays: Arrays
    fixed: Arrays = field(default_factory=dict)
    strategy: State = field(default_factory=dict)
    history: tuple[RoundRecord, ...] = ()
    averaged: Arrays = field(default_factory=dict)

    @property
    def model(self) -> dict[str, npt.NDArray[np.float32]]:
        """The model to measure and to publish after this round."""
        return {**self.arrays, **self.averaged, **self.fixed}


class _Header(msgspec.Struct, frozen=True):
    format: str
    round: int
    config_hash: str
    history: tuple[RoundRecord, ...]


def model_hash(arrays: Arrays) -> str:
    """SHA-256 over names, dtypes, shapes and bytes in the order of names: equal models, equal hashes."""
    digest = hashlib.sha256(b"hansa.model/1")
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"|{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class CheckpointFolder:
    """The checkpoints of one run, newest last."""

    def __init__(self, path: Path, config_hash: str) -> None:
        self._path = path
        self._config_hash = config_hash

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write the checkpoint durably, then drop all but the newest few."""
        data = _encode(checkpoint)
        self._path.mkdir(parents=True, exist_ok=True)
        final = self._path / f"round-{checkpoint.round:05d}-{_short_hash(data)}.safetensors"
        write_durably(final, data)
        for old in self._files()[:-KEPT]:
            old.unlink()
        return final

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None.

        Raises:
            CheckpointMismatch: it belongs to another configuration.
        """
        for path in reversed(self._files()):
            if checkpoint := _read(path):
                self._check(checkpoint, path)
                return checkpoint
        return None

    def _check(self, checkpoint: Checkpoint, path: Path) -> None:
        if checkpoint.config_hash != self._config_hash:
            raise CheckpointMismatch(
                f"{path.name} was written under configuration {checkpoint.config_hash[:12]}, this run has "
                f"{self._config_hash[:12]}: use the same settings, or resume=false with another output folder"
            )

    def _files(self) -> list[Path]:
        return sorted(self._path.glob("round-*.safetensors"))


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint outside a run's folder, such as the starting model."""
    write_durably(path, _encode(checkpoint))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what `write_checkpoint` wrote; raises `ServerError`."""
    checkpoint = _decode(path.read_bytes())
    if checkpoint is None:
        raise ServerError(f"{path}: expected a {FORMAT} file; prepare the run again")
    return checkpoint


def _read(path: Path) -> Checkpoint | None:
    data = path.read_bytes()
    return _decode(data) if _short_hash(data) == path.stem.rsplit("-", 1)[1] else None


def _encode(checkpoint: Checkpoint) -> bytes:
    header = _Header(FORMAT, checkpoint.round, checkpoint.config_hash, checkpoint.history)
    groups = {
        MODEL: checkpoint.arrays,
        AVERAGED: checkpoint.averaged,
        FIXED: checkpoint.fixed,
        STRATEGY: checkpoint.strategy,
    }
    tensors = {p + k: np.asarray(v, order="C") for p, group in groups.items() for k, v in group.items()}
    return save(tensors, {"hansa": msgspec.json.encode(header).decode()})


def _decode(data: bytes) -> Checkpoint | None:
    try:
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        metadata = msgspec.json.decode(data[8 : 8 + size])["__metadata__"]
        header = msgspec.json.decode(metadata["hansa"], type=_Header)
    except (SafetensorError, msgspec.MsgspecError, KeyError):
        return None
    return Checkpoint(
        round=header.round,
        config_hash=header.config_hash,
        arrays=_under(MODEL, tensors),
        averaged=_under(AVERAGED, tensors),
        fixed=_under(FIXED, tensors),
        strategy=_under(STRATEGY, tensors),
        history=header.history,
    )


def _under(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def write_durably(final: Path, data: bytes) -> None:
    """Write a file that survives a crash whole, or not at all."""
    temporary = final.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
