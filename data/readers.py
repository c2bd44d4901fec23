# SPDX-License-Identifier: Apache-2.0
"""Reading a table as it is: a Parquet or CSV file, a folder of them, or a table or query of a database.

Cells are read as they stand and judged by the contract: a CSV's cells stay text (so that an id "007" keeps its
zeros), a database's types stay the database's. Files and databases are opened for reading only.

Guarantees:
- a password in a database URL appears in no message
- reading never changes the source
"""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from data.errors import ReadError
from data.sql import is_database, read_database

__all__ = ["Table", "read", "read_table"]

_CSV = (".csv", ".csv.gz", ".tsv")
_PARQUET = (".parquet", ".pq")
_KINDS = ", ".join((*_PARQUET, *_CSV))


@dataclass(frozen=True, repr=False)
class Table:
    """Rows as read, and where they come from: `files` lists (file, rows) in the order of the frame's rows."""

    source: str
    frame: pl.DataFrame
    files: tuple[tuple[str, int], ...]

    def __repr__(self) -> str:
        return f"Table(source={self.source!r}, rows={self.frame.height}, files={len(self.files)})"

    def locate(self, index: int) -> tuple[str, int]:
        """The file of the frame's row `index` (from 0), and the row's number in that file (from 1).

        A negative index means the table as a whole: the source and 0.
        """
        if index < 0:
            return self.source, 0
        for file, rows in self.files:
            if index < rows:
                return file, index + 1
            index -= rows
        raise IndexError(f"row {index} lies {index + 1} rows behind the end of {self.source}")


def read_table(source: str) -> pl.DataFrame:
    """The rows of `source`; a folder's files gain `merchant_id` from their names. Raises ReadError."""
    return read(source, merchants=True).frame


def read(source: str, *, merchants: bool = False) -> Table:
    """The rows of `source` with their origin.

    `source` is a path of a file or folder, or a URL: `duckdb:///shop.db?table=sales`, `sqlite:///shop.db?query=…`,
    `postgresql://user@host/shop?table=public.sales`. With `merchants`, files of a folder that have no column
    `merchant_id` get one: the file's name without its ending. Raises ReadError.
    """
    if is_database(source):
        label, frame = read_database(source)
        return Table(label, frame, ((label, frame.height),))
    path = Path(source)
    if not path.exists():
        raise ReadError(source, "there is no such file or folder", "Check the path")
    if not path.is_dir():
        frame = _read_file(path)
        return Table(source, frame, ((source, frame.height),))
    paths = sorted(p for p in path.iterdir() if p.name.endswith((*_PARQUET, *_CSV)) and p.name[0] != ".")
    if not paths:
        raise ReadError(source, f"the folder holds no file that ends in {_KINDS}", "Put the files there")
    frames = [_read_file(p) for p in paths]
    if merchants:
        frames = [_with_merchant(frame, p) for frame, p in zip(frames, paths, strict=True)]
    files = tuple((str(p), frame.height) for p, frame in zip(paths, frames, strict=True))
    return Table(source, _joined(source, frames), files)


def _with_merchant(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    if "merchant_id" in frame.columns:
        return frame
    ending = next(end for end in sorted((*_PARQUET, *_CSV), key=len, reverse=True) if path.name.endswith(end))
    return frame.with_columns(merchant_id=pl.lit(path.name.removesuffix(ending)))


def _joined(source: str, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    try:
        return pl.concat(frames, how="diagonal_relaxed", rechunk=False)
    except pl.exceptions.PolarsError as error:
        columns = sorted({name for frame in frames for name in frame.columns})
        raise ReadError(
            source,
            "the files of the folder give a column different types",
            "Write them all with the same types; timestamps in UTC",
            column=", ".join(name for name in columns if not _one_type(frames, name)),
        ) from error


def _one_type(frames: Sequence[pl.DataFrame], name: str) -> bool:
    try:
        pl.concat(
            [frame.select(name).clear() for frame in frames if name in frame.columns], how="diagonal_relaxed"
        )
    except pl.exceptions.PolarsError:
        return False
    return True


def _read_file(path: Path) -> pl.DataFrame:
    if not path.name.endswith((*_PARQUET, *_CSV)):
        raise ReadError(str(path), f"expected a file that ends in {_KINDS}", "Convert it or rename it")
    parquet = path.name.endswith(_PARQUET)
    try:
        return pl.read_parquet(path, glob=False) if parquet else _read_csv(path)
    except pl.exceptions.NoDataError as error:
        raise ReadError(str(path), "the file is empty", "Write a header line and rows") from error
    except (OSError, UnicodeError, pl.exceptions.PolarsError) as error:
        # Only the kind of the failure is told: a parser's message may quote cells, which are users' data.
        if not parquet and (row := _broken_row(path)):
            problem = "the row has more cells than the header, or letters that are not UTF-8"
            raise ReadError(
                str(path), problem, "Put quotes around a cell that holds the separator", row=row
            ) from error
        kind = "Parquet" if parquet else "CSV (UTF-8, one header line)"
        raise ReadError(
            str(path), f"no readable {kind} ({type(error).__name__})", "Write the file again"
        ) from error


def _read_csv(path: Path) -> pl.DataFrame:
    header = pl.read_csv(path, has_header=False, separator="\n", quote_char=None, n_rows=1).item(0, 0)
    return pl.read_csv(path, separator=_separator(str(header)), infer_schema=False)


def _separator(header: str) -> str:
    return max(",;\t", key=header.count)


def _broken_row(path: Path) -> int:
    """The number of the first row (from 1) that can't be read, 0 where the file breaks otherwise."""
    opened = gzip.open if path.name.endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8", errors="surrogateescape", newline="") as text:
            header = text.readline()
            separator = _separator(header)
            for row, cells in enumerate(csv.reader(text, delimiter=separator), start=1):
                if len(cells) > header.count(separator) + 1 or any(
                    "\udc80" <= c <= "\udcff" for c in "".join(cells)
                ):
                    return row
    except (OSError, csv.Error):
        return 0
    return 0
