# SPDX-License-Identifier: Apache-2.0
"""A shop's past events become its users' histories before it serves."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import pytest

from serving.errors import ConfigError
from serving.event_log import EventLog
from serving.past_events import load_events

HEADER = "merchant_id,user_id,item_id,timestamp,event,quantity,price,basket_id,promotion,colour\n"
ROWS = (
    "north,u1,007,2024-01-08T09:12:00Z,purchase,1,4.50,b1,yes,red\n"
    "north,u1,mug,2024-02-03 18:40+01:00,purchase,,,,,\n"
    "north, u2 ,mug,2024-02-03T18:40:00 +0100,view,2,,,false,\n"
)
CANARY = "canary7f3a"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    opened = EventLog(tmp_path / "serving" / "events.sqlite")
    yield opened
    opened.close()


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["events.csv", "events.csv.gz", "events.tsv", "semicolons.csv", "events.parquet"])
def test_past_events_are_the_users_histories(tmp_path: Path, log: EventLog, name: str) -> None:
    text = (HEADER + ROWS).replace(",", {"events.tsv": "\t", "semicolons.csv": ";"}.get(name, ","))
    path = written(tmp_path, name, text)
    if name.endswith(".parquet"):
        source = str(written(tmp_path, "text.csv", text))
        ids = pa_csv.ConvertOptions(column_types={"item_id": pa.string(), "timestamp": pa.string()})
        pa_parquet.write_table(pa_csv.read_csv(source, convert_options=ids), path)
    assert load_events(path, log) == (3, 3)
    assert [entry.item_id for entry in log.recent("u1", 10).bought] == ["007", "mug"]
    assert [entry.item_id for entry in log.recent("u2", 10).interest] == ["mug"]


def test_typed_parquet_is_read_as_it_is(tmp_path: Path, log: EventLog) -> None:
    moments = pa.array([1_700_000_000_123_456_789], pa.timestamp("ns", "Europe/Berlin"))
    table = {"user_id": [7], "item_id": [9], "timestamp": moments, "event": ["purchase"], "quantity": [2]}
    pa_parquet.write_table(pa.table(table), tmp_path / "events.parquet")
    assert load_events(tmp_path / "events.parquet", log) == (1, 1)
    assert log.recent("7", 1).bought[0].timestamp_us == 1_700_000_000_123_456


def test_loading_the_same_file_again_changes_nothing(tmp_path: Path, log: EventLog) -> None:
    path = written(tmp_path, "events.csv", HEADER + ROWS)
    assert load_events(path, log) == (3, 3)
    assert load_events(path, log) == (0, 3)
    assert log.count() == 3


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (f"north,u1,mug,2024-01-08T09:12:00Z,{CANARY},1,,,,", "row 4, column event: the cell breaks"),
        (f"north,u1,mug,{CANARY},purchase,1,,,,", "row 4, column timestamp: the cell is no time"),
        ("north,u1,mug,2024-01-08T09:12:00,purchase,1,,,,", "row 4, column timestamp: the cell breaks"),
        ("north,u1,mug,2099-01-08T09:12:00Z,purchase,1,,,,", "row 4, column timestamp: the time lies ahead"),
        (f"north,u1,mug,2024-01-08T09:12:00Z,purchase,{CANARY},,,,", "row 4, column quantity: the cell breaks"),
        ("north,u1,mug,2024-01-08T09:12:00Z,purchase,-1,,,,", "row 4, column quantity: the cell breaks"),
        ("north,,mug,2024-01-08T09:12:00Z,purchase,1,,,,", "row 4, column user_id: the cell is empty"),
        (f"{CANARY},u1,mug,2024-01-08T09:12:00Z,purchase,1,,,,", "row 4: expected one merchant's events"),
        (f"{CANARY},u1", "expected a Parquet or CSV file, found ArrowInvalid"),
    ],
)
def test_a_wrong_row_is_named_by_file_row_and_column_and_no_cell_is_quoted(
    tmp_path: Path, log: EventLog, row: str, words: str
) -> None:
    path = written(tmp_path, "events.csv", HEADER + ROWS + row + "\n")
    with pytest.raises(ConfigError) as refused:
        load_events(path, log)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)
    assert CANARY not in str(refused.value)


def test_what_is_no_file_of_events_is_refused(tmp_path: Path, log: EventLog) -> None:
    nothing = written(tmp_path, "nothing.parquet", "nothing")
    for path, words in (
        (tmp_path / "absent.csv", "FileNotFoundError"),
        (nothing, "expected a Parquet or CSV file"),
        (written(tmp_path, "few.csv", "user_id,item_id\nu,i\n"), "the columns event, timestamp are missing"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_events(path, log)
