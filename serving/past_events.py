# SPDX-License-Identifier: Apache-2.0
"""A shop's past events, brought into the event log before it serves, so that known users have their history.

The file is the one that the merchant trains on: Parquet or CSV in the form of the data contract. Other columns are
left out.

Guarantees:
    loading the same file again changes nothing
    no cell is quoted
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from serving.errors import ConfigError
from serving.event_log import EventLog, LoggedEvent, to_microseconds
from serving.messages import Event

_COLUMNS = tuple(field for field in Event.__struct_fields__ if field != "event_id")
_REQUIRED = ("user_id", "item_id", "event", "timestamp")
_MERCHANT = "merchant_id"
_BATCH = 5_000
_WORDS = {"yes": "true", "no": "false"}
_REMEDY = "`hansa doctor HOME` lists everything that is wrong with the merchant's events"


def load_events(path: Path, log: EventLog) -> tuple[int, int]:
    """Store a file's events; returns how many are new, and how many there were.

    Raises:
        ConfigError: no such file, a missing column, several merchants, or a row that breaks the contract. The
            rows before it are stored; repeat the call with the file mended.
        EventLogError: the disk refused.
    """
    received_us = to_microseconds(datetime.now(UTC))
    new = rows = 0
    events = _events(path, received_us)
    while batch := list(islice(events, _BATCH)):
        new += sum(seq is not None for seq in log.append(batch))
        rows += len(batch)
    return new, rows


def _events(path: Path, received_us: int) -> Iterator[LoggedEvent]:
    merchants: set[Any] = set()
    for number, row in enumerate(_rows(path), start=1):
        merchants.add(row.pop(_MERCHANT, None))
        if len(merchants) > 1:
            raise ConfigError(f"{path}, row {number}: expected one merchant's events, found several merchants'")
        logged = LoggedEvent.of(_event(row, f"{path}, row {number}"), received_us)
        if logged.timestamp_us > received_us:
            raise ConfigError(f"{path}, row {number}, column timestamp: the time lies ahead. {_REMEDY}")
        yield logged


def _event(row: dict[str, Any], place: str) -> Event:
    """One row as an event; text that a CSV holds is read as the type that the column has."""
    found = {name: value for name, value in row.items() if value not in (None, "")}
    try:
        if isinstance(found.get("timestamp"), str):
            found["timestamp"] = datetime.fromisoformat(found["timestamp"].replace(" +", "+").replace(" -", "-"))
    except ValueError:
        raise ConfigError(f"{place}, column timestamp: the cell is no time. {_REMEDY}") from None
    if absent := [name for name in _REQUIRED if name not in found]:
        raise ConfigError(f"{place}, column {absent[0]}: the cell is empty. {_REMEDY}")
    if isinstance(flag := found.get("promotion"), str):
        found["promotion"] = _WORDS.get(flag.lower(), flag.lower())
    try:
        return msgspec.convert(found, Event, strict=False)
    except msgspec.ValidationError as wrong:
        column = re.search(r"`\$\.(\w+)`", str(wrong))
        where = f", column {column[1]}" if column else ""
        raise ConfigError(f"{place}{where}: the cell breaks the data contract. {_REMEDY}") from None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows as read: ids as text, blanks around text cut off."""
    try:
        for batch in _batches(path):
            if absent := [name for name in _REQUIRED if name not in batch.schema.names]:
                raise ConfigError(f"{path}: the columns {', '.join(absent)} are missing. {_REMEDY}")
            kept = [name for name in (*_COLUMNS, _MERCHANT) if name in batch.schema.names]
            columns = [_plain(batch.column(name), name).to_pylist() for name in kept]
            for cells in zip(*columns, strict=True):
                yield {
                    name: cell.strip() if isinstance(cell, str) else cell
                    for name, cell in zip(kept, cells, strict=True)
                }
    except (OSError, UnicodeError, pa.ArrowException) as error:
        # The kind alone: a parser's message may quote cells.
        raise ConfigError(f"{path}: expected a Parquet or CSV file, found {type(error).__name__}") from None


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    if path.name.endswith((".parquet", ".pq")):
        yield from pa_parquet.ParquetFile(path).iter_batches(batch_size=_BATCH)
        return
    with pa.input_stream(path) as stream:
        header = stream.read(1 << 16).split(b"\n", 1)[0].decode("utf-8-sig")
    separator = max(",;\t", key=header.count)
    text = dict.fromkeys((name.strip('"\r ') for name in header.split(separator)), pa.string())
    yield from pa_csv.open_csv(
        path,
        parse_options=pa_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(column_types=text),
    )


def _plain(column: pa.Array, name: str) -> pa.Array:
    if pa.types.is_timestamp(column.type) and column.type.tz:
        return column.cast(pa.timestamp("us", "UTC"), safe=False)
    if name.endswith("_id") and not pa.types.is_string(column.type):
        return column.cast(pa.string())
    return column
