# SPDX-License-Identifier: Apache-2.0
"""Rows of `results.json` against small cases worked out by hand."""

import json
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from models.metrics import VIEWS, ViewMetrics
from privacy.plan import PrivacyPlan
from server.checkpoints import Checkpoint, RoundRecord
from simulation.league import PreparedLeague
from simulation.results import method_row, paired_rows, round_rows, uplift_row
from simulation.tally import Audience, Rows, Scored, Tally

FLOAT32 = 1e-7  # users' figures travel and are added up as float32
# Ann and Ben shop at both merchants, in another order at each.
PERSONS = {"north": [0, 1], "south": [1, 0]}
LEAGUE = cast(
    PreparedLeague,
    SimpleNamespace(merchants=(SimpleNamespace(name="north", users=7), SimpleNamespace(name="south", users=9))),
)


def who(persons: Mapping[str, Sequence[int]] = PERSONS, without_novel: Sequence[str] = ()) -> Audience:
    """Everybody in both views, but for merchants where nobody has a novel target."""
    rows: dict[str, dict[str, Rows]] = {view: {} for view in VIEWS}
    for view in VIEWS:
        for name, people in persons.items():
            own = [] if view == "novel" and name in without_novel else people
            rows[view][name] = Rows(np.arange(len(own), dtype=np.int32), np.array(own, np.int32))
    counts = {view: len({p for found in rows[view].values() for p in found.persons.tolist()}) for view in VIEWS}
    return Audience(rows, counts)


def view_of(values: Sequence[float]) -> ViewMetrics:
    shown = np.array([-1, -2 if len(values) > 1 else -1], np.int32)
    return ViewMetrics(np.arange(len(values)), {"ndcg@10": np.array(values, float)}, {10: shown})


def measured(
    name: str, north: Sequence[float], south: Sequence[float], kind: str = "", audience: Audience | None = None
) -> Scored:
    """The same values in both views, as far as the audience has users there."""
    there = audience or who()
    tally = Tally(there, name, kind or name)
    for merchant, values in (("north", north), ("south", south)):
        views = {view: view_of(values[: len(there.rows[view][merchant].users)]) for view in VIEWS}
        tally.add(merchant, views)
    return tally.scored(seed=0)


def pairs(*methods: Scored) -> list[dict[str, Any]]:
    return paired_rows(methods)


def only(rows: Sequence[Mapping[str, Any]], method: str, against: str, view: str = "novel") -> Mapping[str, Any]:
    found = [r for r in rows if (r["method"], r["against"], r["view"]) == (method, against, view)]
    assert len(found) == 1, found
    return found[0]


def test_rows_of_one_person_rise_and_fall_together() -> None:
    values = ([0.1, 0.3], [0.2, 0.4])  # Ann 0.1 + 0.4, Ben 0.3 + 0.2: no person differs
    row = method_row(measured("federated", *values))
    for view in VIEWS:
        assert row["views"][view]["ndcg@10"] == pytest.approx({"mean": 0.25, "low": 0.25, "high": 0.25})
    strangers = who({"north": [0, 1], "south": [2, 3]})
    apart = method_row(measured("federated", *values, audience=strangers))["views"]["all"]["ndcg@10"]
    assert apart["low"] < 0.24 < 0.26 < apart["high"]


def test_a_pair_is_ours_minus_theirs_over_the_same_users_by_person() -> None:
    ours = measured("federated", [0.5, 0.4], [0.2, 0.1])  # +0.2 +0.1 | −0.1 0.0: Ann +0.2 in all, Ben 0.0
    theirs = measured("popularity", [0.3, 0.3], [0.3, 0.1], "baseline")
    pair = only(pairs(theirs, ours), "federated", "popularity")
    assert pair["metric"] == "ndcg@10"
    # Both draws Ann (1 in 4): 0.1 per row; both Ben: 0.
    assert pair["difference"] == pytest.approx({"mean": 0.05, "low": 0.0, "high": 0.1}, abs=FLOAT32)
    # Ann 0.6 over 0.4, Ben 0.6 over 0.6, the league 1.2 over 1.0.
    assert pair["relative"] == pytest.approx({"mean": 0.2, "low": 0.0, "high": 0.5}, abs=FLOAT32)


def test_gains_that_one_person_loses_elsewhere_are_no_evidence_of_anything() -> None:
    ours = measured("federated", [0.5, 0.6], [0.4, 0.3])
    theirs = measured("local_only", [0.3, 0.3], [0.7, 0.5])  # Ann +0.2 −0.2, Ben +0.3 −0.3
    zero = {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert only(pairs(ours, theirs), "federated", "local_only")["difference"] == pytest.approx(zero, abs=FLOAT32)


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


def test_a_merchant_without_users_in_a_view_is_left_out_of_its_uplift() -> None:
    there = who(without_novel=["south"])
    ours = measured("federated", [0.5, 0.7], [0.1, 0.1], audience=there)
    alone = measured("local_only", [0.2, 0.4], [0.1, 0.2], audience=there)
    found = pairs(ours, alone)
    novel = uplift_row(ours, alone, only(found, "federated", "local_only", "novel"), LEAGUE)
    assert [m["merchant"] for m in novel["merchants"]] == ["north"]
    assert novel["paired"]["mean"] == pytest.approx(0.3)
    everything = uplift_row(ours, alone, only(found, "federated", "local_only", "all"), LEAGUE)
    assert [m["merchant"] for m in everything["merchants"]] == ["north", "south"]


def test_no_value_is_nan_or_infinite() -> None:
    there = who(without_novel=["north", "south"])
    ours = measured("federated", [0.5, 0.7], [0.1, 0.1], audience=there)
    alone = measured("local_only", [0.0, 0.0], [0.0, 0.0], audience=there)
    found = paired_rows([ours, alone])
    assert [r["view"] for r in found] == ["all"]
    method = method_row(ours)
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
