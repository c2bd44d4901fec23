# SPDX-License-Identifier: Apache-2.0
"""What secure aggregation costs from 3 to 255 merchants, and 1,000 divided into four rosters: rows and a plot.

A merchant of a divided league pays what its own roster costs; the platform pays for each roster in turn. The
points at 1,000 are those of four rosters of 255, so slightly above four of 250.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.measure import Row, row
from benchmarks.secagg_parties import OurMerchant, OurPlatform, set_up_s

SIZES = (3, 10, 30, 100, 255)
DIVIDED, ROSTERS = 1000, 4
REPEATS = 3
SMALL = 100_000
PLOT = Path("docs/secagg-cost.svg")
MERCHANT = {
    "cost_merchant_6e6": "a round, 6 million parameters",
    "cost_merchant_1e5": "a round, 100,000 parameters",
    "cost_set_up": "set-up, once in 256 rounds",
}
PLATFORM = {
    "cost_platform_6e6_all": "a round, 6 million parameters, nobody drops out",
    "cost_platform_6e6_tenth": "the same, a tenth drops out",
}


def cost_rows(parameters: int) -> list[Row]:
    """Seconds of one merchant and of the platform for every size, named FIGURE_nN."""
    rows = []
    for n in SIZES:
        large, small = OurMerchant(n, parameters), OurMerchant(n, SMALL)
        spent = {
            "cost_merchant_6e6": [large.round() for _ in range(REPEATS)],
            "cost_merchant_1e5": [small.round() for _ in range(REPEATS)],
            "cost_set_up": [set_up_s(n) for _ in range(REPEATS)],
            "cost_platform_6e6_all": [OurPlatform(n, 0, parameters).run()[0]],
        }
        if n >= 10:
            spent["cost_platform_6e6_tenth"] = [OurPlatform(n, n // 10, parameters).run()[0]]
        rows += [row(f"{figure}_n{n}", median(times), "s", len(times)) for figure, times in spent.items()]
    return rows


def draw(rows: Iterable[Row]) -> None:
    """docs/secagg-cost.svg."""
    seconds = {found.figure: found.ours for found in rows}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _panel(left, seconds, MERCHANT, 1, "one merchant")
    _panel(right, seconds, PLATFORM, ROSTERS, "the platform")
    figure.savefig(PLOT, metadata={"Date": None})


def _panel(axes: Axes, seconds: dict[str, float], lines: dict[str, str], factor: int, title: str) -> None:
    for figure, label in lines.items():
        sizes = [n for n in SIZES if f"{figure}_n{n}" in seconds]
        (line,) = axes.plot(sizes, [seconds[f"{figure}_n{n}"] for n in sizes], marker="o", label=label)
        divided = factor * seconds[f"{figure}_n{SIZES[-1]}"]
        axes.plot(DIVIDED, divided, marker="o", markerfacecolor="white", color=line.get_color())
    axes.set(xscale="log", yscale="log", xlabel="merchants", ylabel="seconds", title=title)
    ticks = (*SIZES, DIVIDED)
    axes.set_xticks(ticks, [*map(str, SIZES), "1,000 in\n4 rosters"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
