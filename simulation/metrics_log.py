# SPDX-License-Identifier: Apache-2.0
"""A run's figures for machines: one JSON line per round in `metrics.jsonl`, the same as TensorBoard events.

Guarantees:
- a round is logged once, however often its run was resumed
- no value is NaN or infinite
"""

import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """Appends to `<folder>/metrics.jsonl` and `<folder>/tensorboard/`; a resumed run appends further."""

    def __init__(self, folder: Path) -> None:
        path = folder / "metrics.jsonl"
        self._logged = {(line["run"], line["round"]): line for line in _whole_lines(path)}
        self._lines = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / "tensorboard"))

    def logged(self, run: str, number: int) -> bool:
        """Whether the round stands in the log."""
        return (run, number) in self._logged

    def series(self, run: str, name: str) -> dict[int, float]:
        """A scalar by round, of the rounds that have it."""
        return {n: line[name] for (of, n), line in sorted(self._logged.items()) if of == run and name in line}

    def round(self, run: str, number: int, values: dict[str, float]) -> None:
        """Log a round's finite scalars; a round that was logged before stays as it was."""
        if self.logged(run, number):
            return
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line = {"time": time.time(), "run": run, "round": number, **finite}
        self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        self._lines.flush()
        self._logged[run, number] = line
        for name, value in finite.items():
            self._events.add_scalar(f"{run}/{name}", value, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._events.close()


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The log's lines; one that a kill tore is cut off the file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]
