# SPDX-License-Identifier: Apache-2.0
"""The page on one's own data does what it says: its ten rows go the whole way of this room."""

import re
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from data import files
from data.catalogue import build_vocabulary
from data.errors import ContractError, PreparationError
from data.league import SkippedMerchant
from data.samples import evaluation_set, histories
from data.schema import EVENT_COLUMNS, EVENT_TYPES
from data.split import last_weeks
from tests.data.conftest import shared
from tests.data.test_contract import WRONG, WRONG_CATALOGUE, findings

PAGE = (Path(__file__).parents[2] / "docs" / "your-own-data.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def bring(folder: Path, *, rename: tuple[str, str] = ("", "")) -> tuple[str, str]:
    events, catalogue = blocks("csv")
    (folder / "events.csv").write_text(events.replace(*rename) if rename[0] else events)
    (folder / "catalogue.csv").write_text(catalogue)
    return str(folder / "events.csv"), str(folder / "catalogue.csv")


def test_the_ten_rows_go_from_file_to_histories(tmp_path: Path) -> None:
    league = files.load(*bring(tmp_path), min_users=2)
    assert league.merchants == ("north", "south")
    assert league.skipped == (SkippedMerchant("west", 1),)
    assert league.users_by_merchant_count() == {1: 2, 2: 1}

    split = last_weeks(league.events, valid_weeks=4, test_weeks=4)
    vocabulary = build_vocabulary(league.catalogue)
    assert vocabulary.item_ids == ("mug-07", "pot-03", "tea-01", "tea-02")
    assert vocabulary.attribute_names == ("kind", "maker", "colour")
    assert vocabulary.attribute_values[2] == ("unknown", "black", "blue")
    assert shared(league, split.train_end, carriers=2).item_ids == ("mug-07",)

    users = histories(league.merchant_events("north"), vocabulary, until=split.train_end, max_events=10)
    assert users.user_ids == ("u1", "u2")
    assert users.items.tolist() == [1, 3, 3]
    assert users.quantities.tolist() == [2.0, 1.0, 1.0]

    found = evaluation_set(
        league.merchant_events("north"), vocabulary, cut=split.valid_end, end=split.test_end, max_events=10
    )
    assert found.histories.user_ids == ("u1", "u2")
    assert [vocabulary.item_ids[item - 1] for item in found.targets_novel.items] == ["tea-02", "tea-02"]
    assert split.test_end - split.valid_end == timedelta(weeks=4)


def test_a_slip_in_the_ten_rows_is_one_finding_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(ContractError) as caught:
        files.load(*bring(tmp_path, rename=("2024-05-20T17:30:00Z", "2024-05-20T17:30:00")))
    places = [(f.column, f.row, f.problem) for f in caught.value.findings]
    assert places == [("timestamp", 5, "the time zone is missing")]


def test_every_column_and_event_type_is_on_the_page() -> None:
    for word in (*EVENT_COLUMNS, *EVENT_TYPES):
        assert f"`{word}`" in PAGE


def test_the_table_of_problems_is_the_contracts_own() -> None:
    table = PAGE.partition("| problem | what to do |")[2].partition("##")[0]
    listed = re.findall(r"^\| (.+?) \|", table, flags=re.MULTILINE)
    problems = [problem for problem in listed if not problem.startswith("---")]
    found = {"there is no such file or folder"}
    for changes, *_ in WRONG.values():
        found |= {finding.problem for finding in findings(changes)}
    for columns, *_ in WRONG_CATALOGUE.values():
        found |= {finding.problem for finding in findings({}, pl.DataFrame(columns))}
    for problem in problems:
        assert any(words.startswith(problem.removesuffix(" …")) for words in found), problem
    for words in found:
        assert words.startswith(("expected ", *(p.removesuffix(" …") for p in problems))), words


def test_the_commands_on_the_page_are_sound_overrides() -> None:
    for command in blocks("sh"):
        words = [word.strip("'") for word in command.split()[2:]]
        keys = {override.key_or_group for override in OverridesParser.create().parse_overrides(words)}
        assert keys == {"data", "data.events", "data.catalogue"}


def test_a_node_never_reads_several_merchants_as_its_own(tmp_path):
    path = tmp_path / "events.csv"
    rows = "".join(f"{m},u,i,2025-01-0{d}T10:00:00Z,purchase\n" for d, m in enumerate(("north", "south"), start=1))
    path.write_text("merchant_id,user_id,item_id,timestamp,event\n" + rows, "utf-8")
    with pytest.raises(PreparationError, match="2 merchants"):
        files.load_merchant(str(path))
