# SPDX-License-Identifier: Apache-2.0
"""Rows of `results.json` against small cases worked out by hand."""

import json
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from data.samples import EvaluationSet
from models.metrics import VIEWS, ViewMetrics
from privacy.plan import PrivacyPlan
from server.checkpoints import Checkpoint, RoundRecord
from simulation.league import PreparedLeague
from simulation.results import (
    Measured,
    Scored,
    mean_ndcg,
    method_row,
    paired_rows,
    persons_of,
    persons_of_rows,
    round_rows,
    uplift_row,
)

# Ann and Ben shop at both merchants, in another order at each.
PERSONS = {"north": np.array([0, 1]), "south": np.array([1, 0])}
LEAGUE = cast(
    PreparedLeague,
    SimpleNamespace(merchants=(SimpleNamespace(name="north", users=7), SimpleNamespace(name="south", users=9))),
)


def view_of(values: Sequence[float], users: Sequence[int] | None = None) -> ViewMetrics:
    rows = np.arange(len(values)) if users is None else np.array(users)
    return ViewMetrics(rows.astype(np.int64), {"ndcg@10": np.array(values, float)}, {10: np.array([False, True])})


def measured(name: str, north: Sequence[float], south: Sequence[float], kind: str = "") -> Measured:
    """The same values in both views."""
    per_merchant = {"north": dict.fromkeys(VIEWS, view_of(north)), "south": dict.fromkeys(VIEWS, view_of(south))}
    return Measured(name, kind or name, private=False, per_merchant=per_merchant)


def pairs(*methods: Measured) -> list[dict[str, Any]]:
    rows = persons_of_rows(methods[0].per_merchant, PERSONS)
    return paired_rows([method.scored() for method in methods], rows, seed=0)


def only(rows: Sequence[Mapping[str, Any]], method: str, against: str, view: str = "novel") -> Mapping[str, Any]:
    found = [r for r in rows if (r["method"], r["against"], r["view"]) == (method, against, view)]
    assert len(found) == 1, found
    return found[0]


def test_equal_user_ids_are_one_person_at_every_merchant() -> None:
    ids = {"north": ("ann", "ben"), "south": ("cid", "ann")}
    windows = {name: SimpleNamespace(histories=SimpleNamespace(user_ids=users)) for name, users in ids.items()}
    found = persons_of(cast(Mapping[str, EvaluationSet], windows))
    assert {name: rows.tolist() for name, rows in found.items()} == {"north": [0, 1], "south": [2, 0]}


def test_the_person_of_a_row_is_found_through_the_users_of_the_view() -> None:
    layout = {"north": {"all": view_of([0.0, 0.0]), "novel": view_of([0.0], [1])}}
    layout["south"] = {"all": view_of([0.0, 0.0]), "novel": view_of([], [])}
    found = persons_of_rows(layout, {"north": np.array([4, 5]), "south": np.array([6, 4])})
    assert {view: rows.tolist() for view, rows in found.items()} == {"all": [4, 5, 6, 4], "novel": [5]}


def test_rows_of_one_person_rise_and_fall_together() -> None:
    method = measured("federated", [0.1, 0.3], [0.2, 0.4])  # Ann 0.1 + 0.4, Ben 0.3 + 0.2: no person differs
    row = method_row(method.scored(), persons_of_rows(method.per_merchant, PERSONS), seed=0)
    for view in VIEWS:
        assert row["views"][view]["ndcg@10"] == pytest.approx({"mean": 0.25, "low": 0.25, "high": 0.25})
    strangers = {"all": np.arange(4), "novel": np.arange(4)}
    apart = method_row(method.scored(), strangers, seed=0)["views"]["all"]["ndcg@10"]
    assert apart["low"] < 0.24 < 0.26 < apart["high"]


def test_a_pair_is_ours_minus_theirs_over_the_same_users_by_person() -> None:
    ours = measured("federated", [0.5, 0.4], [0.2, 0.1])  # +0.2 +0.1 | −0.1 0.0: Ann +0.2 in all, Ben 0.0
    theirs = measured("popularity", [0.3, 0.3], [0.3, 0.1], "baseline")
    pair = only(pairs(theirs, ours), "federated", "popularity")
    assert pair["metric"] == "ndcg@10"
    # Both draws Ann (1 in 4): 0.1 per row; both Ben: 0.
    assert pair["difference"] == pytest.approx({"mean": 0.05, "low": 0.0, "high": 0.1}, abs=1e-12)
    # Ann 0.6 over 0.4, Ben 0.6 over 0.6, the league 1.2 over 1.0.
    assert pair["relative"] == pytest.approx({"mean": 0.2, "low": 0.0, "high": 0.5}, abs=1e-12)


def test_gains_that_one_person_loses_elsewhere_are_no_evidence_of_anything() -> None:
    ours = measured("federated", [0.5, 0.6], [0.4, 0.3])
    theirs = measured("local_only", [0.3, 0.3], [0.7, 0.5])  # Ann +0.2 −0.2, Ben +0.3 −0.3
    zero = {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert only(pairs(ours, theirs), "federated", "local_only")["difference"] == pytest.approx(zero, abs=1e-12)


def test_every_federated_method_is_held_against_every_reference_and_the_private_one_against_the_other() -> None:
    kinds = {
        "federated_private": "federated_private",
        "federated": "federated",
        "popularity": "baseline",
        "local_only": "local_only",
        "centralised": "centralised",
        "federated_new": "federated_new",
    }
    found = pairs(*(measured(name, [0.1, 0.2], [0.3, 0.4], kind) for name, kind in kinds.items()))
    references = ["popularity", "local_only", "centralised"]
    expected = [("federated", against) for against in references]
    expected += [("federated_new", against) for against in ["federated", *references]]
    expected += [("federated_private", against) for against in ["federated", *references]]
    assert [(r["method"], r["against"], r["view"]) for r in found] == [
        (method, against, view) for method, against in expected for view in VIEWS
    ]


def test_two_methods_are_compared_on_the_same_users_only() -> None:
    ours = measured("federated", [0.1, 0.2], [0.3, 0.4]).scored()
    rows = {view: np.array([0, 1, 1, 0]) for view in VIEWS}
    for users in ([0, 1, 0, 2], [0, 1, 0]):
        views = {"all": ours.views["all"], "novel": view_of([0.1] * len(users), users)}
        other = Scored("popularity", "baseline", private=False, views=views)
        with pytest.raises(
            ValueError, match=r"view 'novel': expected the 4 users of 'federated', found \d others"
        ):
            paired_rows([ours, other], rows, seed=0)


def test_a_ratio_over_about_nothing_is_none() -> None:
    ours = measured("federated", [0.5, 0.5], [0.5, 0.5])
    for nothing in ([0.0, 0.3], [0.0, 0.0]):
        theirs = measured("popularity", nothing, nothing[::-1], "baseline")  # Ann alone scores zero
        pair = only(pairs(ours, theirs), "federated", "popularity")
        assert pair["relative"] is None
        assert pair["difference"]["mean"] == pytest.approx(0.5 - sum(nothing) / 2)


def test_the_same_seed_gives_the_same_rows() -> None:
    rng = np.random.default_rng(5)
    ours, theirs = (measured(name, rng.random(2).tolist(), rng.random(2).tolist()) for name in ("f", "local_only"))
    assert pairs(ours, theirs) == pairs(ours, theirs)


def test_uplift_holds_each_merchant_and_the_pair_over_the_league() -> None:
    ours = measured("federated", [0.5, 0.7], [0.1, 0.1])
    alone = measured("local_only", [0.2, 0.4], [0.1, 0.2])
    pair = only(pairs(ours, alone), "federated", "local_only")
    row = uplift_row(ours, alone, pair, LEAGUE)
    assert (row["method"], row["view"], row["metric"]) == ("federated", "novel", "ndcg@10")
    assert row["paired"] == pair["difference"]
    assert row["relative"] == pair["relative"]
    north, south = row["merchants"]
    figures = {"federated": 0.6, "local_only": 0.3, "difference": 0.3}
    assert {k: v for k, v in north.items() if k != "merchant"} == pytest.approx({"users": 7, **figures})
    figures = {"federated": 0.1, "local_only": 0.15, "difference": -0.05}
    assert {k: v for k, v in south.items() if k != "merchant"} == pytest.approx({"users": 9, **figures})
    assert (north["merchant"], south["merchant"]) == ("north", "south")
    assert (row["median"], row["worst"], row["share_better"]) == pytest.approx((0.125, -0.05, 0.5))


def test_a_merchant_that_is_level_is_not_better_off() -> None:
    level = measured("federated", [0.5, 0.7], [0.25, 0.25])
    alone = measured("local_only", [0.2, 0.4], [0.25, 0.25])
    row = uplift_row(level, alone, only(pairs(level, alone), "federated", "local_only"), LEAGUE)
    assert row["share_better"] == 0.5


def empty_at(method: Measured, *merchants: str) -> Measured:
    """The same method where nobody at these merchants has a novel target."""
    views = {
        name: {"all": found["all"], "novel": view_of([]) if name in merchants else found["novel"]}
        for name, found in method.per_merchant.items()
    }
    return Measured(method.name, method.kind, method.private, views)


def test_a_merchant_without_users_in_a_view_is_left_out_of_its_uplift() -> None:
    ours = empty_at(measured("federated", [0.5, 0.7], [0.1, 0.1]), "south")
    alone = empty_at(measured("local_only", [0.2, 0.4], [0.1, 0.2]), "south")
    found = pairs(ours, alone)
    novel = uplift_row(ours, alone, only(found, "federated", "local_only", "novel"), LEAGUE)
    assert [m["merchant"] for m in novel["merchants"]] == ["north"]
    assert novel["paired"]["mean"] == pytest.approx(0.3)
    everything = uplift_row(ours, alone, only(found, "federated", "local_only", "all"), LEAGUE)
    assert [m["merchant"] for m in everything["merchants"]] == ["north", "south"]
    assert mean_ndcg(ours.per_merchant) == pytest.approx(0.6)
    assert mean_ndcg(ours.per_merchant, "all") == pytest.approx(0.35)


def test_no_value_is_nan_or_infinite() -> None:
    ours = empty_at(measured("federated", [0.5, 0.7], [0.1, 0.1]), "north", "south")
    alone = empty_at(measured("local_only", [0.0, 0.0], [0.0, 0.0]), "north", "south")
    rows = persons_of_rows(ours.per_merchant, PERSONS)
    found = paired_rows([ours.scored(), alone.scored()], rows, seed=0)
    assert [r["view"] for r in found] == ["all"]
    method = method_row(ours.scored(), rows, seed=0)
    assert "ndcg@10" not in method["views"]["novel"]
    assert method["views"]["all"]["ndcg@10"]["mean"] == pytest.approx(0.35)
    json.dumps([found, method, uplift_row(ours, alone, found[0], LEAGUE)], allow_nan=False)


def plan(*, private: bool) -> PrivacyPlan:
    spent = (lambda round_: 0.5 * round_) if private else (lambda _: math.inf)
    return cast(PrivacyPlan, SimpleNamespace(private=private, epsilon_after=spent))


def rounds_of(*history: RoundRecord, private: bool, curve: Mapping[int, float]) -> list[dict[str, Any]]:
    final = cast(Checkpoint, SimpleNamespace(history=history))
    return round_rows("federated", final, curve, plan(private=private), ("north", "south"))


def test_a_round_holds_loss_per_user_score_epsilon_and_who_was_dropped() -> None:
    first = RoundRecord(1, 2, {}, {"loss": 12.0, "users": 4.0}, 1.5)
    second = RoundRecord(2, 1, {2: "too late", 1: "refused"}, {"loss": 0.0, "users": 0.0}, 2.5, "too few")
    rows = rounds_of(first, second, private=True, curve={2: 0.25})
    assert rows[0] == {
        "run": "federated",
        "round": 1,
        "train_loss": 3.0,
        "ndcg@10_novel": None,
        "epsilon": 0.5,
        "wall_s": 1.5,
        "merchants": 2,
        "dropped": [],
        "failure": "",
    }
    assert (rows[1]["train_loss"], rows[1]["ndcg@10_novel"], rows[1]["epsilon"]) == (None, 0.25, 1.0)
    assert rows[1]["dropped"] == [
        {"merchant": "north", "reason": "refused"},
        {"merchant": "south", "reason": "too late"},
    ]
    assert (rows[1]["merchants"], rows[1]["failure"]) == (1, "too few")


def test_a_round_without_privacy_or_with_a_lost_loss_has_none_of_it() -> None:
    record = RoundRecord(1, 2, {}, {"loss": math.nan, "users": 4.0}, 1.5)
    (row,) = rounds_of(record, private=False, curve={1: math.nan})
    assert (row["train_loss"], row["ndcg@10_novel"], row["epsilon"]) == (None, None, None)
    (row,) = rounds_of(RoundRecord(1, 2, {}, {}, 1.5), private=True, curve={})
    assert row["train_loss"] is None
    json.dumps(row, allow_nan=False)
