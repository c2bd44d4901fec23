# SPDX-License-Identifier: Apache-2.0
"""The border finds every problem at once, names its place, and quotes nobody's data."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import files
from data.contract import check, conform_events
from data.errors import ContractError, DataError, Finding
from data.schema import EVENT_SCHEMA, MAX_ID_LENGTH
from serving.messages import Id

NOW = datetime(2024, 6, 1, tzinfo=UTC)
CATALOGUE = pl.DataFrame({"item_id": ["a", "b"], "kind": ["x", "y"]})
GOOD: dict[str, list[Any]] = {
    "merchant_id": ["m", "m", "n"],
    "user_id": ["u", "v", "u"],
    "item_id": ["a", "b", "a"],
    "timestamp": ["2024-05-01T10:00:00Z", "2024-05-02 10:00:00+02:00", "2024-05-03T10:00:00.5-0330"],
    "event": ["purchase", "view", "cart"],
    "quantity": ["1", "2.5", None],
    "price": ["0", "3.49", None],
    "promotion": ["true", "no", None],
}


def findings(changes: dict[str, Any], catalogue: pl.DataFrame | None = CATALOGUE) -> list[Finding]:
    events = pl.DataFrame({name: values for name, values in (GOOD | changes).items() if values is not None})
    return list(check(events, catalogue, source="e", catalogue_source="c", now=NOW, merchants=True))


def test_sound_events_have_no_finding_and_come_out_in_the_contracts_types() -> None:
    assert findings({}) == []
    events = conform_events(pl.DataFrame(GOOD), merchants=True)
    assert events.schema == EVENT_SCHEMA
    assert events["timestamp"].to_list() == [
        datetime(2024, 5, 1, 10, tzinfo=UTC),
        datetime(2024, 5, 2, 8, tzinfo=UTC),
        datetime(2024, 5, 3, 13, 30, 0, 500_000, tzinfo=UTC),
    ]
    assert events["quantity"].to_list() == [1.0, 2.5, 1.0]
    assert events["promotion"].to_list() == [True, False, None]


T = "2024-05-01T10:00:00Z"
WRONG: dict[str, tuple[dict[str, Any], str, int, int, str]] = {
    # name: (changed columns, column of the finding, row, count, words of the problem)
    "missing column": ({"user_id": None}, "user_id", 0, 0, "column is missing"),
    "missing merchant": ({"merchant_id": None}, "merchant_id", 0, 0, "column is missing"),
    "wrong id type": ({"user_id": [1.0, 2.0, 3.0]}, "user_id", 0, 0, "found the type Float64"),
    "wrong list type": ({"item_id": [["a"], ["b"], ["a"]]}, "item_id", 0, 0, "found the type List"),
    "wrong time type": ({"timestamp": [1, 2, 3]}, "timestamp", 0, 0, "found the type Int64"),
    "wrong number type": ({"price": [NOW, NOW, NOW]}, "price", 0, 0, "found the type Datetime"),
    "wrong flag type": ({"promotion": [0.5, 0.5, 1.0]}, "promotion", 0, 0, "found the type Float64"),
    "long user id": ({"user_id": ["u", "v" * 129, "w" * 128]}, "user_id", 2, 1, "longer than 128 characters"),
    "null id": ({"user_id": ["u", None, None]}, "user_id", 2, 2, "cell is empty"),
    "blank id": ({"user_id": ["u", "v", "  "]}, "user_id", 3, 1, "cell is empty"),
    "null time": ({"timestamp": [None, T, T]}, "timestamp", 1, 1, "cell is empty"),
    "all null": ({"event": [None, None, None]}, "event", 1, 3, "cell is empty"),
    "unknown item": ({"item_id": ["a", "zz", "a"]}, "item_id", 2, 1, "not in the catalogue"),
    "unknown event": ({"event": ["view", "view", "buy"]}, "event", 3, 1, "event type is unknown"),
    "naive text": ({"timestamp": [T, "2024-05-01 10:00:00", T]}, "timestamp", 2, 1, "time zone is missing"),
    "naive day": ({"timestamp": [T, T, "2024-05-01"]}, "timestamp", 3, 1, "time zone is missing"),
    "naive type": ({"timestamp": [datetime(2024, 5, day) for day in (1, 2, 3)]}, "timestamp", 0, 0, "time zone"),
    "no time": ({"timestamp": [T, "soon", "2024-02-30T00:00:00Z"]}, "timestamp", 2, 2, "no time"),
    "future": ({"timestamp": [T, T, "2024-06-01T00:00:01Z"]}, "timestamp", 3, 1, "lies after 2024-06-01"),
    "too early": ({"timestamp": ["1970-01-20T00:00:00Z", T, T]}, "timestamp", 1, 1, "before the year 2000"),
    "no number": ({"quantity": ["1", "two", "1,5"]}, "quantity", 2, 2, "no number"),
    "zero quantity": ({"quantity": [1, 0, -1]}, "quantity", 2, 2, "number above 0"),
    "infinite quantity": ({"quantity": [1.0, float("inf"), 1.0]}, "quantity", 2, 1, "number above 0"),
    "negative price": ({"price": [1.0, -0.01, 1.0]}, "price", 2, 1, "0 or more"),
    "nan price": ({"price": [float("nan"), 1.0, 1.0]}, "price", 1, 1, "0 or more"),
    "no flag": ({"promotion": ["yes", "perhaps", "no"]}, "promotion", 2, 1, "neither true nor false"),
    "merchant no file name": ({"merchant_id": ["m", "../m", "n"]}, "merchant_id", 2, 1, "can't name a file"),
    "duplicate": (
        {"merchant_id": ["m"] * 3, "user_id": ["u"] * 3, "item_id": ["a"] * 3, "event": ["view"] * 3,
         "timestamp": [T, "2024-05-01T12:00:00+02:00", T]}, "", 2, 2, "repeats an earlier one"),
    "no rows": ({name: [] for name in GOOD}, "", 0, 0, "there are no rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_one_problem_gives_one_finding_with_its_place(name: str) -> None:
    changes, column, row, count, problem = WRONG[name]
    found = [f for f in findings(changes) if f.file == "e"]
    assert [(f.column, f.row, f.count) for f in found] == [(column, row, count)], found
    assert problem in found[0].problem
    assert found[0].remedy


WRONG_CATALOGUE: dict[str, tuple[dict[str, Any], str, int, str]] = {
    "no item id": ({"kind": ["x"]}, "item_id", 0, "column is missing"),
    "duplicate": ({"item_id": ["a", "b", "a"], "kind": ["x", "y", "z"]}, "item_id", 3, "listed before"),
    "null": ({"item_id": ["a", "b", None], "kind": ["x", "y", "z"]}, "item_id", 3, "cell is empty"),
    "type": ({"item_id": [1.5, 2.5], "kind": ["x", "y"]}, "item_id", 0, "found the type Float64"),
    "no attribute": ({"item_id": ["a", "b"], "name": ["A", "B"]}, "", 0, "no attribute column"),
    "numbers": ({"item_id": ["a", "b"], "kind": [0.5, 1.5]}, "kind", 0, "expected categories"),
    "numbers as text": ({"item_id": ["a", "b", "c"], "kind": ["2", " 1.5", ""]}, "kind", 0, "expected categories"),
    "duration": ({"item_id": ["a", "b"], "kind": [timedelta(1)] * 2}, "kind", 0, "expected text"),
    "list": ({"item_id": ["a", "b"], "kind": [["x"], ["y"]]}, "kind", 0, "expected text"),
    "reserved": ({"item_id": ["a", "b"], "index": ["x", "y"]}, "index", 0, "is taken"),
}


@pytest.mark.parametrize("name", WRONG_CATALOGUE)
def test_one_problem_of_the_catalogue_gives_one_finding(name: str) -> None:
    columns, column, row, problem = WRONG_CATALOGUE[name]
    found = [f for f in findings({}, pl.DataFrame(columns)) if f.file == "c"]
    assert [(f.column, f.row) for f in found] == [(column, row)]
    assert problem in found[0].problem


@pytest.mark.parametrize("values", [["1", "2"], ["1.5", "large"], [1, 2], [True, False], ["", None]])
def test_whole_numbers_flags_and_words_are_categories(values: list[Any]) -> None:
    assert findings({}, CATALOGUE.head(2).with_columns(size=pl.Series(values))) == findings({}, CATALOGUE.head(2))


def test_an_empty_catalogue_is_said_to_be_empty() -> None:
    found = findings({}, CATALOGUE.clear())
    assert ("c", "there are no rows") in [(f.file, f.problem) for f in found]


def test_every_problem_of_both_tables_is_found_in_one_check() -> None:
    changes: dict[str, Any] = {
        "user_id": None,
        "timestamp": ["2024-05-01T10:00:00", "soon", "2030-01-01T00:00:00Z"],
        "event": ["purchase", "buy", None],
        "quantity": ["0", "x", "1"],
        "price": ["-1", "1", "1"],
    }
    found = findings(changes, pl.DataFrame({"item_id": ["a", "a"], "kind": [0.5, 1.5]}))
    assert [(f.file, f.column, f.row) for f in found] == [
        ("e", "user_id", 0),
        ("e", "item_id", 2),
        ("e", "timestamp", 1),
        ("e", "timestamp", 2),
        ("e", "timestamp", 3),
        ("e", "event", 3),
        ("e", "event", 2),
        ("e", "quantity", 2),
        ("e", "quantity", 1),
        ("e", "price", 1),
        ("c", "item_id", 2),
        ("c", "kind", 0),
    ]


def test_no_finding_quotes_a_cell() -> None:
    canary = "canary-7f3a"
    columns = {name: [canary, canary, canary] for name in GOOD}
    found = check(pl.DataFrame(columns), CATALOGUE, source="e", catalogue_source="c", now=NOW, merchants=True)
    assert len(found) == 6
    assert canary not in str(ContractError(found))


def test_columns_outside_the_contract_never_get_in() -> None:
    raw = pl.DataFrame(GOOD | {"e_mail": ["a@b", "c@d", "e@f"]})
    assert conform_events(raw, merchants=True).columns == list(EVENT_SCHEMA)
    assert "merchant_id" not in conform_events(raw).columns


def test_the_error_counts_and_lists_its_findings() -> None:
    error = ContractError(tuple(findings({"event": ["buy", "buy", "view"], "price": ["-1", "1", "1"]})))
    text = str(error)
    assert "2 problems" in text
    assert "e, column event, row 1 and 1 more: the event type is unknown. Use one of view" in text
    assert isinstance(error, DataError)


cells = st.one_of(
    st.none(),
    st.text(max_size=12),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.booleans(),
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
    st.just("2024-05-01T10:00:00Z"),
    st.sampled_from(["a", "b", "purchase", "1.5"]),
    st.binary(max_size=4),
    st.lists(st.integers(0, 3), max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_wrong_data_never_raise_anything_but_contract_error(data: st.DataObject) -> None:
    def column(rows: int) -> pl.Series:
        kind = data.draw(cells)
        values = [kind, *(data.draw(st.sampled_from([kind, None])) for _ in range(rows - 1))][:rows]
        return pl.Series(values)

    rows = data.draw(st.integers(0, 4))
    names = data.draw(st.lists(st.sampled_from([*EVENT_SCHEMA, "extra"]), unique=True))
    events = pl.DataFrame({name: column(rows) for name in names})
    items = data.draw(st.integers(0, 3))
    columns = data.draw(st.lists(st.sampled_from(["item_id", "name", "kind"]), unique=True))
    catalogue = pl.DataFrame({name: column(items) for name in columns})
    found = check(events, catalogue, source="e", catalogue_source="c", now=NOW, merchants=True)
    if not found:
        assert conform_events(events, merchants=True).schema == EVENT_SCHEMA


def test_an_items_id_longer_than_serving_takes_is_found_in_both_tables() -> None:
    long = "a" * 129
    found = findings({"item_id": [long, "b", long]}, pl.DataFrame({"item_id": [long, "b"], "kind": ["x", "y"]}))
    assert [(f.file, f.column, f.row, f.count) for f in found] == [("e", "item_id", 1, 2), ("c", "item_id", 1, 1)]
    alone = check(
        pl.DataFrame(GOOD | {"item_id": [long, "b", "a"]}), None, source="e", catalogue_source="c", now=NOW
    )
    assert [f.column for f in alone] == ["item_id"]


def test_an_id_of_the_contract_is_one_that_serving_takes() -> None:
    msgspec.convert("a" * MAX_ID_LENGTH, Id)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert("a" * (MAX_ID_LENGTH + 1), Id)


def test_an_unreadable_source_is_a_finding_beside_the_others(tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.csv"
    catalogue.write_text("item_id,kind\na,x\na,y\n")
    with pytest.raises(ContractError) as caught:
        files.load(str(tmp_path / "none.csv"), str(catalogue))
    assert [f.problem for f in caught.value.findings] == [
        "there is no such file or folder",
        "the item was listed before",
    ]
