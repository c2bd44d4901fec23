# SPDX-License-Identifier: Apache-2.0
"""A run's tables, once as plain rows for a page and once drawn in a terminal by rich.

Guarantees:
- a terminal and a page show the same rows
- a name cannot style or move the terminal
- a lead is marked only where its paired interval excludes zero

A width (±) is the larger side of the interval, rounded up. A missing value is an en dash, never a zero.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from simulation.measured import (
    KIND_NAMES,
    METRIC,
    UNTRAINED_MIX,
    VIEW_MEANINGS,
    VIEW_NAMES,
    Estimate,
    Measured,
    Method,
    Uplift,
    read,
    spoken,
)
from simulation.rounding import better_off, interval, nearest, signed, up
from simulation.verdicts import promised

METRICS = (METRIC, "hit_rate@10", "recall@20", "coverage@10")
MISSING = "–"
_LEADERS = {"federated": "federated", "federated_private": "private"}
_KIND_STYLES = {"federated": "bold blue", "federated_private": "bold dark_orange", "centralised": "green"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One value: `value` alone in a narrow place, `value` with `interval` or `width` where there is room."""

    value: str
    interval: str = ""
    width: str = ""
    best: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    kind: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    foot: str = ""


def method_tables(measured: Measured) -> tuple[Table, ...]:
    """One table per view: every method with every metric of METRICS and how far the federated model leads it.

    The best of a metric is marked, and so is a lead (with `*`) whose paired interval excludes zero.
    """
    return tuple(_method_table(measured, view) for view in measured.views)


def uplift_table(measured: Measured) -> Table:
    """One row per method and view: what the league gives over each merchant's own model."""
    header = ("Method and view", "Difference", "Relative", "Median", "Worst", "Better off")
    note = "Per merchant, over its own local-only model; differences are rounded down."
    return Table("Uplift per merchant", note, header, tuple(_uplift_row(measured, u) for u in measured.uplift))


def merchant_table(uplift: Uplift) -> Table:
    """One row per merchant, the worst first."""
    header = ("Merchant", "Users", "Federated", "Local only", "Difference")
    rows = tuple(
        Row(
            m.merchant,
            "worse" if m.difference < 0.0 else "",
            (Cell(f"{m.users:,}"), _plain(m.federated), _plain(m.local_only), Cell(signed(m.difference))),
        )
        for m in sorted(uplift.merchants, key=lambda m: m.difference)
    )
    return Table("Every merchant", f"{uplift.metric}, the worst first.", header, rows)


def privacy_line(measured: Measured) -> str:
    """What is promised, in the words of the run's own plan; or that nothing is."""
    privacy = measured.privacy
    if not privacy.private:
        return f"Privacy: none. {privacy.statement}".rstrip()
    if not promised(privacy):
        return f"Privacy: {privacy.mode} noise, but ε or δ is not stated: treat it as not private."
    return f"Privacy: {privacy.statement or 'the run states its guarantee only in figures.'}"


def print_tables(results: Mapping[str, Any], console: Console) -> None:
    """The end of a run in the terminal. Raises ValueError for another format."""
    measured = read(results)
    for table in method_tables(measured):
        console.print(_rich(table))
    if measured.uplift:
        console.print(_rich(uplift_table(measured)))
    console.print(Text(privacy_line(measured)))


def _method_table(measured: Measured, view: str) -> Table:
    methods = tuple(m for kind in KIND_NAMES for m in measured.of_kind(kind))
    methods += tuple(m for m in measured.methods if m.kind not in KIND_NAMES)
    leader = _leader(measured, view)
    header, rows = ["Method", *METRICS], []
    if leader:
        header.insert(2, f"Δ {_LEADERS[leader.kind]}")
    for method in methods:
        cells = [_cell(method.estimate(view, m), _best(methods, view, m), own=m == METRIC) for m in METRICS]
        if leader:
            cells.insert(1, _lead_cell(measured, leader, method, view))
        rows.append(Row(method.label, method.kind, tuple(cells)))
    title, meaning = VIEW_NAMES.get(view, spoken(view)), VIEW_MEANINGS.get(view, "")
    return Table(title, meaning, tuple(header), tuple(rows), " ".join(_foot(leader, methods)))


def _leader(measured: Measured, view: str) -> Method | None:
    """The federated model, or the private one where it ran alone; None where no pair was measured."""
    compared = {p.method for p in measured.paired if (p.view, p.metric) == (view, METRIC)}
    found = (m for kind in _LEADERS for m in measured.of_kind(kind) if m.name in compared)
    return next(found, None)


def _foot(leader: Method | None, methods: tuple[Method, ...]) -> Iterator[str]:
    if leader:
        yield f"Δ: {leader.label} minus this row, {METRIC}, paired over the same users; *: interval without zero."
    for method in methods:
        if method.name == UNTRAINED_MIX:
            yield f"{method.label}: our own formula, which needs no training."


def _lead_cell(measured: Measured, leader: Method, row: Method, view: str) -> Cell:
    """An advantage is rounded down; against a private row it is what privacy costs, and is rounded up."""
    ahead = measured.paired_of(leader.name, row.name, view)
    if ahead:
        return _marked(_signed_cell(ahead.difference, 1.0, 4, ""), ahead.difference)
    cost = measured.paired_of(row.name, leader.name, view)
    if cost:
        turned = -cost.difference
        return _marked(_signed_cell(turned, 1.0, 4, "", rounded=_signed_up), turned)
    return Cell(MISSING)


def _marked(cell: Cell, lead: Estimate) -> Cell:
    apart = lead.low is not None and lead.high is not None and (lead.low > 0.0 or lead.high < 0.0)
    return replace(cell, value=f"{cell.value}*") if apart else cell


def _signed_up(value: float, digits: int) -> str:
    rounded = up(value, digits)
    return f"+{rounded}" if value > 0.0 else rounded


def _best(methods: tuple[Method, ...], view: str, metric: str) -> float | None:
    return max((e.mean for m in methods if (e := m.estimate(view, metric))), default=None)


def _cell(estimate: Estimate | None, best: float | None, *, own: bool) -> Cell:
    if estimate is None:
        return Cell(MISSING)
    width = ""
    if own and estimate.low is not None and estimate.high is not None:
        width = up(max(estimate.mean - estimate.low, estimate.high - estimate.mean))
    return Cell(nearest(estimate.mean), interval(estimate), width, best=estimate.mean == best)


def _uplift_row(measured: Measured, uplift: Uplift) -> Row:
    method = next((m for m in measured.methods if uplift.method in (m.name, m.kind)), None)
    view = VIEW_NAMES.get(uplift.view, spoken(uplift.view))
    name = f"{measured.label_of(uplift.method)}, {view[:1].lower() + view[1:]}, {uplift.metric}"
    cells = (
        _signed_cell(uplift.paired, 1.0, 4, ""),
        _signed_cell(uplift.relative, 100.0, 1, "%"),
        Cell(MISSING) if uplift.median is None else Cell(signed(uplift.median)),
        Cell(MISSING) if uplift.worst is None else Cell(signed(uplift.worst)),
        Cell(better_off(uplift) or MISSING),
    )
    return Row(name, method.kind if method else uplift.method, cells)


def _signed_cell(
    estimate: Estimate | None,
    scale: float,
    digits: int,
    unit: str,
    rounded: Callable[[float, int], str] = signed,
) -> Cell:
    if estimate is None:
        return Cell(MISSING)
    value = f"{rounded(scale * estimate.mean, digits)}{unit}"
    if estimate.low is None or estimate.high is None:
        return Cell(value)
    low, high = scale * estimate.low, scale * estimate.high
    width = up(max(scale * estimate.mean - low, high - scale * estimate.mean), digits)
    return Cell(value, f"{rounded(low, digits)} to {rounded(high, digits)}", width)


def _plain(value: float | None) -> Cell:
    return Cell(MISSING) if value is None else Cell(nearest(value))


def _rich(table: Table) -> RichTable:
    drawn = RichTable(
        title=Text.assemble((table.title, "bold"), (f": {table.note}", "dim")),
        title_justify="left",
        caption=Text(table.foot, "dim") if table.foot else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    drawn.add_column(Text(table.header[0]), overflow="fold")
    for name in table.header[1:]:
        drawn.add_column(Text(name.replace("@", "\n@")), justify="right", no_wrap=True)
    for row in table.rows:
        style = _KIND_STYLES.get(row.kind, "")
        drawn.add_row(Text(row.name, style=style), *(_rich_cell(cell) for cell in row.cells))
    return drawn


def _rich_cell(cell: Cell) -> Text:
    drawn = Text(cell.value, style="bold" if cell.best else "")
    if cell.width:
        drawn.append(f" ±{cell.width}", style="dim")
    return drawn
