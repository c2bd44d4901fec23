# SPDX-License-Identifier: Apache-2.0
"""What the workers of one process share: the task, one model on its device, the public vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from client.errors import HomeError
from client.home import write_private
from data.catalogue import Vocabulary
from models.parameters import ParameterSpec
from models.task import Task
from models.tasks import build_task


@dataclass(frozen=True, slots=True)
class Runtime:
    """The bench on which a worker trains.

    Attributes:
        durable: flush ledger and answers to disk; False in simulations, where only the process may die.
    """

    task: Task[Any]
    model: torch.nn.Module
    spec: ParameterSpec
    vocabulary: Vocabulary
    device: torch.device
    durable: bool


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; raises `HomeError` when the named device does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise HomeError(f"device={name!r} is unknown; use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise HomeError(f"device={name}: this machine has no CUDA device; use device=auto")
    return torch.device(name)


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """`runtime.json`: what a node must know beforehand, the same for a whole league.

    Attributes:
        task: name of the task.
        options: its settings.
        vocabulary: path of the league's public vocabulary; a relative one counts from the file's folder.
        device: `auto`, `cpu` or `cuda`.
        durable: as in `Runtime`.
    """

    task: str
    options: Mapping[str, Any]
    vocabulary: str
    device: str = "auto"
    durable: bool = True


def write_runtime(path: Path, settings: RuntimeSettings) -> None:
    """Write `runtime.json`; it appears whole and on disk, or not at all."""
    write_private(path, msgspec.json.format(msgspec.json.encode(settings), indent=2), durable=True)


def read_runtime(path: Path) -> RuntimeSettings:
    """Read `runtime.json`; raises `HomeError`."""
    try:
        settings = msgspec.json.decode(path.read_bytes(), type=RuntimeSettings)
    except OSError as missing:
        raise HomeError(f"{path}: {missing.strerror}; the platform hands it out with the vocabulary") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as broken:
        raise HomeError(f"{path}: {broken}") from None
    return replace(settings, vocabulary=str(path.resolve().parent / settings.vocabulary))


def open_runtime(settings: RuntimeSettings) -> Runtime:
    """Build task and model once for a process."""
    vocabulary = Vocabulary.load(Path(settings.vocabulary))
    task = build_task(settings.task, settings.options, vocabulary.codes_VA)
    device = choose_device(settings.device)
    model = task.build(seed=0).to(device)
    return Runtime(task, model, task.spec(model), vocabulary, device, settings.durable)
