# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: which items the league's model knows, and their public attributes as small whole numbers.

Item 0 is padding and everything unknown; items 1 … V are sorted by `item_id`, so that the same catalogue
gives the same numbers everywhere. In each attribute code 0 is "unknown" and the values follow in alphabetical
order. No attribute is known here by name: they are the catalogue's columns.

The whole catalogue is public; a league trains on the part of it that enough merchants carry (`shared`). Who
carries what is each merchant's own knowledge, and no code here looks at events.

Guarantees:
- every item of a shared vocabulary, and so every attribute value, is carried by enough merchants
- the codes do not depend on the order of the catalogue's rows
- a saved vocabulary loads equal, and has the same digest
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.errors import PreparationError, ReadError
from data.schema import ITEM_COLUMN, NAME_COLUMN, UNKNOWN, attribute_columns, conform_catalogue

__all__ = ["Vocabulary", "build_vocabulary"]

INDEX_COLUMN = "index"
CARRIERS = "hansa.carriers"


@dataclass(frozen=True, eq=False, repr=False)
class Vocabulary:
    """Items 1 … V and their attributes.

    `item_ids`, `names`: V strings, entry i-1 belongs to item i. `attribute_names`: A columns.
    `attribute_values`: per column its values, code c stands for value c, value 0 is "unknown".
    `codes_VA`: int32 [V+1, A], row 0 is zeros. `carriers`: at least so many merchants carry each item; 0 where
    nobody counted.
    """

    item_ids: tuple[str, ...]
    names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    attribute_values: tuple[tuple[str, ...], ...]
    codes_VA: NDArray[np.int32]  # noqa: N815 - V, A name its axes
    carriers: int = 0

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
        return self._words == other._words and np.array_equal(self.codes_VA, other.codes_VA)

    __hash__ = None  # type: ignore[assignment]  # holds an array

    @property
    def _words(self) -> tuple[object, ...]:
        return self.item_ids, self.names, self.attribute_names, self.attribute_values, self.carriers

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that it says, hex: the same at all who hold the same vocabulary."""
        words = json.dumps(self._words).encode()
        codes = np.asarray(self.codes_VA, "<i4").tobytes()
        return hashlib.sha256(b"hansa.vocabulary/1" + len(words).to_bytes(8, "little") + words + codes).hexdigest()

    def shared(self, kept: NDArray[np.bool_], carriers: int) -> "Vocabulary":
        """The kept items, bool [V], coded anew: a value that none of them has is in it no more.

        The caller counted that at least `carriers` merchants carry each. Raises PreparationError when no item is
        left.
        """
        if not kept.any():
            raise PreparationError(
                f"No item of the catalogue is carried by at least {carriers} merchants. Lower data.min_merchants "
                "or bring more events."
            )
        return replace(_coded(self.frame().drop(INDEX_COLUMN).filter(kept)), carriers=carriers)

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
                self.frame().write_parquet(file, metadata={CARRIERS: str(self.carriers)})
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
            carriers = int(pl.read_parquet_metadata(path).get(CARRIERS, "0"))
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            remedy = "Save the vocabulary again or give the path of a saved one"
            raise ReadError(str(path), f"no readable Parquet file ({type(error).__name__})", remedy) from error
        expected = [INDEX_COLUMN, ITEM_COLUMN, NAME_COLUMN]
        in_order = frame.columns[:3] == expected and frame[INDEX_COLUMN].to_list() == list(
            range(1, frame.height + 1)
        )
        if not in_order:
            problem = f"expected the columns {expected} with index 1 … V first, found {frame.columns[:3]}"
            raise ReadError(str(path), problem, "Save the vocabulary again")
        return replace(_coded(frame.drop(INDEX_COLUMN)), carriers=carriers)


def build_vocabulary(catalogue: pl.DataFrame, *, attributes: Sequence[str] | None = None) -> Vocabulary:
    """The whole catalogue, coded: the candidates of which a league shares a part.

    `attributes` picks columns of the catalogue, None takes all. Raises PreparationError when there is no item or a
    column does not exist.
    """
    rows = conform_catalogue(catalogue)
    chosen = attribute_columns(rows) if attributes is None else tuple(attributes)
    if missing := sorted(set(chosen) - set(attribute_columns(rows))):
        raise PreparationError(
            f"The catalogue has no attribute {', '.join(missing)}; it has {', '.join(attribute_columns(rows))}."
        )
    if rows.is_empty():
        raise PreparationError("The catalogue has no item.")
    return _coded(rows.select(ITEM_COLUMN, NAME_COLUMN, *chosen).sort(ITEM_COLUMN))


def _coded(rows: pl.DataFrame) -> Vocabulary:
    names = attribute_columns(rows)
    codes = np.zeros((rows.height + 1, len(names)), dtype=np.int32)
    values: list[tuple[str, ...]] = []
    for column, name in enumerate(names):
        column_values = rows.get_column(name)
        known = column_values.filter(column_values != UNKNOWN).unique().sort()
        values.append((UNKNOWN, *known))
        code = pl.int_range(1, known.len() + 1, dtype=pl.Int32, eager=True)
        codes[1:, column] = column_values.replace_strict(known, code, default=0, return_dtype=pl.Int32)
    return Vocabulary(
        item_ids=tuple(rows.get_column(ITEM_COLUMN)),
        names=tuple(rows.get_column(NAME_COLUMN)),
        attribute_names=names,
        attribute_values=tuple(values),
        codes_VA=codes,
    )
