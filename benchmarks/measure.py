# SPDX-License-Identifier: Apache-2.0
"""How every benchmark measures and reports: alternating runs, medians, one table, one JSON file of rows."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

OUTPUTS = Path("outputs/benchmarks")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure held against one peer; ratio = ours / peer. Without a peer, peer and ratio are None."""

    figure: str
    ours: float
    unit: str
    n: int
    peer: float | None = None
    peer_name: str = ""
    ratio: float | None = None
    load: float = 0.0


def row(figure: str, ours: float, unit: str, n: int, peer: float | None = None, peer_name: str = "") -> Row:
    """A row with its ratio and the machine's load now."""
    ratio = ours / peer if peer else None
    return Row(figure, ours, unit, n, peer, peer_name, ratio, round(os.getloadavg()[0], 2))


def alternate(
    runs: Mapping[str, Callable[[], float | None]], repeats: int, *, least: int = 1, until_s: float = float("inf")
) -> dict[str, list[float]]:
    """Seconds of each run, in turn, so that a busy moment hits all alike.

    At least `least` turns; no further ones after until_s.

    A run returns its own seconds, or None to be timed here. until_s is on time.monotonic's clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats):
        for name, run in runs.items():
            if turn >= least and time.monotonic() > until_s:
                return seconds
            begin = time.perf_counter()
            own = run()
            seconds[name].append(time.perf_counter() - begin if own is None else own)
    return seconds


def paired_ratio(ours: list[float], peer: list[float]) -> float:
    """Median over turns of ours / peer."""
    return median(a / b for a, b in zip(ours, peer, strict=False))


def spread(seconds: list[float]) -> str:
    """Median and quartiles in milliseconds."""
    if len(seconds) < 2:
        return f"{seconds[0] * 1e3:.1f} ms (once)"
    low, middle, high = quantiles(seconds, n=4, method="inclusive")
    return f"{middle * 1e3:.1f} ms ({low * 1e3:.1f}-{high * 1e3:.1f})"


def write(name: str, rows: Iterable[Row]) -> Path:
    """outputs/benchmarks/NAME.json."""
    path = OUTPUTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n", "utf-8")
    return path


def table(rows: Iterable[Row]) -> str:
    """The rows as text, one line each."""
    lines = [f"{'figure':34} {'ours':>12} {'peer':>12} {'ratio':>8}  unit  n   peer's name"]
    for r in rows:
        peer = "" if r.peer is None else f"{r.peer:.4g}"
        ratio = "" if r.ratio is None else f"{r.ratio:.3f}"
        lines.append(f"{r.figure:34} {r.ours:>12.4g} {peer:>12} {ratio:>8}  {r.unit:5} {r.n:<3} {r.peer_name}")
    return "\n".join(lines)
