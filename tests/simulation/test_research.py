# SPDX-License-Identifier: Apache-2.0
"""What only a researcher may ask: figures of a window, with what it keeps of merchants bounded."""

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import simulation.research
from models.baselines import BASELINES, NEIGHBOURS
from models.metrics import ViewMetrics
from simulation.comparison import _Comparer, _EachMerchant, _windows
from simulation.progress import Display
from simulation.research import EVALUATE, TEST, VALID, Researcher, pack_views, unpack_views
from simulation.tally import audience
from tests.simulation.made import Made
from tests.simulation.test_config import composed


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    load = simulation.research.load_merchant
    monkeypatch.setattr("simulation.research.load_merchant", lambda source: seen.append(source) or load(source))
    return seen


def figures(made: Made, researcher: Researcher, window: str) -> dict[str, Any]:
    merchant = made.league.merchants[0]
    return dict(researcher.answer(merchant, made.request(EVALUATE, window=window)).arrays)


@pytest.mark.parametrize(
    ("window", "held_events", "expected"), [(VALID, 10_000, 2), (VALID, 0, 4), (TEST, 10_000, 4)]
)
def test_validation_weeks_alone_are_kept_and_only_while_there_is_room(
    made: Made, reads: list[str], window: str, held_events: int, expected: int
) -> None:
    researcher = Researcher(made.spec.league, made.league, made.runtime(), held_events)
    first, second = (figures(made, researcher, window) for _ in range(2))
    assert len(reads) == expected
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def test_merchants_are_read_when_their_turn_comes_and_anew_each_time(made: Made, reads: list[str]) -> None:
    researcher = Researcher(made.spec.league, made.league, made.runtime())
    each = _EachMerchant(made.league, researcher.known)
    assert not reads
    next(iter(each))
    assert len(reads) == 1
    assert len(list(each)) == 2
    assert len(reads) == 3


def test_packed_figures_come_back_as_they_were() -> None:
    view = ViewMetrics(np.array([0, 3]), {"ndcg@10": np.array([0.5, 0.25])}, {10: np.array([-1, 1], np.int32)})
    found = unpack_views(pack_views({"all": view}))["all"]
    np.testing.assert_array_equal(found.users, view.users)
    np.testing.assert_array_equal(found.per_user["ndcg@10"], view.per_user["ndcg@10"])
    np.testing.assert_array_equal(found.shown[10], view.shown[10])


@pytest.mark.parametrize("largest", [1, 20_000])
def test_above_the_largest_catalogue_item_knn_alone_is_left_out_with_a_sentence(
    made: Made, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    monkeypatch.setattr("simulation.comparison.LARGEST_FOR_NEIGHBOURS", largest)
    said = io.StringIO()
    researcher = Researcher(made.spec.league, made.league, made.runtime())
    who, display = audience(_windows(researcher, made.league)), Display(Console(file=said, width=200))
    found = _Comparer(composed(), made.league, who, display).baselines(researcher)
    left_out = NEIGHBOURS if largest == 1 else ()
    assert [method.name for method in found] == [name for name in BASELINES if name not in left_out]
    assert ("ItemKNN is left out: 12 items are more than 1" in said.getvalue()) == bool(left_out)
