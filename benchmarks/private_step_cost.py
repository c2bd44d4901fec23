# SPDX-License-Identifier: Apache-2.0
"""What a private step costs from 10,000 to 1,000,000 items, and how much of it is noise: rows and a plot."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from benchmarks.measure import Row, row

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
PLOT = Path("docs/private-step-cost.svg")
LINES = {
    "ours": "private, cryptographic noise",
    "ours_fast_noise": "private, fast noise",
    "noise": "the noise alone, cryptographic",
    "dense": "ordinary, dense gradients",
    "sparse": "ordinary, sparse gradients",
}


def cost_rows(items: int, seconds: Mapping[str, list[float]]) -> list[Row]:
    """CPU seconds of one step of each kind, named cost_KIND_vITEMS."""
    return [row(f"cost_{name}_v{items}", median(taken), "s", len(taken)) for name, taken in seconds.items()]


def draw(rows: Iterable[Row]) -> None:
    """docs/private-step-cost.svg."""
    seconds = {found.figure: found.ours for found in rows}
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, label in LINES.items():
        axes.plot(SIZES, [seconds[f"cost_{name}_v{items}"] for items in SIZES], marker="o", label=label)
    axes.set(xscale="log", yscale="log", xlabel="items", ylabel="CPU seconds of a step")
    axes.set_xticks(SIZES, [f"{items:,}" for items in SIZES])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(PLOT, metadata={"Date": None})
