# SPDX-License-Identifier: Apache-2.0
"""Anybody's own data as a league, and one merchant's own events; and a league written as a file per merchant.

Guarantees:
- a folder of merchants appears whole or not at all
- what is wrong with either source is said in one error
"""

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from data.contract import check, conform_events
from data.errors import ContractError, Finding, PreparationError, ReadError
from data.league import League, build_league
from data.readers import Table, read

__all__ = ["load", "load_merchant", "write_merchants"]

MERCHANT = "merchant_id"
NAME = "files"
MIN_USERS = 2


def load(
    events: str, catalogue: str, *, min_users: int = MIN_USERS, now: datetime | None = None, name: str = NAME
) -> League:
    """A league from two sources (`data.readers.read` tells what a source is).

    The events carry `merchant_id`, or are a folder with one file per merchant. Merchants with fewer than
    `min_users` users are left out and listed in `League.skipped`. Raises ContractError with every finding, and
    PreparationError when no merchant is left.
    """
    event_table = _read_or_finding(events, merchants=True)
    catalogue_table = _read_or_finding(catalogue, merchants=False)
    unreadable = [table for table in (event_table, catalogue_table) if isinstance(table, Finding)]
    rows = event_table.frame if isinstance(event_table, Table) else None
    items = catalogue_table.frame if isinstance(catalogue_table, Table) else None
    findings = check(
        rows,
        items,
        source=event_table.locate if isinstance(event_table, Table) else events,
        catalogue_source=catalogue_table.locate if isinstance(catalogue_table, Table) else catalogue,
        now=now or datetime.now(UTC),
        merchants=True,
    )
    if rows is None or items is None or findings:
        raise ContractError((*unreadable, *findings))
    return build_league(name, conform_events(rows, merchants=True), items, min_users=min_users)


def load_merchant(events: str, *, now: datetime | None = None, may_be_empty: bool = False) -> pl.DataFrame:
    """One merchant's own events in the contract's form, without `merchant_id`; items are not looked up.

    `may_be_empty`: no rows are no finding. Raises ContractError with every finding, ReadError when there is
    nothing to read, PreparationError when the rows are several merchants': a node must never train on another
    merchant's customers.
    """
    table = read(events)
    if MERCHANT in table.frame.columns and (several := table.frame.get_column(MERCHANT).n_unique()) > 1:
        raise PreparationError(
            f"The events are the rows of {several} merchants. Give the rows of this merchant alone."
        )
    findings = check(table.frame, None, source=table.locate, catalogue_source="", now=now or datetime.now(UTC))
    if findings and not (may_be_empty and table.frame.is_empty()):
        raise ContractError(findings)
    return conform_events(table.frame)


def write_merchants(league: League, folder: Path) -> None:
    """Write each merchant's events to `folder/<merchant_id>.parquet`, in one pass over the league.

    The folder must not exist; it appears when every file is in it. Afterwards a merchant is read alone
    (`load_merchant`), so that memory holds one merchant at a time however many there are.
    """
    if folder.exists():
        raise PreparationError(f"{folder} exists already. Remove it or choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for merchant in league.merchants:
            league.merchant_events(merchant).write_parquet(partial / f"{merchant}.parquet")
        partial.chmod(0o700)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _read_or_finding(source: str, *, merchants: bool) -> Table | Finding:
    try:
        return read(source, merchants=merchants)
    except ReadError as error:
        return error.finding
