# SPDX-License-Identifier: Apache-2.0
"""A run's figures for machines: one JSON line per round in `metrics.jsonl`, the same as TensorBoard events."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """Appends to `<folder>/metrics.jsonl` and `<folder>/tensorboard/`; a resumed run appends further."""

    def __init__(self, folder: Path) -> None:
        self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / "tensorboard"))

    def round(self, run: str, number: int, values: dict[str, float]) -> None:
        """Log a round's scalars; None and NaN never come here."""
        line = {"time": time.time(), "run": run, "round": number, **values}
        self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{run}/{name}", value, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._events.close()
