# SPDX-License-Identifier: Apache-2.0
"""The tasks that a league can train, by name: one file and one line here for a new one."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError
from models.recommendation import RecommendationConfig, RecommendationTask
from models.task import Task

__all__ = ["TASKS", "build_task"]

Codes = NDArray[np.integer[Any]]


def _recommendation(options: Mapping[str, Any], codes_VA: Codes) -> Task[Any]:
    return RecommendationTask(_settings(RecommendationConfig, options), codes_VA)


TASKS: Mapping[str, Callable[[Mapping[str, Any], Codes], Task[Any]]] = {"recommendation": _recommendation}


def build_task(name: str, options: Mapping[str, Any], codes_VA: Codes) -> Task[Any]:
    """The task of that name over a catalogue, `codes_VA` int [V+1, A]; raises ConfigError."""
    if name not in TASKS:
        raise ConfigError(f"model.task={name!r}; choose one of {', '.join(sorted(TASKS))}")
    return TASKS[name](options, codes_VA)


def _settings(kind: type[Any], options: Mapping[str, Any]) -> Any:
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(options) - known):
        raise ConfigError(f"model.options has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    try:
        return msgspec.convert(dict(options), kind)
    except msgspec.ValidationError as wrong:
        raise ConfigError(f"model.options: {wrong}") from None
