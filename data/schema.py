# SPDX-License-Identifier: Apache-2.0
"""The words of the data contract: columns, types, event kinds. Nothing here knows any data set.

An event is one line: a user of a merchant did something with an item at a moment. `price` is per unit, in
the merchant's own currency; `quantity` counts units; `timestamp` is UTC. A catalogue row is one item: `name`
is for people, every column besides `item_id` and `name` is a public categorical attribute.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

import polars as pl

__all__ = [
    "EPOCH",
    "EVENT_COLUMNS",
    "EVENT_SCHEMA",
    "EVENT_TYPES",
    "ITEM_COLUMN",
    "MAX_ID_LENGTH",
    "NAME_COLUMN",
    "PURCHASES",
    "UNKNOWN",
    "Column",
    "attribute_columns",
    "conform_catalogue",
    "day_of",
]

EVENT_TYPES: tuple[str, ...] = ("view", "wishlist", "cart", "purchase", "return")
"""What a user can do with an item; the set is closed so that a typing error is found at the border."""

PURCHASES: tuple[str, ...] = ("purchase",)

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Days are counted from here: float32 then resolves 42 seconds until the year 2022 and 85 until 2044."""

MAX_ID_LENGTH = 128
"""Characters of a user's or item's id: what serving takes in a request."""

ITEM_COLUMN = "item_id"
NAME_COLUMN = "name"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the events: its type, whether it must be there, whether a cell may be empty."""

    dtype: pl.DataType
    required: bool
    nullable: bool
    default: float | None = None


EVENT_COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        "merchant_id": Column(pl.String(), required=True, nullable=False),
        "user_id": Column(pl.String(), required=True, nullable=False),
        "item_id": Column(pl.String(), required=True, nullable=False),
        "timestamp": Column(pl.Datetime("us", "UTC"), required=True, nullable=False),
        "event": Column(pl.String(), required=True, nullable=False),
        "quantity": Column(pl.Float32(), required=False, nullable=True, default=1.0),
        "price": Column(pl.Float32(), required=False, nullable=True),
        "basket_id": Column(pl.String(), required=False, nullable=True),
        "promotion": Column(pl.Boolean(), required=False, nullable=True),
    }
)

EVENT_SCHEMA = pl.Schema({name: column.dtype for name, column in EVENT_COLUMNS.items()})


def attribute_columns(catalogue: pl.DataFrame) -> tuple[str, ...]:
    """The public attributes of a catalogue, in the order of its columns."""
    return tuple(name for name in catalogue.columns if name not in (ITEM_COLUMN, NAME_COLUMN))


def conform_catalogue(catalogue: pl.DataFrame) -> pl.DataFrame:
    """A sound catalogue in final form: `item_id`, `name` (the id where there is none), text attributes.

    Blanks around ids, names and values are cut off as they are from events' ids; what is left empty is missing.
    """
    item = _text(ITEM_COLUMN)
    name = _text(NAME_COLUMN) if NAME_COLUMN in catalogue.columns else pl.lit(None, pl.String)
    columns = [item, pl.coalesce(name, item).alias(NAME_COLUMN)]
    columns += [_text(column).fill_null(UNKNOWN) for column in attribute_columns(catalogue)]
    return catalogue.select(columns)


def _text(column: str) -> pl.Expr:
    text = pl.col(column).cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text)


def day_of(moment: datetime) -> float:
    """Days (86,400 s each) from EPOCH to `moment`, which must know its time zone."""
    return (moment - EPOCH).total_seconds() / 86_400.0
