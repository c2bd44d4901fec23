# SPDX-License-Identifier: Apache-2.0
"""One bounded history of each user: the unit that privacy protects is one row of these arrays.

A user is one customer of one merchant. A history holds their most recent purchases before a cut, oldest
first, at most `max_events` of them: nobody weighs more, however much they bought. Arrays are ragged: row u is
`values[offsets[u]:offsets[u + 1]]`. Two views of the test window. All: the next basket (the items of the user's
first basket in the window). Novel: what was bought in the window and never before at this merchant.

Guarantees:
- a user has at most max_events events in a history whatever they bought
- no event at or after the cut is in a history
- the same events in any order give the same histories
- novel targets were never bought before the cut, bounded history or not
- the text form shows counts and no user
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.catalogue import Vocabulary
from data.schema import EPOCH, PURCHASES, day_of

__all__ = ["EvaluationSet", "Ragged", "UserHistories", "evaluation_set", "histories", "merge_histories"]


@dataclass(frozen=True, eq=False, repr=False)
class Ragged:
    """Rows of unequal length: `offsets` int64 [U+1], `items` int32 [E] (1 … V, ascending within a row)."""

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"Ragged(rows={len(self)}, items={len(self.items)})"

    def row(self, user: int) -> NDArray[np.int32]:
        """The items of one user."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]


@dataclass(frozen=True, eq=False, repr=False)
class UserHistories:
    """U users' bounded histories, oldest event first.

    `offsets` int64 [U+1]; per event: `items` int32 [E] in 1 … V, `days` float32 [E] (days since 2000-01-01
    UTC, good to 42 s), `quantities` float32 [E] (units, > 0). `user_ids` are sorted.
    """

    user_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    days: NDArray[np.float32]
    quantities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.user_ids)

    def __repr__(self) -> str:
        return f"UserHistories(users={len(self)}, events={len(self.items)})"

    def lengths(self) -> NDArray[np.int64]:
        """How many events each user has, int64 [U]."""
        return np.diff(self.offsets)

    def take(self, users: Sequence[int] | NDArray[np.int64]) -> "UserHistories":
        """The histories of some users (rows, in this order; the same row may come twice)."""
        rows = np.asarray(users, dtype=np.int64)
        events, offsets = _gather(self.offsets, rows)
        return UserHistories(
            user_ids=tuple(self.user_ids[row] for row in rows),
            offsets=offsets,
            items=self.items[events],
            days=self.days[events],
            quantities=self.quantities[events],
        )


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationSet:
    """Users with a history before the cut and a purchase in the window; row u is one user in every field.

    `histories` end at the cut. `targets_all`: items of the next basket, at least one per user.
    `targets_novel`: items bought in the window and never before; a user whose row is empty is not in that view.
    `seen`: every item ever bought before the cut (not bounded): what the novel view must not recommend.
    `cut_day`: days since 2000-01-01 UTC.
    """

    histories: UserHistories
    targets_all: Ragged
    targets_novel: Ragged
    seen: Ragged
    cut_day: float

    def __len__(self) -> int:
        return len(self.histories)

    def __repr__(self) -> str:
        return f"EvaluationSet(users={len(self)}, cut_day={self.cut_day:.3f})"


def histories(events: pl.DataFrame, vocabulary: Vocabulary, *, until: datetime, max_events: int) -> UserHistories:
    """The bounded histories of one merchant's users: purchases of known items before `until`.

    Ties in time are ordered by item; a user without a purchase is left out. Raises ValueError when
    `max_events` is below 1, when `until` has no time zone, or when `events` holds several merchants (a user is
    a user of one merchant; `merge_histories` pools).
    """
    return _histories(_purchases(events, vocabulary, until), max_events)


def merge_histories(parts: Iterable[UserHistories]) -> UserHistories:
    """The users of several merchants one after the other; a person at two merchants stays two users."""
    parts = tuple(parts)
    ends = np.cumsum([0, *(len(part.items) for part in parts)], dtype=np.int64)
    offsets = [part.offsets[1:] + start for part, start in zip(parts, ends, strict=False)]
    return UserHistories(
        user_ids=tuple(user for part in parts for user in part.user_ids),
        offsets=np.concatenate([np.zeros(1, np.int64), *offsets]),
        items=np.concatenate([np.zeros(0, np.int32), *(part.items for part in parts)]),
        days=np.concatenate([np.zeros(0, np.float32), *(part.days for part in parts)]),
        quantities=np.concatenate([np.zeros(0, np.float32), *(part.quantities for part in parts)]),
    )


def evaluation_set(
    events: pl.DataFrame, vocabulary: Vocabulary, *, cut: datetime, end: datetime, max_events: int
) -> EvaluationSet:
    """Histories until `cut` and both views' targets from the window [cut, end), for one merchant.

    A basket is a `basket_id`; where there is none, what a user bought on one day (UTC). Raises ValueError as
    `histories` does and when the window is empty (`end` not after `cut`).
    """
    if end <= cut:
        raise ValueError(f"an evaluation window must end after its cut, found {cut} … {end}")
    bought = _purchases(events, vocabulary, end)
    past, window = bought.filter(pl.col("timestamp") < cut), bought.filter(pl.col("timestamp") >= cut)
    users = past.select("user_id").unique().join(window, on="user_id", how="semi").sort("user_id")
    rows = users.with_row_index("row")
    past = past.join(rows, on="user_id")
    seen = past.select("row", "item").unique()
    window = window.join(rows, on="user_id")
    first = pl.col("basket").sort_by("timestamp", "basket").first().over("row")
    basket = window.filter(pl.col("basket") == first)
    novel = window.select("row", "item").unique().join(seen, on=["row", "item"], how="anti")
    return EvaluationSet(
        histories=_histories(past, max_events),
        targets_all=_ragged(basket.select("row", "item").unique(), len(users)),
        targets_novel=_ragged(novel, len(users)),
        seen=_ragged(seen, len(users)),
        cut_day=day_of(cut),
    )


def _purchases(events: pl.DataFrame, vocabulary: Vocabulary, until: datetime) -> pl.DataFrame:
    if until.tzinfo is None:
        raise ValueError("the cut has no time zone; give it in UTC")
    if "merchant_id" in events.columns and events.get_column("merchant_id").n_unique() > 1:
        raise ValueError("events of several merchants; make the histories of one merchant at a time")
    day = pl.col("timestamp").dt.date().cast(pl.String)
    return (
        events.filter((pl.col("timestamp") < until) & pl.col("event").is_in(PURCHASES))
        .join(vocabulary.index_frame, on="item_id")
        .select(
            "user_id",
            "timestamp",
            "item",
            pl.col("quantity").fill_null(1.0),
            basket=pl.coalesce("basket_id", day) if "basket_id" in events.columns else day,
        )
    )


def _histories(purchases: pl.DataFrame, max_events: int) -> UserHistories:
    if max_events < 1:
        raise ValueError(f"max_events bounds a user's contribution and must be at least 1, found {max_events}")
    recent = (
        purchases.sort("user_id", "timestamp", "item", "quantity")
        .with_columns(age=pl.int_range(pl.len(), 0, -1).over("user_id"))
        .filter(pl.col("age") <= max_events)
    )
    users = recent.get_column("user_id").rle().struct.unnest()
    microseconds = (recent.get_column("timestamp") - EPOCH).dt.total_microseconds()
    return UserHistories(
        user_ids=tuple(users.get_column("value")),
        offsets=np.concatenate(
            [np.zeros(1, np.int64), np.cumsum(users.get_column("len").to_numpy(), dtype=np.int64)]
        ),
        items=recent.get_column("item").to_numpy(),
        days=(microseconds.to_numpy() / 86_400e6).astype(np.float32),
        quantities=recent.get_column("quantity").cast(pl.Float32).to_numpy(),
    )


def _ragged(pairs: pl.DataFrame, n_users: int) -> Ragged:
    """Distinct (row, item) pairs as ragged rows 0 … n_users-1."""
    ordered = pairs.sort("row", "item")
    lengths = np.bincount(ordered.get_column("row").to_numpy(), minlength=n_users)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    return Ragged(offsets, ordered.get_column("item").to_numpy())


def _gather(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which events the chosen rows hold, and the offsets of the result."""
    lengths = (offsets[1:] - offsets[:-1])[rows]
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    shift = np.repeat(offsets[rows] - ends[:-1], lengths)
    return np.arange(ends[-1], dtype=np.int64) + shift, ends
