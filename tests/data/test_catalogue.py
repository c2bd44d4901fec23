# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: stable codes for whatever attributes a catalogue has."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data.catalogue import Vocabulary, build_vocabulary
from data.errors import PreparationError, ReadError
from data.league import League
from data.split import last_weeks
from tests.data.conftest import NOW, START


def build(catalogue: pl.DataFrame, events: pl.DataFrame, **options: object) -> Vocabulary:
    return build_vocabulary(catalogue, events, **({"until": NOW, "min_buyers": 1} | options))  # type: ignore[arg-type]


def test_codes_follow_the_catalogue_and_name_no_column(catalogue: pl.DataFrame, events: pl.DataFrame) -> None:
    vocabulary = build(catalogue, events)
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


def test_only_events_before_the_cut_decide_which_items_are_in(
    catalogue: pl.DataFrame, events: pl.DataFrame
) -> None:
    early: datetime = START + timedelta(days=9)
    assert build(catalogue, events, until=early).item_ids == ("apple", "bread", "date")
    later = events.filter(pl.col("timestamp") < early)
    assert build(catalogue, later) == build(catalogue, events, until=early)


def test_items_need_buyers_and_merchants(catalogue: pl.DataFrame, events: pl.DataFrame) -> None:
    assert build(catalogue, events, min_buyers=2).item_ids == ("apple", "bread", "egg", "fig")
    assert build(catalogue, events, min_merchants=2).item_ids == ("apple", "egg")
    views = events.with_columns(event=pl.lit("view"))
    with pytest.raises(PreparationError, match="No item of the catalogue has at least 1 buyers"):
        build(catalogue, views)
    assert build(catalogue, views, min_buyers=0).size == 6


def test_rare_values_fold_to_unknown(catalogue: pl.DataFrame, events: pl.DataFrame) -> None:
    vocabulary = build(catalogue, events, min_value_items=2)
    assert vocabulary.attribute_values == (("unknown", "fruit"), ("unknown", "1", "2"))
    assert vocabulary.codes_VA[:, 0].tolist() == [0, 1, 0, 0, 1, 0, 1]


def test_attributes_can_be_chosen(catalogue: pl.DataFrame, events: pl.DataFrame) -> None:
    assert build(catalogue, events, attributes=["grade"]).attribute_names == ("grade",)
    with pytest.raises(PreparationError, match="no attribute colour; it has shelf, grade"):
        build(catalogue, events, attributes=["colour"])


def test_the_codes_do_not_depend_on_the_order_of_the_catalogues_rows(
    catalogue: pl.DataFrame, events: pl.DataFrame
) -> None:
    expected = build(catalogue, events)
    for seed in range(5):
        assert build(catalogue.sample(fraction=1, shuffle=True, seed=seed), events) == expected


@pytest.mark.parametrize("min_value_items", [1, 2])
def test_a_saved_vocabulary_loads_equal(
    catalogue: pl.DataFrame, events: pl.DataFrame, tmp_path: Path, min_value_items: int
) -> None:
    vocabulary = build(catalogue, events, min_value_items=min_value_items)
    path = tmp_path / "new" / "catalogue.parquet"
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary
    assert pl.read_parquet(path).columns == ["index", "item_id", "name", "shelf", "grade"]
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_save_leaves_the_old_file(
    catalogue: pl.DataFrame, events: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalogue.parquet"
    vocabulary = build(catalogue, events)
    vocabulary.save(path)

    def full_disk(frame: pl.DataFrame, file: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full_disk)
    with pytest.raises(OSError, match="no space"):
        build(catalogue, events, min_buyers=2).save(path)
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
    sizes = [
        build_vocabulary(journey.catalogue, journey.events, until=until).size
        for until in (split.train_end, split.valid_end)
    ]
    assert sizes == [6_733, 7_380]
