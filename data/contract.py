# SPDX-License-Identifier: Apache-2.0
"""The border: raw events and catalogue are judged here, once, and everything wrong is said at once.

What comes out conforms to data.schema; what does not conform never comes out. A finding names file, column and
row and never quotes a cell, since cells are users' data.

Guarantees:
- every problem of both tables is found in one check
- no finding quotes a cell
- columns outside the contract never get in
- wrong data never raise anything but ContractError
"""

from collections.abc import Callable, Iterator
from datetime import datetime

import polars as pl

from data.errors import ContractError, Finding
from data.parsing import Fault, Parsed, parse_flag, parse_id, parse_moment, parse_number
from data.schema import (
    EPOCH,
    EVENT_COLUMNS,
    EVENT_TYPES,
    ITEM_COLUMN,
    MAX_ID_LENGTH,
    NAME_COLUMN,
    attribute_columns,
)

__all__ = ["ContractError", "Finding", "check", "conform_events"]

WHOLE = -1
"""The index that stands for a table as a whole."""

Locate = Callable[[int], tuple[str, int]]

_RESERVED = ("index", "item")
_MERCHANT_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$"
_KEY = ("merchant_id", "user_id", "item_id", "timestamp", "event", "basket_id")


def check(
    events: pl.DataFrame | None,
    catalogue: pl.DataFrame | None,
    *,
    source: str | Locate,
    catalogue_source: str | Locate,
    now: datetime,
    merchants: bool = False,
) -> tuple[Finding, ...]:
    """Everything wrong with raw events and a raw catalogue, empty when sound.

    Either table may be None; without a catalogue items are not looked up. A source is a name, or tells the file
    and row number of a row of the frame (`Table.locate`). `now` is the moment after which nothing can have
    happened. `merchants` asks for a column `merchant_id`.
    """
    item_ids: Parsed | None = None
    findings: list[Finding] = []
    if catalogue is not None and ITEM_COLUMN in catalogue.columns:
        item_ids = parse_id(catalogue.get_column(ITEM_COLUMN))
    if events is not None:
        faults = _event_faults(events, _parse_events(events, merchants), item_ids, now)
        findings += [_finding(column, fault, source) for column, fault in faults]
    if catalogue is not None:
        faults = _catalogue_faults(catalogue, item_ids)
        findings += [_finding(column, fault, catalogue_source) for column, fault in faults]
    return tuple(findings)


def conform_events(events: pl.DataFrame, *, merchants: bool = False) -> pl.DataFrame:
    """Sound raw events in the contract's types and columns; only call it when `check` found nothing.

    Columns that may be missing are filled with their default (`quantity` 1, else null); `merchant_id` is there
    only with `merchants`.
    """
    parsed = _parse_events(events, merchants)
    filled = [column.values.alias(name) for name, column in parsed.items()]
    return pl.DataFrame(filled).with_columns(pl.col("quantity").fill_null(EVENT_COLUMNS["quantity"].default))


def _finding(column: str, fault: Fault, source: str | Locate) -> Finding:
    def locate(index: int) -> tuple[str, int]:
        return (source, index + 1) if isinstance(source, str) else source(index)

    if fault.rows is None:
        return Finding(locate(WHOLE)[0], column, 0, fault.problem, fault.remedy)
    first = fault.rows.arg_max()
    assert first is not None
    file, row = locate(first)
    return Finding(file, column, row, fault.problem, fault.remedy, int(fault.rows.sum()))


def _parse_events(events: pl.DataFrame, merchants: bool) -> dict[str, Parsed]:
    """Every column of the contract in its type; a column that is not there is filled with its default."""
    parsed: dict[str, Parsed] = {}
    for name, column in EVENT_COLUMNS.items():
        if name == "merchant_id" and not merchants:
            continue
        if name not in events.columns:
            parsed[name] = Parsed(pl.repeat(column.default, events.height, dtype=column.dtype, eager=True))
            continue
        raw = events.get_column(name)
        if column.dtype == pl.Boolean():
            parsed[name] = parse_flag(raw)
        elif column.dtype == pl.Float32():
            parsed[name] = parse_number(raw)
        elif isinstance(column.dtype, pl.Datetime):
            parsed[name] = parse_moment(raw)
        else:
            parsed[name] = parse_id(raw)
    return parsed


def _event_faults(
    events: pl.DataFrame, parsed: dict[str, Parsed], item_ids: Parsed | None, now: datetime
) -> Iterator[tuple[str, Fault]]:
    """Column and fault of everything that is wrong with the events, in the order of the columns."""
    if events.is_empty():
        yield "", Fault(None, "there are no rows", "Bring at least one event")
    for name, column in parsed.items():
        if name not in events.columns:
            if EVENT_COLUMNS[name].required:
                yield name, _missing(events, name)
            continue
        rules = [*column.faults]
        if not EVENT_COLUMNS[name].nullable and not any(fault.rows is None for fault in column.faults):
            blank = events.get_column(name).is_null() | _blank(events.get_column(name))
            rules.append(Fault(blank, "the cell is empty", "Fill it in or leave the row out"))
        rules += _ranges(name, column.values, item_ids, now)
        yield from ((name, fault) for fault in rules if fault.rows is None or fault.rows.any())
    yield from _duplicates(events, parsed)


def _missing(frame: pl.DataFrame, name: str) -> Fault:
    remedy = f"Add it; the columns found are {', '.join(frame.columns) or 'none'}"
    if name == "merchant_id":
        remedy = "Add it, or give a folder with one file per merchant, named after the merchant"
    return Fault(None, "the column is missing", remedy)


def _blank(column: pl.Series) -> pl.Series:
    if column.dtype != pl.String:
        return pl.repeat(False, len(column), eager=True)
    return column.str.strip_chars() == ""


def _ranges(name: str, values: pl.Series, item_ids: Parsed | None, now: datetime) -> list[Fault]:
    if name == "merchant_id":
        remedy = "Use at most 64 letters, digits, '-', '_' and '.', not beginning with '-' or '.'"
        return [Fault(~_matches(values, _MERCHANT_NAME), "the name can't name a file", remedy)]
    if name == "user_id" or (name == "item_id" and item_ids is None):
        return [_too_long(values)]
    if name == "item_id" and item_ids is not None:
        unknown = values.is_not_null() & ~values.is_in(item_ids.values.drop_nulls().implode())
        remedy = "Add it there or leave the row out"
        return [_too_long(values), Fault(unknown, "the item is not in the catalogue", remedy)]
    if name == "timestamp":
        future = (values > now).fill_null(False)
        early = (values < EPOCH).fill_null(False)
        return [
            Fault(future, f"the time lies after {now:%Y-%m-%dT%H:%M}", "Correct the clock or the time zone"),
            Fault(early, "the time lies before the year 2000", "Check the unit: seconds or milliseconds"),
        ]
    if name == "event":
        unknown = values.is_not_null() & ~values.is_in(list(EVENT_TYPES))
        return [Fault(unknown, "the event type is unknown", f"Use one of {', '.join(EVENT_TYPES)}")]
    if name == "quantity":
        bad = ~((values > 0) & values.is_finite()).fill_null(True)
        return [Fault(bad, "a quantity must be a number above 0", "Leave the row out, or use the event 'return'")]
    if name == "price":
        bad = ~((values >= 0) & values.is_finite()).fill_null(True)
        return [
            Fault(
                bad, "a price must be a number of 0 or more", "Give the price of one unit, or leave the cell empty"
            )
        ]
    return []


def _too_long(ids: pl.Series) -> Fault:
    rows = (ids.str.len_chars() > MAX_ID_LENGTH).fill_null(False)
    return Fault(rows, f"the id is longer than {MAX_ID_LENGTH} characters", "Shorten it, for example to a hash")


def _matches(values: pl.Series, pattern: str) -> pl.Series:
    return values.str.contains(pattern).fill_null(True)


def _duplicates(events: pl.DataFrame, parsed: dict[str, Parsed]) -> Iterator[tuple[str, Fault]]:
    key = [name for name in _KEY if name in parsed]
    if not all(name in events.columns for name in key if EVENT_COLUMNS[name].required):
        return
    frame = pl.DataFrame([parsed[name].values.alias(name) for name in key])
    sound = ~pl.any_horizontal(pl.col(name).is_null() for name in key if EVENT_COLUMNS[name].required)
    again = frame.select(sound & ~pl.struct(key).is_first_distinct()).to_series()
    if again.any():
        remedy = "Leave out the repetition, or add up the quantities in one row"
        yield "", Fault(again, f"the row repeats an earlier one in {', '.join(key)}", remedy)


def _catalogue_faults(catalogue: pl.DataFrame, item_ids: Parsed | None) -> Iterator[tuple[str, Fault]]:
    if catalogue.is_empty():
        yield "", Fault(None, "there are no rows", "Bring at least one item")
    if item_ids is None:
        yield ITEM_COLUMN, _missing(catalogue, ITEM_COLUMN)
    else:
        yield from ((ITEM_COLUMN, fault) for fault in item_ids.faults)
    if item_ids is not None and not item_ids.faults:
        blank = item_ids.values.is_null()
        if blank.any():
            yield ITEM_COLUMN, Fault(blank, "the cell is empty", "Fill it in or leave the row out")
        again = item_ids.values.is_not_null() & ~item_ids.values.is_first_distinct()
        if again.any():
            yield ITEM_COLUMN, Fault(again, "the item was listed before", "Keep one row per item")
        long = _too_long(item_ids.values)
        if long.rows is not None and long.rows.any():
            yield ITEM_COLUMN, long
    attributes = attribute_columns(catalogue)
    if not attributes:
        remedy = "Add at least one public attribute, such as a category: the shared model learns from these"
        yield "", Fault(None, "there is no attribute column", remedy)
    for name in (NAME_COLUMN, *attributes):
        if name in catalogue.columns:
            yield from ((name, fault) for fault in _attribute_faults(name, catalogue.get_column(name)))


def _attribute_faults(name: str, column: pl.Series) -> Iterator[Fault]:
    if name in _RESERVED:
        yield Fault(None, f"the name {name!r} is taken", "Give the attribute another name")
    if column.dtype.is_float() or column.dtype.is_decimal() or _decimal_text(column):
        remedy = "Put the values into bands as text, such as 'under 5', '5 to 20'"
        yield Fault(None, "expected categories, found decimal numbers", remedy)
    elif column.dtype.is_nested() or column.dtype in (pl.Object, pl.Binary, pl.Duration):
        yield Fault(None, f"expected text, found the type {column.dtype}", "Store one value per cell")


def _decimal_text(column: pl.Series) -> bool:
    """Whether text, as a CSV's cells are, holds nothing but numbers, and not whole ones alone."""
    if column.dtype != pl.String:
        return False
    cells = column.str.strip_chars()
    numbers = cells.filter(cells != "").cast(pl.Float64, strict=False)
    return len(numbers) > 0 and numbers.null_count() == 0 and bool((numbers % 1 != 0).any())
