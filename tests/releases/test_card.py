# SPDX-License-Identifier: Apache-2.0
"""The model card: round trip, borders, words."""

import json
from datetime import datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from releases.card import Metric, ModelCard
from releases.errors import ContentError
from tests.releases.small_release import card

WORDS = st.text(st.characters(min_codepoint=32, exclude_categories=["C", "Zl", "Zp"]), min_size=1)


@given(league=WORDS.filter(str.strip), epsilon=st.floats(1e-6, 1e6), mean=st.floats(0, 1))
def test_a_card_survives_the_json_round_trip(league: str, epsilon: float, mean: float) -> None:
    before = card(league=league, epsilon=epsilon, metrics=(Metric("all", "recall@10", mean, 0, 1),))
    assert ModelCard.from_json(before.to_json()) == before
    front = yaml.safe_load(before.readme().split("---\n")[1])
    assert (front["league"], front["epsilon"]) == (league, epsilon)


def test_the_json_is_stable_and_sorted() -> None:
    fields = json.loads(card().to_json())
    assert list(fields) == sorted(fields)
    assert fields["format_version"] == 1
    assert fields["created"] == "2025-01-02T03:04:05Z"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra": 1}, "unknown field 'extra'"),
        ({"format_version": 2}, "expected format version 1, found 2"),
        ({"format_version": None}, "expected format version 1"),
        ({"epsilon": "8"}, "epsilon"),
        ({"epsilon": None}, "epsilon"),
        ({"epsilon": 0}, "epsilon"),
        ({"delta": 1.5}, "delta"),
        ({"mode": "full"}, "mode"),
        ({"mode": "none"}, "mode 'none'"),
        ({"rounds": -1}, "rounds"),
        ({"rounds": 1.5}, "rounds"),
        ({"merchants": True}, "merchants"),
        ({"created": "2025-01-02T03:04:05"}, "time zone"),
        ({"created": "yesterday"}, "created"),
        ({"league": " "}, "league"),
        ({"league": "a\u0000b"}, "control"),
        ({"league": "a" * 5000}, "4000"),
        ({"limitations": ["\u001b[2J"]}, "control"),
        ({"task": "two\nlines"}, "control"),
        ({"task": "\u202ereversed"}, "control"),
        ({"config_hash": "XYZ"}, "config_hash"),
        ({"code_hash": ""}, "code_hash"),
        ({"model_hash": "../.."}, "model_hash"),
        ({"metrics": [{"view": "all", "name": "recall@10", "mean": 0.5, "low": 0.6, "high": 0.7}]}, "low <= mean"),
        ({"metrics": [{"view": "all"}]}, "missing"),
    ],
)
def test_a_card_with_an_unknown_or_wrong_field_is_refused(changes: dict[str, Any], words: str) -> None:
    fields = json.loads(card().to_json()) | changes
    with pytest.raises(ContentError, match=words):
        ModelCard.from_json(json.dumps(fields).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"[" * 100_000, b"\xff", b'{"epsilon": NaN}'])
def test_what_is_no_card_is_refused(data: bytes) -> None:
    with pytest.raises(ContentError, match=r"card\.json"):
        ModelCard.from_json(data)


def test_a_missing_field_is_refused() -> None:
    fields = json.loads(card().to_json())
    del fields["unit"]
    with pytest.raises(ContentError, match="unit"):
        ModelCard.from_json(json.dumps(fields).encode())


def test_an_object_out_of_range_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="time zone"):
        card(created=datetime(2025, 1, 1))
    with pytest.raises(ValueError, match="expected a positive number"):
        card(epsilon=float("inf"))
    with pytest.raises(ValueError, match="low <= mean <= high"):
        Metric("all", "recall@10", float("nan"), 0, 1)


def test_the_readme_says_what_people_need() -> None:
    words = card(release_version=4, model_hash="e" * 64).readme()
    front = yaml.safe_load(words.split("---\n")[1])
    assert (front["privacy_mode"], front["privacy_unit"]) == ("local", "one user inside one merchant")
    assert (front["epsilon"], front["delta"]) == (8.0, 1e-5)
    assert front["version"] == 4
    for part in (
        "release 4",
        "111 merchants",
        "ε = 8",
        "one user inside one merchant",
        "0.0500 to 0.0700",
        "e" * 64,
    ):
        assert part in words
    without = card(mode="none", epsilon=None, delta=None, metrics=()).readme()
    assert "**without** differential privacy" in without
    assert "No figures" in without
