# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: which items the league's model knows, and their public attributes as small whole numbers.

Item 0 is padding and everything unknown; items 1 … V are sorted by `item_id`, so that the same catalogue
gives the same numbers everywhere. In each attribute code 0 is "unknown" and the values follow in alphabetical
order. No attribute is known here by name: they are the catalogue's columns.

Which items have enough buyers depends on users. Counted in the clear over a league it is treated as public
knowledge; a deployment that can't do so takes a public catalogue instead (`min_buyers=0`).

Guarantees:
- only events before the cut decide which items are in
- the codes do not depend on the order of the catalogue's rows
- a saved vocabulary loads equal
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import PreparationError, ReadError
from data.schema import ITEM_COLUMN, NAME_COLUMN, PURCHASES, UNKNOWN, attribute_columns, conform_catalogue

__all__ = ["Vocabulary", "build_vocabulary"]

INDEX_COLUMN = "index"


@dataclass(frozen=True, eq=False, repr=False)
class Vocabulary:
    """Items 1 … V and their attributes.

    `item_ids`, `names`: V strings, entry i-1 belongs to item i. `attribute_names`: A columns.
    `attribute_values`: per column its values, code c stands for value c, value 0 is "unknown".
    `codes_VA`: int32 [V+1, A], row 0 is zeros.
    """

    item_ids: tuple[str, ...]
    names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    attribute_values: tuple[tuple[str, ...], ...]
    codes_VA: NDArray[np.int32]  # noqa: N815 - V, A name its axes

    @property
    def size(self) -> int:
        """V: how many items, padding not counted."""
        return len(self.item_ids)

    def __repr__(self) -> str:
        columns = zip(self.attribute_names, self.attribute_values, strict=True)
        attributes = ", ".join(f"{name}: {len(values)}" for name, values in columns)
        return f"Vocabulary(items={self.size}, attribute values={{{attributes}}})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        same_words = (self.item_ids, self.names, self.attribute_names, self.attribute_values) == (
            other.item_ids,
            other.names,
            other.attribute_names,
            other.attribute_values,
        )
        return same_words and np.array_equal(self.codes_VA, other.codes_VA)

    __hash__ = None  # type: ignore[assignment]  # holds an array

    @cached_property
    def index_frame(self) -> pl.DataFrame:
        """`item_id` (text) and `item` (int32, 1 … V): join events with this."""
        items = pl.int_range(1, self.size + 1, dtype=pl.Int32, eager=True)
        return pl.DataFrame({ITEM_COLUMN: pl.Series(self.item_ids, dtype=pl.String), "item": items})

    def frame(self) -> pl.DataFrame:
        """The table that is saved and released: `index`, `item_id`, `name`, then the attributes as text."""
        columns: dict[str, pl.Series] = {
            INDEX_COLUMN: pl.int_range(1, self.size + 1, dtype=pl.Int32, eager=True),
            ITEM_COLUMN: pl.Series(self.item_ids, dtype=pl.String),
            NAME_COLUMN: pl.Series(self.names, dtype=pl.String),
        }
        for column, (name, values) in enumerate(zip(self.attribute_names, self.attribute_values, strict=True)):
            columns[name] = pl.Series(values, dtype=pl.String).gather(self.codes_VA[1:, column])
        return pl.DataFrame(columns)

    def save(self, path: Path) -> None:
        """Write `frame()` as Parquet; the file appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                self.frame().write_parquet(file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """What `save` wrote; raises ReadError when the file is none or is no vocabulary."""
        try:
            frame = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            remedy = "Save the vocabulary again or give the path of a saved one"
            raise ReadError(str(path), f"no readable Parquet file ({type(error).__name__})", remedy) from error
        expected = [INDEX_COLUMN, ITEM_COLUMN, NAME_COLUMN]
        in_order = frame.columns[:3] == expected and frame[INDEX_COLUMN].to_list() == list(
            range(1, frame.height + 1)
        )
        if not in_order:
            problem = f"expected the columns {expected} with index 1 … V first, found {frame.columns[:3]}"
            raise ReadError(str(path), problem, "Save the vocabulary again")
        return _coded(frame.drop(INDEX_COLUMN), min_value_items=1)


def build_vocabulary(
    catalogue: pl.DataFrame,
    events: pl.DataFrame,
    *,
    until: datetime,
    min_buyers: int = 25,
    min_merchants: int = 1,
    min_value_items: int = 1,
    attributes: Sequence[str] | None = None,
) -> Vocabulary:
    """The items of `catalogue` that at least `min_buyers` users bought before `until`, coded.

    A buyer is a `user_id`: who buys at two merchants counts once. `min_merchants` keeps only what that many
    merchants sell (a sum that only one of them contributes to tells about it). Attribute values carried by
    fewer than `min_value_items` items become "unknown". `attributes` picks columns of the catalogue, None
    takes all. `min_buyers=0` takes the whole catalogue and looks at no event. Raises PreparationError when no
    item is left or a column does not exist.
    """
    rows = conform_catalogue(catalogue)
    chosen = attribute_columns(rows) if attributes is None else tuple(attributes)
    if missing := sorted(set(chosen) - set(attribute_columns(rows))):
        raise PreparationError(
            f"The catalogue has no attribute {', '.join(missing)}; it has {', '.join(attribute_columns(rows))}."
        )
    if min_buyers > 0:
        bought = _bought(events, until, min_buyers, min_merchants)
        rows = rows.join(bought, on=ITEM_COLUMN, how="semi")
    if rows.is_empty():
        raise PreparationError(
            f"No item of the catalogue has at least {min_buyers} buyers at {min_merchants} merchants before "
            f"{until:%Y-%m-%d}. Lower data.min_buyers or bring more events."
        )
    return _coded(rows.select(ITEM_COLUMN, NAME_COLUMN, *chosen).sort(ITEM_COLUMN), min_value_items)


def _bought(events: pl.DataFrame, until: datetime, min_buyers: int, min_merchants: int) -> pl.DataFrame:
    merchants = pl.col("merchant_id").n_unique() if "merchant_id" in events.columns else pl.lit(1)
    return (
        events.lazy()
        .filter((pl.col("timestamp") < until) & pl.col("event").is_in(PURCHASES))
        .group_by(ITEM_COLUMN)
        .agg(buyers=pl.col("user_id").n_unique(), merchants=merchants)
        .filter((pl.col("buyers") >= min_buyers) & (pl.col("merchants") >= min_merchants))
        .select(ITEM_COLUMN)
        .collect()
    )


def _coded(rows: pl.DataFrame, min_value_items: int) -> Vocabulary:
    names = attribute_columns(rows)
    codes = np.zeros((rows.height + 1, len(names)), dtype=np.int32)
    values: list[tuple[str, ...]] = []
    for column, name in enumerate(names):
        counts = rows.get_column(name).value_counts(name="items").filter(pl.col(name) != UNKNOWN)
        known = counts.filter(pl.col("items") >= min_value_items).get_column(name).sort()
        values.append((UNKNOWN, *known))
        code = pl.int_range(1, known.len() + 1, dtype=pl.Int32, eager=True)
        codes[1:, column] = rows.get_column(name).replace_strict(known, code, default=0, return_dtype=pl.Int32)
    return Vocabulary(
        item_ids=tuple(rows.get_column(ITEM_COLUMN)),
        names=tuple(rows.get_column(NAME_COLUMN)),
        attribute_names=names,
        attribute_values=tuple(values),
        codes_VA=codes,
    )
