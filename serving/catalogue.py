# SPDX-License-Identifier: Apache-2.0
"""A release's catalogue: item ids, names and public attributes by item index; index 0 is padding."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyarrow import parquet

from releases.catalogue import catalogue_digest
from serving.errors import ReleaseUnusable

Bools = npt.NDArray[np.bool_]
_NOT_ATTRIBUTES = ("index", "item_id", "name")


@dataclass(frozen=True, slots=True)
class Attribute:
    """One public column: `codes` int32 [V+1] (0 = no value, and at the padding row)."""

    code_of: Mapping[str, int]
    codes: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, repr=False)
class Catalogue:
    """What a release can recommend. `item_ids` and `names` have V+1 places, place 0 for padding."""

    item_ids: tuple[str, ...]
    names: tuple[str | None, ...]
    index_of: Mapping[str, int]
    attributes: Mapping[str, Attribute]
    digest: str
    """SHA-256 over the item ids in order: which row means which item."""

    @property
    def n_items(self) -> int:
        """V, without the padding row."""
        return len(self.item_ids) - 1

    def indices(self, item_ids: Iterable[str]) -> npt.NDArray[np.int64]:
        """Indices of those ids that the catalogue knows; the others are left out."""
        index_of = self.index_of
        known = [index_of[item] for item in item_ids if item in index_of]
        return np.asarray(known, dtype=np.int64)

    def with_values(self, column: str, values: Iterable[str]) -> Bools:
        """Items whose attribute has one of the values: bool [V+1]. KeyError for an unknown column."""
        attribute = self.attributes[column]
        wanted = [attribute.code_of[value] for value in values if value in attribute.code_of]
        return np.isin(attribute.codes, np.asarray(wanted, dtype=np.int32))


def read_catalogue(data: bytes) -> Catalogue:
    """Read the bytes of `catalogue.parquet`: columns index (1..V in order), item_id, name, then attributes.

    Raises:
        ReleaseUnusable: a column is missing, or the index is not 1..V, or an item id is null or double.
    """
    columns: dict[str, list[object]] = parquet.read_table(io.BytesIO(data)).to_pydict()
    return make_catalogue(columns)


def make_catalogue(columns: Mapping[str, list[object]]) -> Catalogue:
    """Build a catalogue from its columns; `read_catalogue` says which."""
    for name in ("index", "item_id"):
        if name not in columns:
            raise ReleaseUnusable(
                f"catalogue: expected a column {name!r}, found {sorted(columns)}; publish it again"
            )
    ids = columns["item_id"]
    if columns["index"] != list(range(1, len(ids) + 1)):
        raise ReleaseUnusable(f"catalogue: expected index 1 to {len(ids)} in order; publish it again")
    if any(not isinstance(item, str) or not item for item in ids):
        raise ReleaseUnusable("catalogue: expected text in every item_id, found null or empty; publish it again")
    item_ids = tuple(str(item) for item in ids)
    index_of = {item: index for index, item in enumerate(item_ids, start=1)}
    if len(index_of) != len(item_ids):
        raise ReleaseUnusable(
            f"catalogue: expected {len(item_ids)} different item ids, found {len(index_of)}; publish it again"
        )
    names = columns.get("name", [None] * len(item_ids))
    return Catalogue(
        item_ids=("", *item_ids),
        names=(None, *(None if name is None else str(name) for name in names)),
        index_of=index_of,
        attributes={name: _attribute(values) for name, values in columns.items() if name not in _NOT_ATTRIBUTES},
        digest=catalogue_digest(item_ids),
    )


def _attribute(values: list[object]) -> Attribute:
    code_of: dict[str, int] = {}
    codes = np.zeros(len(values) + 1, dtype=np.int32)
    for index, value in enumerate(values, start=1):
        if value is not None:
            codes[index] = code_of.setdefault(str(value), len(code_of) + 1)
    return Attribute(code_of, codes)
