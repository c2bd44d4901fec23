# SPDX-License-Identifier: Apache-2.0
"""One table or query of a database, read-only: DuckDB or SQLite embedded, PostgreSQL and its kin over the wire.

The URL is SQLAlchemy's plus exactly one of `table=` and `query=`: `duckdb:///shop.db?table=sales`. SQLAlchemy
connects and Polars fetches; DuckDB is asked over its own connection, which Polars reads through Arrow.

Guarantees:
- a statement that would write is refused by the database
- a password in a database URL appears in no message
"""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import UUID

import polars as pl

from data.errors import ReadError

if TYPE_CHECKING:
    import sqlalchemy

__all__ = ["is_database", "read_database"]

_REMEDY_URL = "Write DIALECT://[USER:PASSWORD@HOST]/DATABASE?table=NAME, or ?query=SELECT … with %20 for blanks"


def is_database(source: str) -> bool:
    """Whether a source is a database URL rather than a path."""
    return "://" in source


def read_database(source: str) -> tuple[str, pl.DataFrame]:
    """The rows, and the URL without its password (for messages). Raises ReadError."""
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(source)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        scheme = source.partition("://")[0]
        raise ReadError(f"{scheme}://…", "this is no database URL", _REMEDY_URL) from error
    label = url.render_as_string(hide_password=True)
    asked = {key: url.query[key] for key in ("table", "query") if key in url.query}
    if len(asked) != 1 or not isinstance(value := next(iter(asked.values())), str):
        raise ReadError(label, "expected exactly one of table= and query= in the URL", _REMEDY_URL)
    url = url.difference_update_query(("table", "query"))
    embedded = url.get_backend_name() in ("duckdb", "sqlite")
    if embedded and not Path(url.database or "").is_file():
        raise ReadError(label, f"there is no database file {url.database!r}", "Check the path")
    try:
        if url.get_backend_name() == "duckdb":
            return label, _from_duckdb(label, str(url.database), value, is_table="table" in asked)
        return label, _from_sqlalchemy(url, value, is_table="table" in asked)
    except ImportError as error:
        driver = error.name or "the driver"
        raise ReadError(label, f"{driver} is not installed", f"Run: pip install {driver}") from error
    except (sqlalchemy.exc.SQLAlchemyError, pl.exceptions.PolarsError) as error:
        raise _refused(label, getattr(error, "orig", None) or error) from error


def _refused(label: str, error: BaseException) -> ReadError:
    remedy = "Check the address, the name of the table or the query; only reading is allowed"
    return ReadError(label, f"the database refused ({type(error).__name__})", remedy)


def _from_duckdb(label: str, database: str, value: str, *, is_table: bool) -> pl.DataFrame:
    import duckdb

    query = "SELECT * FROM " + ".".join(_quoted(part) for part in value.split(".")) if is_table else value  # noqa: S608 - quoted
    try:
        with duckdb.connect(database, read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return pl.read_database(query, connection)
    except duckdb.Error as error:
        raise _refused(label, error) from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _from_sqlalchemy(url: "sqlalchemy.URL", value: str, *, is_table: bool) -> pl.DataFrame:
    import sqlalchemy

    options: dict[str, object] = {}
    if url.get_backend_name() == "sqlite":
        path = quote(str(Path(str(url.database)).absolute()))
        url = url.set(database=f"file:{path}").update_query_dict({"mode": "ro", "uri": "true"})
    elif url.get_backend_name() == "postgresql":
        options["postgresql_readonly"] = True
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, hide_parameters=True)
    quoted = engine.dialect.identifier_preparer.quote
    query = "SELECT * FROM " + ".".join(quoted(part) for part in value.split(".")) if is_table else value  # noqa: S608 - quoted
    with engine.connect().execution_options(**options) as connection:
        return _uuids_as_text(pl.read_database(query, connection, infer_schema_length=None))


def _uuids_as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns of UUIDs, which Polars holds as Python objects, as text."""
    columns = []
    for column in frame.select(pl.col(pl.Object)).get_columns():
        values = column.to_list()
        if all(value is None or isinstance(value, UUID) for value in values):
            text = [None if value is None else str(value) for value in values]
            columns.append(pl.Series(column.name, text, dtype=pl.String))
    return frame.with_columns(columns)
