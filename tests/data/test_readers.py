# SPDX-License-Identifier: Apache-2.0
"""Files, folders and embedded databases give the same rows; what can't be read says why."""

import sqlite3
from pathlib import Path

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from data.contract import conform_events
from data.errors import ReadError
from data.files import load, load_merchant
from data.readers import read, read_table

ROWS = """user_id,item_id,timestamp,event,quantity,price
007,a,2024-05-01T10:00:00Z,purchase,1,2.5
u8,b,2024-05-02T10:00:00+02:00,view,2,
"""


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "north.csv"
    path.write_text(ROWS)
    return path


def test_csv_cells_stay_text_so_that_ids_keep_their_zeros(csv: Path) -> None:
    assert read_table(str(csv))["user_id"].to_list() == ["007", "u8"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_are_recognised(csv: Path, separator: str) -> None:
    expected = read_table(str(csv))
    csv.write_text(ROWS.replace(",", separator))
    assert_frame_equal(read_table(str(csv)), expected)


def test_parquet_and_csv_give_the_same_events(csv: Path, tmp_path: Path) -> None:
    expected = load_merchant(str(csv))
    expected.write_parquet(tmp_path / "typed.parquet")
    assert_frame_equal(load_merchant(str(tmp_path / "typed.parquet")), expected)


def test_a_folder_names_each_merchant_by_its_file_and_knows_each_rows_file(csv: Path, tmp_path: Path) -> None:
    (tmp_path / "south.csv").write_text(ROWS)
    (tmp_path / ".hidden.csv").write_text("x\n1\n")
    (tmp_path / "notes.txt").write_text("nothing")
    table = read(str(tmp_path), merchants=True)
    assert table.frame["merchant_id"].to_list() == ["north", "north", "south", "south"]
    assert table.locate(2) == (str(tmp_path / "south.csv"), 1)
    assert table.locate(-1) == (str(tmp_path), 0)
    with pytest.raises(IndexError):
        table.locate(4)


def test_a_finding_in_a_folder_names_the_file_and_its_own_row(csv: Path, tmp_path: Path) -> None:
    (tmp_path / "south.csv").write_text(ROWS.replace("view", "look"))
    catalogue = tmp_path / "items"
    catalogue.mkdir()
    (catalogue / "c.csv").write_text("item_id,kind\na,x\nb,y\n")
    with pytest.raises(Exception, match=r"south\.csv, column event, row 2: "):
        load(str(tmp_path), str(catalogue), min_users=1)


def test_a_compressed_csv_is_read(csv: Path, tmp_path: Path) -> None:
    import gzip

    folder = tmp_path / "packed"
    folder.mkdir()
    with gzip.open(folder / "north.csv.gz", "wt") as file:
        file.write(ROWS)
    assert read_table(str(folder))["merchant_id"].to_list() == ["north", "north"]


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "no parquet": ("x.parquet", b"PAR1 nothing", "no readable Parquet"),
    "ragged csv": ("x.csv", b"a,b\n1,2\nsecret,4,5\n", "row 2: the row has more cells than the header"),
    "not utf-8": ("x.csv", b"a,b\n\xff\xfe\xfa,2\n", "row 1: .* letters that are not UTF-8"),
    "empty": ("x.csv", b"", "the file is empty"),
    "other kind": ("x.xlsx", b"PK", "expected a file that ends in"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_read_says_why_and_quotes_nothing(name: str, tmp_path: Path) -> None:
    file, content, problem = BROKEN[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ReadError, match=problem) as caught:
        read_table(str(tmp_path / file))
    assert "secret" not in str(caught.value)


def test_a_folder_of_disagreeing_or_no_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="holds no file"):
        read_table(str(tmp_path))
    pl.DataFrame({"x": [True]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"x": [["list"]]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(ReadError, match="column x: the files of the folder give a column different types"):
        read_table(str(tmp_path))


@pytest.fixture
def sqlite(csv: Path, tmp_path: Path) -> str:
    rows = read_table(str(csv)).rows()
    with sqlite3.connect(tmp_path / "shop ü.db") as connection:
        connection.execute('CREATE TABLE "my sales" (user_id, item_id, timestamp, event, quantity, price)')
        connection.executemany('INSERT INTO "my sales" VALUES (?,?,?,?,?,?)', rows)
    connection.close()
    return f"sqlite:///{tmp_path}/shop ü.db"


@pytest.fixture
def duck(csv: Path, tmp_path: Path) -> str:
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        connection.execute(
            "CREATE TABLE sales AS SELECT * REPLACE (CAST(timestamp AS TIMESTAMPTZ) AS timestamp) "
            f"FROM read_csv('{csv}', all_varchar = true)"
        )
    return f"duckdb:///{tmp_path}/shop.duckdb"


def test_a_table_and_a_query_of_sqlite_give_the_files_events(sqlite: str, csv: Path) -> None:
    expected = load_merchant(str(csv))
    assert_frame_equal(load_merchant(f"{sqlite}?table=my sales"), expected)
    only = f"{sqlite}?query=SELECT * FROM \"my sales\" WHERE event = 'view'"
    assert_frame_equal(load_merchant(only), expected[1:])


def test_a_table_and_a_query_of_duckdb_give_the_files_events(duck: str, csv: Path) -> None:
    expected = load_merchant(str(csv))
    assert_frame_equal(load_merchant(f"{duck}?table=main.sales"), expected)
    assert_frame_equal(load_merchant(f"{duck}?query=SELECT * FROM sales WHERE event = 'view'"), expected[1:])


def test_a_statement_that_would_write_is_refused_by_the_database(sqlite: str, duck: str, csv: Path) -> None:
    for url, table in ((sqlite, '"my sales"'), (duck, "sales")):
        for statement in (f"DELETE FROM {table} RETURNING *", f"DROP TABLE {table}", "CREATE TABLE t (x int)"):
            with pytest.raises(ReadError, match="only reading is allowed"):
                read_table(f"{url}?query={statement}")
    assert len(read_table(f"{duck}?table=sales")) == len(read_table(f"{sqlite}?table=my sales")) == 2


def test_reading_never_changes_the_source(sqlite: str, duck: str, csv: Path) -> None:
    paths = [csv, Path(sqlite.removeprefix("sqlite:///")), Path(duck.removeprefix("duckdb:///"))]
    before = [path.read_bytes() for path in paths]
    for source in (str(csv), f"{sqlite}?table=my sales", f"{duck}?table=sales"):
        read_table(source)
    assert [path.read_bytes() for path in paths] == before
    assert sorted(csv.parent.iterdir()) == sorted(paths)


WRONG_URLS: dict[str, tuple[str, str]] = {
    "no table": ("duckdb:///{folder}/shop.duckdb", "exactly one of table= and query="),
    "both": ("duckdb:///{folder}/shop.duckdb?table=a&query=b", "exactly one of table= and query="),
    "twice": ("duckdb:///{folder}/shop.duckdb?table=a&table=b", "exactly one of table= and query="),
    "no file": ("sqlite:///{folder}/none.db?table=a", "there is no database file"),
    "no such table": ("duckdb:///{folder}/shop.duckdb?table=none", "the database refused"),
    "no dialect": ("nosuch://host/db?table=a", "the database refused"),
    "bad url": ("://?table=a", "this is no database URL"),
    "no driver": ("mysql+pymysql://host/db?table=a", "is not installed"),
}


@pytest.mark.parametrize("name", WRONG_URLS)
def test_a_wrong_database_url_says_what_is_wrong(name: str, duck: str, tmp_path: Path) -> None:
    url, problem = WRONG_URLS[name]
    with pytest.raises(ReadError, match=problem):
        read_table(url.format(folder=tmp_path))
    assert not (tmp_path / "none.db").exists()


def test_a_password_in_a_database_url_appears_in_no_message() -> None:
    for url in (
        "postgresql://me:hunter2@127.0.0.1:1/shop?table=t",
        "postgresql://me:hunter2@127.0.0.1:1/shop",
        "nosuch://me:hunter2@host/db?table=t",
        "postgresql://me:hunter2@host:port/db?table=t",
    ):
        with pytest.raises(ReadError) as caught:
            read_table(url)
        assert "hunter2" not in str(caught.value)


def test_the_text_form_of_a_table_shows_no_row(csv: Path) -> None:
    assert "007" not in repr(read(str(csv)))
    assert conform_events(read_table(str(csv))).height == 2
