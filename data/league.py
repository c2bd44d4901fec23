# SPDX-License-Identifier: Apache-2.0
"""A league: merchants, each with its own events, over one public catalogue.

Only the simulation sees a whole league; in a deployment each merchant holds its own events alone. Events are
kept sorted by merchant, so that a merchant's events are a slice and cost no copy.

Guarantees:
- a merchant's events hold no row of another merchant
- the text form of a league shows counts and no rows
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import polars as pl

from data.errors import PreparationError
from data.schema import EVENT_SCHEMA, conform_catalogue

__all__ = ["League", "SkippedMerchant", "build_league"]


@dataclass(frozen=True, slots=True)
class SkippedMerchant:
    """A merchant of the source that has too few users to take part."""

    merchant_id: str
    users: int


@dataclass(frozen=True, repr=False)
class League:
    """Events (EVENT_SCHEMA, sorted by merchant, user, time), the catalogue, and who takes part.

    `catalogue` has `item_id`, `name` and text attributes. `skipped` names the merchants that were left out.
    """

    name: str
    catalogue: pl.DataFrame
    merchants: tuple[str, ...]
    events: pl.DataFrame
    skipped: tuple[SkippedMerchant, ...] = ()

    def __repr__(self) -> str:
        return (
            f"League(name={self.name!r}, merchants={len(self.merchants)}, events={self.events.height}, "
            f"items={self.catalogue.height}, skipped={len(self.skipped)})"
        )

    @cached_property
    def _slices(self) -> Mapping[str, tuple[int, int]]:
        runs = self.events.get_column("merchant_id").rle().struct.unnest()
        lengths = runs.get_column("len").cast(pl.Int64)
        starts = lengths.cum_sum() - lengths
        return {m: (s, n) for m, s, n in zip(runs.get_column("value"), starts, lengths, strict=True)}

    def merchant_events(self, merchant_id: str) -> pl.DataFrame:
        """The events of one merchant; KeyError with the name when it takes no part."""
        if merchant_id not in self._slices:
            raise KeyError(f"{merchant_id!r} is none of the {len(self.merchants)} merchants of {self.name!r}")
        return self.events.slice(*self._slices[merchant_id])

    @cached_property
    def end(self) -> datetime:
        """The first full hour after the last event: the exclusive end of what the league knows."""
        last = self.events.get_column("timestamp").max()
        assert isinstance(last, datetime)
        return last.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)

    def users_by_merchant_count(self) -> dict[int, int]:
        """How many users are customers of 1, 2, 3 … merchants: what a privacy statement must add up.

        Users are one person when their `user_id` is equal; a league without shared ids has only the key 1.
        """
        pairs = self.events.select("merchant_id", "user_id").unique()
        counts = pairs.group_by("user_id").len("merchants").group_by("merchants").len("users").sort("merchants")
        return {int(merchants): int(users) for merchants, users in counts.iter_rows()}


def build_league(name: str, events: pl.DataFrame, catalogue: pl.DataFrame, *, min_users: int) -> League:
    """A league of the merchants that have at least `min_users` users; the others are listed as skipped.

    `events` must have passed the contract (columns of EVENT_SCHEMA). Raises PreparationError when no merchant
    is large enough.
    """
    sizes = events.group_by("merchant_id").agg(users=pl.col("user_id").n_unique()).sort("merchant_id")
    chosen = sizes.filter(pl.col("users") >= min_users)
    if chosen.is_empty():
        largest = max(sizes.get_column("users"), default=0)
        raise PreparationError(
            f"No merchant of {name!r} has at least {min_users} users (of {sizes.height} merchants the "
            f"largest has {largest}). Lower data.min_users or bring more events."
        )
    kept = events.select(EVENT_SCHEMA.names()).join(chosen.select("merchant_id"), on="merchant_id", how="semi")
    skipped = sizes.filter(pl.col("users") < min_users)
    return League(
        name=name,
        catalogue=conform_catalogue(catalogue),
        merchants=tuple(chosen.get_column("merchant_id")),
        events=kept.sort("merchant_id", "user_id", "timestamp", "item_id"),
        skipped=tuple(SkippedMerchant(merchant, users) for merchant, users in skipped.iter_rows()),
    )
