# SPDX-License-Identifier: Apache-2.0
"""A run's plots as inline SVG: text stays text, colours are the page's own, the same results give the same bytes.

Guarantees:
- the same results give the same bytes
- a plot asks for nothing outside itself
- a name from outside cannot become markup

Matplotlib draws with one stand-in colour per role (`_INK`), which `_inline` then turns into the page's CSS
variables: one drawing serves light, dark and paper. One unit of a drawing is one CSS pixel at full width.
"""

import io
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from simulation.measured import (
    KIND_NAMES,
    METRIC,
    VIEW_NAMES,
    Estimate,
    Measured,
    MerchantUplift,
    Method,
    Round,
    Uplift,
    spoken,
)
from simulation.rounding import better_off, nearest, signed, up

WIDTH_PX = 800
RUNS = ("federated", "federated_private")
_PX_PER_INCH = 72.0
_LABEL_CHARACTERS = 28
BIN_MERCHANTS = 12
# One stand-in colour per role: never seen, each becomes `var(--role)`.
_INK = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "federated": "#040404",
    "federated_private": "#050505",
    "centralised": "#060606",
    "local_only": "#070707",
    "baseline": "#080808",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11.5,
    "text.parse_math": False,
    "text.color": _INK["ink"],
    "axes.facecolor": "none",
    "axes.edgecolor": _INK["line"],
    "axes.linewidth": 1.0,
    "axes.labelcolor": _INK["muted"],
    "axes.labelsize": 11.5,
    "axes.titlesize": 12.5,
    "axes.titlecolor": _INK["ink"],
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 12.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid.axis": "y",
    "axes.unicode_minus": True,
    "grid.color": _INK["line"],
    "grid.linewidth": 0.8,
    "xtick.color": _INK["line"],
    "xtick.labelcolor": _INK["muted"],
    "xtick.labelsize": 11.5,
    "ytick.color": _INK["line"],
    "ytick.labelcolor": _INK["muted"],
    "ytick.labelsize": 11.5,
    "ytick.major.size": 0.0,
    "xtick.major.size": 4.0,
    "figure.dpi": _PX_PER_INCH,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "path.simplify": False,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """`svg` is one `<svg>` element for a page; `summary` says in words what it shows."""

    name: str
    title: str
    summary: str
    svg: str


def plots(measured: Measured) -> dict[str, Plot]:
    """Every plot that the results allow, by name: methods, uplift, learning, epsilon."""
    made = (_methods(measured), _uplift(measured), _learning(measured), _epsilon(measured))
    return {plot.name: plot for plot in made if plot is not None}


def _methods(measured: Measured) -> Plot | None:
    """A forest plot: one row per method, one panel per view, with 95% intervals."""
    rows = [m for kind in KIND_NAMES for m in measured.of_kind(kind) if any(map(m.estimate, measured.views))]
    if not rows:
        return None
    with _figure(height_px=84 + 27 * len(rows)) as figure:
        panels = figure.subplots(1, len(measured.views), sharey=True, squeeze=False)[0]
        for axes, view in zip(panels, measured.views, strict=True):
            _forest(axes, rows, view)
        panels[0].set_yticks(range(len(rows)), [_short(m.label) for m in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        for label, method in zip(panels[0].get_yticklabels(), rows, strict=True):
            label.set_color(_INK["muted" if method.kind == "baseline" else "ink"])
        best = [f"{_view(v)}: {_best_of(rows, v)}." for v in measured.views]
        return _plot(figure, "methods", f"{METRIC} of every method, with 95% intervals", " ".join(best))


def _forest(axes: Axes, rows: Sequence[Method], view: str) -> None:
    axes.set_title(_short(_view(view)))
    axes.grid(axis="x")
    axes.tick_params(axis="x", length=0.0)
    axes.spines["bottom"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    for y, method in enumerate(rows):
        estimate = method.estimate(view)
        if estimate is None:
            continue
        colour = _INK.get(method.kind, _INK["baseline"])
        if method.kind == "federated":
            axes.axvline(estimate.mean, color=colour, linewidth=1.0, dashes=(2, 3))
        if estimate.low is not None and estimate.high is not None:
            axes.plot((estimate.low, estimate.high), (y, y), color=colour, linewidth=2.0)
        axes.plot(estimate.mean, y, "o", color=colour, markersize=7.5)


def _uplift(measured: Measured) -> Plot | None:
    """Each merchant's difference over its own model, against its number of users."""
    shown = [u for run in RUNS if (u := measured.uplift_of(run, "novel")) and u.merchants]
    if not shown:
        return None
    with _figure(height_px=330) as figure:
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        names: list[str] = []
        for axes, uplift in zip(panels, shown, strict=True):
            merchants = sorted(uplift.merchants, key=lambda m: m.users)
            _sizes(axes, merchants, _INK[uplift.method], gid=uplift.method)
            axes.set_title(_short(measured.label_of(uplift.method)))
            names.append(f"{measured.label_of(uplift.method)}: {_uplift_words(uplift)}.")
        panels[0].set_ylabel(f"{METRIC}, novel items: league − local only")
        title = "Uplift of each merchant over its own model, by merchant size"
        tips = {u.method: [_tip(m) for m in sorted(u.merchants, key=lambda m: m.users)] for u in shown}
        return _plot(figure, "uplift", title, " ".join(names), tips)


def _sizes(axes: Axes, merchants: Sequence[MerchantUplift], colour: str, gid: str) -> None:
    axes.grid(axis="y")
    axes.axhline(0.0, color=_INK["ink"], linewidth=1.0)
    users = [max(m.users, 1) for m in merchants]
    dots = axes.scatter(users, [m.difference for m in merchants], s=34, color=colour, alpha=0.45, linewidths=0)
    dots.set_gid(gid)
    bins = [merchants[i : i + BIN_MERCHANTS] for i in range(0, len(merchants), BIN_MERCHANTS)]
    if len(bins) > 1 and len(bins[-1]) < BIN_MERCHANTS:
        last = bins.pop()
        bins[-1] = [*bins[-1], *last]
    if len(bins) > 2:
        sizes = [statistics.median(max(m.users, 1) for m in b) for b in bins]
        medians = [statistics.median(m.difference for m in b) for b in bins]
        axes.plot(sizes, medians, color=colour, linewidth=2.4, marker="o", markersize=5.0)
    axes.set_xscale("log")
    ticks = [tens * step for tens in (1, 10, 100, 1000, 10_000) for step in (1, 2, 5)]
    axes.set_xticks([tick for tick in ticks if 0.9 * users[0] <= tick <= 1.1 * users[-1]])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("users of the merchant (log scale)")


def _learning(measured: Measured) -> Plot | None:
    """Quality and training loss over the rounds, one line per run."""
    runs = {run: rounds for run in RUNS if (rounds := measured.rounds_of(run))}
    panels = {
        f"{METRIC}, novel items, validation": {run: _series(r, "ndcg_novel") for run, r in runs.items()},
        "Training loss": {run: _series(r, "train_loss") for run, r in runs.items()},
    }
    drawn = {title: {k: v for k, v in s.items() if v} for title, s in panels.items() if any(s.values())}
    if not drawn:
        return None
    with _figure(height_px=280) as figure:
        words = []
        for axes, (title, series) in zip(
            figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True
        ):
            _lines(axes, title, {measured.label_of(run): (_INK[run], points) for run, points in series.items()})
            words += [
                f"{title}, {measured.label_of(run)}: {nearest(points[0][1])} to {nearest(points[-1][1])} "
                f"over {len(points)} rounds."
                for run, points in series.items()
            ]
        return _plot(figure, "learning", "Learning curve", " ".join(words))


def _lines(axes: Axes, title: str, series: dict[str, tuple[str, list[tuple[int, float]]]]) -> None:
    axes.set_title(title)
    axes.grid(axis="y")
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    for label, (colour, points) in series.items():
        marker = "o" if len(points) < 25 else None
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4.0, label=_short(label))
    axes.margins(y=0.18)
    axes.legend(loc="best", frameon=False, fontsize=11.5, handlelength=1.4, labelcolor=_INK["ink"])


def _epsilon(measured: Measured) -> Plot | None:
    """What the private run has spent after each round, under the budget that was promised."""
    points = _series(measured.rounds_of("federated_private"), "epsilon")
    if not points:
        return None
    promised = measured.privacy.epsilon
    with _figure(height_px=240) as figure:
        axes = figure.subplots()
        axes.grid(axis="y")
        axes.set_xlabel("round")
        axes.set_ylabel("ε spent")
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        colour = _INK["federated_private"]
        axes.plot(*zip(*points, strict=True), color=colour, drawstyle="steps-post", marker="o", markersize=4.0)
        top = max(e for _, e in points)
        if promised is not None:
            axes.axhline(promised, color=_INK["ink"], linewidth=1.0, dashes=(4, 3))
            place = (0.0, promised)
            budget = f"budget ε = {up(promised, 2)}"
            axes.annotate(
                budget,
                place,
                (2, 6),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                color=_INK["ink"],
            )
        axes.set_ylim(0.0, 1.2 * max(top, promised or 0.0))
        words = f"After round {points[-1][0]} the private run has spent ε = {up(points[-1][1], 2)}."
        return _plot(figure, "epsilon", "Privacy spent, round by round", words)


@contextmanager
def _figure(height_px: int) -> Iterator[Figure]:
    with mpl.rc_context(_STYLE):
        size = (WIDTH_PX / _PX_PER_INCH, height_px / _PX_PER_INCH)
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.06, wspace=0.03)  # type: ignore[union-attr, call-arg]
        yield figure


def _plot(figure: Figure, name: str, title: str, summary: str, tips: dict[str, list[str]] | None = None) -> Plot:
    drawn = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):  # several drawings share a page, and so its ids
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return Plot(name, title, summary, _inline(drawn.getvalue(), name, title, summary, tips or {}))


def _inline(drawing: str, name: str, title: str, summary: str, tips: dict[str, list[str]]) -> str:
    """Matplotlib's file as one element of a page: named, described, in the page's colours and font."""
    svg = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(drawing)  # noqa: S314 - our own drawing, a moment old
    for unwanted in (f"{svg}metadata", f"{svg}defs"):  # the first defs hold one rule for every element of a page
        for element in root.findall(unwanted)[:1]:
            root.remove(element)
    for group in root.iter(f"{svg}g"):
        marks = group.findall(f".//{svg}use")
        named = tips.get(group.attrib.pop("id", ""), [])
        for mark, tip in zip(marks, named, strict=True) if named else ():
            ElementTree.SubElement(mark, f"{svg}title").text = tip
    for element in root.iter():
        style = element.attrib.get("style")
        if style is not None:
            element.set("style", _page_style(style))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"class": "plot", "id": f"plot-{name}", "role": "img"}
    root.attrib |= {"aria-labelledby": f"plot-{name}-title plot-{name}-summary"}
    heading, words = ElementTree.Element(f"{svg}title"), ElementTree.Element(f"{svg}desc")
    heading.text, words.text = title, summary
    heading.set("id", f"plot-{name}-title")
    words.set("id", f"plot-{name}-summary")
    root[0:0] = [heading, words]
    ElementTree.register_namespace("", svg[1:-1])
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return ElementTree.tostring(root, encoding="unicode")


def _page_style(style: str) -> str:
    for role, colour in _INK.items():
        style = style.replace(colour, f"var(--{role})")
    return style.replace("'DejaVu Sans'", "var(--sans)")


def _series(rounds: Sequence[Round], field: str) -> list[tuple[int, float]]:
    return [(r.number, value) for r in rounds if (value := getattr(r, field)) is not None]


def _best_of(rows: Sequence[Method], view: str) -> str:
    found: list[tuple[Method, Estimate]] = [(m, e) for m in rows if (e := m.estimate(view))]
    if not found:
        return "not measured"
    method, estimate = max(found, key=lambda pair: pair[1].mean)
    return f"highest is {method.label} with {nearest(estimate.mean)}"


def _uplift_words(uplift: Uplift) -> str:
    return f"{better_off(uplift)} merchants are better off"


def _tip(merchant: MerchantUplift) -> str:
    return f"{merchant.merchant}: {merchant.users:,} users, {signed(merchant.difference)}"


def _short(label: str) -> str:
    return label if len(label) <= _LABEL_CHARACTERS else f"{label[: _LABEL_CHARACTERS - 1]}…"


def _view(view: str) -> str:
    return VIEW_NAMES.get(view, spoken(view))
