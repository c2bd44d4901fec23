# SPDX-License-Identifier: Apache-2.0
"""From cells as read to the contract's types, one column at a time, with what is wrong named row by row.

Each function takes a column of any type and returns it in the contract's type (null where a cell is no good)
and the faults found: a fault marks its rows, or the whole column when the type itself is wrong. Nothing raises.
"""

from dataclasses import dataclass

import polars as pl

__all__ = ["Fault", "Parsed", "parse_flag", "parse_id", "parse_moment", "parse_number"]

_OFFSET = r"(Z|[+-]\d{2}(:?\d{2})?)"
_MOMENT = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?"
_NAIVE = _MOMENT + r"$|^\d{4}-\d{2}-\d{2}$"
_ZONE_PROBLEM = "the time zone is missing"
_ZONE_REMEDY = "Give UTC or an offset, such as 2024-05-01T14:03:00Z or 2024-05-01T16:03:00+02:00"
_TIME_REMEDY = "Write times as 2024-05-01T14:03:00Z, in Parquet and SQL as a timestamp with time zone"


@dataclass(frozen=True, repr=False)
class Fault:
    """`rows` marks the offending rows (Boolean), None means the column as a whole."""

    rows: pl.Series | None
    problem: str
    remedy: str


@dataclass(frozen=True, repr=False)
class Parsed:
    """A column in the contract's type, and its faults."""

    values: pl.Series
    faults: tuple[Fault, ...] = ()


def parse_id(column: pl.Series) -> Parsed:
    """Text or whole numbers as text; blank cells become null."""
    kind = column.dtype
    if kind.is_integer() or kind in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        text = column.cast(pl.String).str.strip_chars()
        return Parsed(text.set(text == "", None))
    return _wrong_type(column, pl.String(), "text or whole numbers", "Store it as text")


def parse_number(column: pl.Series) -> Parsed:
    """float32; text is read as a number with a decimal point."""
    if column.dtype.is_numeric() or column.dtype == pl.Null:
        return Parsed(column.cast(pl.Float64).cast(pl.Float32))
    if column.dtype != pl.String:
        return _wrong_type(column, pl.Float32(), "numbers", "Store it as a number")
    text = column.str.strip_chars()
    text = text.set(text == "", None)
    values = text.cast(pl.Float64, strict=False)
    bad = text.is_not_null() & values.is_null()
    fault = Fault(bad, "the cell is no number", "Write a number with a decimal point, such as 2 or 3.49")
    return Parsed(values.cast(pl.Float32), (fault,))


def parse_flag(column: pl.Series) -> Parsed:
    """Boolean; text and numbers are read as true/false, yes/no or 1/0."""
    if column.dtype in (pl.Boolean, pl.Null):
        return Parsed(column.cast(pl.Boolean))
    if not (column.dtype == pl.String or column.dtype.is_integer()):
        return _wrong_type(column, pl.Boolean(), "true or false", "Store it as a Boolean")
    text = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    text = text.set(text == "", None)
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    values = text.replace_strict(words, default=None, return_dtype=pl.Boolean)
    bad = text.is_not_null() & values.is_null()
    return Parsed(values, (Fault(bad, "the cell is neither true nor false", "Write true or false"),))


def parse_moment(column: pl.Series) -> Parsed:
    """Datetime in UTC, microseconds; a time without a zone is refused, never guessed."""
    target = pl.Datetime("us", "UTC")
    kind = column.dtype
    if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
        return Parsed(column.dt.convert_time_zone("UTC").cast(target))
    if isinstance(kind, pl.Datetime) or kind == pl.Date:
        return Parsed(_nulls(column, target), (Fault(None, _ZONE_PROBLEM, _ZONE_REMEDY),))
    if kind == pl.Null:
        return Parsed(_nulls(column, target))
    if kind != pl.String:
        return _wrong_type(column, target, "a time with a time zone", _TIME_REMEDY)
    text = column.str.strip_chars()
    text = text.set(text == "", None)
    naive = text.str.contains(_NAIVE).fill_null(False)
    zoned = text.set(~text.str.contains(_MOMENT + r" ?" + _OFFSET + "$"), None)
    values = _zoned_text(zoned).cast(target)
    bad = text.is_not_null() & values.is_null() & ~naive
    faults = Fault(naive, _ZONE_PROBLEM, _ZONE_REMEDY), Fault(bad, "the cell is no time", _TIME_REMEDY)
    return Parsed(values, faults)


def _zoned_text(text: pl.Series) -> pl.Series:
    """ISO 8601 with an offset, brought into one form and read; null where the calendar has no such moment."""
    form = (
        text.str.replace(" ", "T", literal=True)
        .str.replace(" ", "", literal=True)
        .str.replace(r"Z$", "+00:00")
        .str.replace(r"([+-]\d{2})$", "${1}:00")
        .str.replace(r"([+-]\d{2})(\d{2})$", "${1}:${2}")
        .str.replace(r"T(\d{2}:\d{2})([+-])", "T${1}:00${2}")
    )
    return form.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False)


def _wrong_type(column: pl.Series, target: pl.DataType, expected: str, remedy: str) -> Parsed:
    problem = f"expected {expected}, found the type {column.dtype}"
    return Parsed(_nulls(column, target), (Fault(None, problem, remedy),))


def _nulls(column: pl.Series, target: pl.DataType) -> pl.Series:
    return pl.Series(column.name, [None], dtype=target).new_from_index(0, len(column))
