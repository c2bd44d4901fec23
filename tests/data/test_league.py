# SPDX-License-Identifier: Apache-2.0
"""A league out of rows, out of files, and as one file per merchant."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from data import files
from data.errors import ContractError, PreparationError
from data.league import League, SkippedMerchant, build_league
from data.schema import EVENT_SCHEMA


def test_a_merchants_events_hold_no_row_of_another_merchant(league: League, events: pl.DataFrame) -> None:
    assert league.merchants == ("north", "south", "west")
    for merchant in league.merchants:
        assert set(league.merchant_events(merchant)["merchant_id"]) == {merchant}
    parts = pl.concat([league.merchant_events(merchant) for merchant in league.merchants])
    assert_frame_equal(parts, events, check_row_order=False)
    with pytest.raises(KeyError, match="'east' is none of the 3 merchants"):
        league.merchant_events("east")


def test_the_text_form_of_a_league_shows_counts_and_no_rows(league: League) -> None:
    assert "events=14" in repr(league)
    assert "ann" not in repr(league)


def test_blanks_around_the_catalogues_cells_are_cut_off_as_from_the_events(events: pl.DataFrame) -> None:
    catalogue = pl.DataFrame(
        {"item_id": [" apple ", "bread"], "name": [" Red apple", "  "], "shelf": [" fruit ", " "]}
    )
    found = build_league("small", events, catalogue, min_users=1).catalogue
    assert found.rows() == [("apple", "Red apple", "fruit"), ("bread", "bread", "unknown")]


def test_small_merchants_are_reported_and_left_out(events: pl.DataFrame, catalogue: pl.DataFrame) -> None:
    rows = events.filter(~((pl.col("merchant_id") == "south") & (pl.col("user_id") == "cat")))
    league = build_league("small", rows, catalogue, min_users=2)
    assert league.merchants == ("north", "west")
    assert league.skipped == (SkippedMerchant("south", 1),)
    with pytest.raises(PreparationError, match="the largest has 2"):
        build_league("small", rows, catalogue, min_users=3)


def test_one_person_at_several_merchants_is_counted(league: League) -> None:
    assert league.users_by_merchant_count() == {1: 4, 2: 1}


def test_a_catalogue_gains_names_and_the_word_unknown(league: League) -> None:
    last = league.catalogue.row(5, named=True)
    assert last == {"item_id": "fig", "name": "fig", "shelf": "fruit", "grade": "1"}
    assert league.catalogue.row(4, named=True)["shelf"] == "unknown"


def test_a_league_written_as_a_file_per_merchant_is_the_same_league(
    league: League, catalogue: pl.DataFrame, tmp_path: Path
) -> None:
    files.write_merchants(league, tmp_path / "merchants")
    catalogue.write_parquet(tmp_path / "catalogue.parquet")
    again = files.load(str(tmp_path / "merchants"), str(tmp_path / "catalogue.parquet"), min_users=1)
    assert_frame_equal(again.events, league.events)
    assert_frame_equal(again.catalogue, league.catalogue)
    own = files.load_merchant(str(tmp_path / "merchants" / "west.parquet"))
    assert_frame_equal(own, league.merchant_events("west").drop("merchant_id"))
    with pytest.raises(PreparationError, match="exists already"):
        files.write_merchants(league, tmp_path / "merchants")


def test_a_folder_of_merchants_appears_whole_or_not_at_all(
    league: League, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(frame: pl.DataFrame, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full_disk)
    with pytest.raises(OSError, match="no space"):
        files.write_merchants(league, tmp_path / "merchants")
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_either_source_is_said_in_one_error(league: League, tmp_path: Path) -> None:
    league.events.with_columns(price=-pl.col("price")).write_parquet(tmp_path / "events.parquet")
    pl.DataFrame({"item_id": ["apple", "apple"], "shelf": ["a", "b"]}).write_csv(tmp_path / "items.csv")
    with pytest.raises(ContractError) as caught:
        files.load(str(tmp_path / "events.parquet"), str(tmp_path / "items.csv"))
    places = [(Path(f.file).name, f.column, f.row) for f in caught.value.findings]
    assert places == [
        ("events.parquet", "item_id", 2),
        ("events.parquet", "price", 1),
        ("items.csv", "item_id", 2),
    ]


def test_events_without_merchants_say_how_to_name_them(league: League, tmp_path: Path) -> None:
    league.events.drop("merchant_id").write_parquet(tmp_path / "events.parquet")
    league.catalogue.write_parquet(tmp_path / "items.parquet")
    with pytest.raises(ContractError, match="one file per merchant"):
        files.load(str(tmp_path / "events.parquet"), str(tmp_path / "items.parquet"))


def test_the_complete_journey_has_its_111_stores(journey: League) -> None:
    assert len(journey.merchants) == 111
    assert journey.merchants[0] == "store-286"
    assert journey.events.schema == EVENT_SCHEMA
    assert journey.events.height == 1_422_979
    assert journey.events["user_id"].n_unique() == 2_448
    assert journey.catalogue.columns[2:] == ["department", "category", "type", "brand", "manufacturer"]
    assert journey.end == datetime(2018, 1, 1, 5, tzinfo=UTC)
    assert min(journey.merchant_events(m)["user_id"].n_unique() for m in journey.merchants) >= 20


def test_the_complete_journey_keeps_its_own_contract(journey: League) -> None:
    from data.contract import check

    found = check(
        journey.events,
        journey.catalogue,
        source="events",
        catalogue_source="catalogue",
        now=journey.end,
        merchants=True,
    )
    assert found == ()


def test_the_complete_journey_is_read_without_pandas() -> None:
    code = "import sys; import data.complete_journey as c; c.load(); sys.exit('pandas' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root, check=False).returncode == 0
