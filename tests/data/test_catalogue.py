# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: stable codes for whatever attributes a catalogue has."""

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.catalogue import Vocabulary, build_vocabulary
from data.errors import PreparationError, ReadError
from data.league import League
from data.split import last_weeks
from tests.data.conftest import shared


def test_codes_follow_the_catalogue_and_name_no_column(catalogue: pl.DataFrame) -> None:
    vocabulary = build_vocabulary(catalogue)
    assert vocabulary.item_ids == ("apple", "bread", "cheese", "date", "egg", "fig")
    assert vocabulary.names[5] == "fig"
    assert vocabulary.attribute_names == ("shelf", "grade")
    assert vocabulary.attribute_values == (
        ("unknown", "bakery", "dairy", "fruit"),
        ("unknown", "1", "2", "3"),
    )
    expected = [[0, 0], [3, 1], [1, 2], [2, 2], [3, 1], [0, 3], [3, 1]]
    assert vocabulary.codes_VA.tolist() == expected
    assert vocabulary.codes_VA.dtype == np.int32


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_every_item_of_a_shared_vocabulary_and_so_every_attribute_value_is_carried_by_enough_merchants(
    carriers: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    merchants, items = 5, 12
    kinds = [f"k{rng.integers(6)}" for _ in range(items)]
    candidates = build_vocabulary(pl.DataFrame({"item_id": [f"i{n:02d}" for n in range(items)], "kind": kinds}))
    carries_MV = rng.random((merchants, items)) < 0.4
    kept = carries_MV.sum(axis=0) >= carriers
    if not kept.any():
        return
    vocabulary = candidates.shared(kept, carriers)
    assert vocabulary.item_ids == tuple(np.array(candidates.item_ids)[kept])
    assert vocabulary.carriers == carriers
    for value in vocabulary.attribute_values[0][1:]:
        of_value = np.array(kinds) == value
        assert carries_MV[:, of_value].any(axis=1).sum() >= carriers


def test_a_value_that_few_merchants_carry_is_in_no_code(catalogue: pl.DataFrame) -> None:
    vocabulary = build_vocabulary(catalogue).shared(np.array([1, 1, 0, 1, 0, 1], np.bool_), carriers=2)
    assert vocabulary.item_ids == ("apple", "bread", "date", "fig")
    assert vocabulary.attribute_values == (("unknown", "bakery", "fruit"), ("unknown", "1", "2"))
    assert vocabulary.codes_VA.tolist() == [[0, 0], [2, 1], [1, 2], [2, 1], [2, 1]]


def test_without_an_item_that_enough_merchants_carry_there_is_no_vocabulary(catalogue: pl.DataFrame) -> None:
    with pytest.raises(PreparationError, match="carried by at least 3 merchants"):
        build_vocabulary(catalogue).shared(np.zeros(6, np.bool_), carriers=3)


def test_attributes_can_be_chosen(catalogue: pl.DataFrame) -> None:
    assert build_vocabulary(catalogue, attributes=["grade"]).attribute_names == ("grade",)
    with pytest.raises(PreparationError, match="no attribute colour; it has shelf, grade"):
        build_vocabulary(catalogue, attributes=["colour"])


def test_the_codes_do_not_depend_on_the_order_of_the_catalogues_rows(catalogue: pl.DataFrame) -> None:
    expected = build_vocabulary(catalogue)
    for seed in range(5):
        assert build_vocabulary(catalogue.sample(fraction=1, shuffle=True, seed=seed)) == expected


def test_a_saved_vocabulary_loads_equal_and_has_the_same_digest(catalogue: pl.DataFrame, tmp_path: Path) -> None:
    vocabulary = build_vocabulary(catalogue).shared(np.array([1, 1, 0, 1, 1, 1], np.bool_), carriers=3)
    path = tmp_path / "new" / "catalogue.parquet"
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary
    assert Vocabulary.load(path).digest == vocabulary.digest
    assert pl.read_parquet(path).columns == ["index", "item_id", "name", "shelf", "grade"]
    assert list(path.parent.iterdir()) == [path]


def test_another_item_value_or_number_of_carriers_is_another_vocabulary(catalogue: pl.DataFrame) -> None:
    everything = np.ones(6, np.bool_)
    vocabularies = [
        build_vocabulary(catalogue),
        build_vocabulary(catalogue.reverse().head(5)),
        build_vocabulary(catalogue.with_columns(grade=4)),
        *(build_vocabulary(catalogue).shared(everything, carriers) for carriers in (1, 2)),
    ]
    assert len({vocabulary.digest for vocabulary in vocabularies}) == 5
    assert all(one != other for one, other in itertools.combinations(vocabularies, 2))


def test_a_failed_save_leaves_the_old_file(
    catalogue: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalogue.parquet"
    vocabulary = build_vocabulary(catalogue)
    vocabulary.save(path)

    def full_disk(frame: pl.DataFrame, file: object, **metadata: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full_disk)
    with pytest.raises(OSError, match="no space"):
        build_vocabulary(catalogue.head(3)).save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert Vocabulary.load(path) == vocabulary


def test_a_file_that_is_no_vocabulary_is_refused(catalogue: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(ReadError, match="no readable Parquet"):
        Vocabulary.load(path)
    catalogue.write_parquet(path)
    with pytest.raises(ReadError, match="with index 1 … V first"):
        Vocabulary.load(path)


def test_the_complete_journeys_vocabulary(journey: League) -> None:
    split = last_weeks(journey.events)
    assert [shared(journey, split.train_end, carriers).size for carriers in (3, 23)] == [29_069, 6_708]
