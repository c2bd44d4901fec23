# SPDX-License-Identifier: Apache-2.0
"""What secure aggregation costs from 3 to 255 merchants, and 1,000 divided into four rosters: rows and a plot.

A merchant of a divided league pays what its own roster of 250 costs; the platform pays for the four in turn.
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
    for size in (*SIZES, DIVIDED):
        rosters = ROSTERS if size == DIVIDED else 1
        n = size // rosters
        large, small = OurMerchant(n, parameters), OurMerchant(n, SMALL)
        spent = {
            "cost_merchant_6e6": [large.round() for _ in range(REPEATS)],
            "cost_merchant_1e5": [small.round() for _ in range(REPEATS)],
            "cost_set_up": [set_up_s(n) for _ in range(REPEATS)],
            "cost_platform_6e6_all": [_platform_s(rosters, n, 0, parameters)],
        }
        if n >= 10:
            spent["cost_platform_6e6_tenth"] = [_platform_s(rosters, n, n // 10, parameters)]
        rows += [row(f"{figure}_n{size}", median(times), "s", len(times)) for figure, times in spent.items()]
    return rows


def _platform_s(rosters: int, n: int, dropped: int, parameters: int) -> float:
    return sum(OurPlatform(n, dropped, parameters).run()[0] for _ in range(rosters))


def draw(rows: Iterable[Row]) -> None:
    """docs/secagg-cost.svg."""
    seconds = {found.figure: found.ours for found in rows}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _panel(left, seconds, MERCHANT, "one merchant")
    _panel(right, seconds, PLATFORM, "the platform")
    figure.savefig(PLOT, metadata={"Date": None})


def _panel(axes: Axes, seconds: dict[str, float], lines: dict[str, str], title: str) -> None:
    for figure, label in lines.items():
        sizes = [n for n in SIZES if f"{figure}_n{n}" in seconds]
        (line,) = axes.plot(sizes, [seconds[f"{figure}_n{n}"] for n in sizes], marker="o", label=label)
        divided = seconds[f"{figure}_n{DIVIDED}"]
        axes.plot(DIVIDED, divided, marker="o", markerfacecolor="white", color=line.get_color())
    axes.set(xscale="log", yscale="log", xlabel="merchants", ylabel="seconds", title=title)
    ticks = (*SIZES, DIVIDED)
    axes.set_xticks(ticks, [*map(str, SIZES), "1,000 in\n4 rosters"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
