# SPDX-License-Identifier: Apache-2.0
"""Reading from a real PostgreSQL server, started for these tests where its programs are installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from data.contract import check
from data.errors import ReadError
from data.files import load_merchant
from data.readers import read_table
from tests.data.conftest import NOW

TABLE = """
CREATE SCHEMA shop;
CREATE TABLE shop."Sales" (
    user_id integer, item_id text, "timestamp" timestamptz, event text, quantity integer, price numeric(8, 2),
    basket_id uuid, promotion boolean, local timestamp
);
INSERT INTO shop."Sales" VALUES
    (7, 'a', '2024-05-01 12:00:00+02', 'purchase', 1, 2.50, NULL, true, '2024-05-01 12:00:00'),
    (8, 'b', '2024-05-02 10:00:00+00', 'view', 2, NULL, 'c0ffee00-0000-4000-8000-000000000001', NULL,
     '2024-05-01 12:00:00');
CREATE TABLE empty (user_id text);
"""


def programs() -> Path | None:
    """The folder of initdb, pg_ctl and psql, or None."""
    found = shutil.which("initdb")
    installed = [Path(found).resolve()] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    folders = [path.parent for path in installed if (path.parent / "pg_ctl").exists()]
    return folders[-1] if folders else None


def unprivileged() -> str | None:
    """Whom to run the server as: PostgreSQL refuses root. None: as we are."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), "")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    folder, user = programs(), unprivileged()
    if folder is None:
        pytest.skip("no PostgreSQL server is installed here (initdb was not found)")
    if user == "":
        pytest.skip("PostgreSQL refuses root and there is no other user to run it as")
    home = Path(tempfile.mkdtemp(prefix="hansa-pg-", dir="/tmp"))
    if user is not None:
        shutil.chown(home, user)

    def run(program: str, *words: str) -> None:
        command = [str(folder / program), *words]
        subprocess.run(command, check=True, user=user, cwd=home, timeout=60, stdout=subprocess.DEVNULL)

    data = str(home / "data")
    options = f"-c listen_addresses='' -c unix_socket_directories={home} -c fsync=off -c TimeZone=Asia/Tokyo"
    try:
        run("initdb", "-D", data, "-U", "shop", "-A", "trust", "-E", "UTF8", "--no-sync")
        run("pg_ctl", "-D", data, "-l", str(home / "log"), "-o", options, "-w", "start")
        try:
            run("psql", "-h", str(home), "-U", "shop", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-c", TABLE)
            yield f"postgresql://shop@/postgres?host={home}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home)


def test_a_table_and_a_query_of_postgresql_give_events_in_utc(server: str) -> None:
    events = load_merchant(f"{server}&table=shop.Sales")
    assert events["user_id"].to_list() == ["7", "8"]
    assert events["timestamp"].dt.to_string("%H:%M %Z").to_list() == ["10:00 UTC", "10:00 UTC"]
    assert events["price"].to_list() == [2.5, None]
    assert events["basket_id"].to_list() == [None, "c0ffee00-0000-4000-8000-000000000001"]
    assert events["promotion"].to_list() == [True, None]
    query = "SELECT * FROM shop.\"Sales\" WHERE event::text LIKE '%iew' AND \"timestamp\" > '2024-05-01 00:00:00'"
    assert_frame_equal(load_merchant(f"{server}&query={query.replace('%', '%25')}"), events[1:])


def test_a_timestamp_without_time_zone_is_a_finding(server: str) -> None:
    rows = read_table(f"{server}&table=shop.Sales").with_columns(timestamp=pl.col("local"))
    found = check(rows, None, source="shop.Sales", catalogue_source="", now=NOW)
    assert [(f.column, f.problem) for f in found] == [("timestamp", "the time zone is missing")]


def test_an_empty_table_is_a_finding(server: str) -> None:
    with pytest.raises(Exception, match="there are no rows"):
        load_merchant(f"{server}&table=empty")


@pytest.mark.parametrize("statement", ['DELETE FROM shop."Sales" RETURNING *', "CREATE TABLE t (x int)"])
def test_a_statement_that_would_write_is_refused_by_the_database(server: str, statement: str) -> None:
    with pytest.raises(ReadError, match="only reading is allowed"):
        read_table(f"{server}&query={statement}")
    assert read_table(f"{server}&table=shop.Sales").height == 2
