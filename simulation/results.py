# SPDX-License-Identifier: Apache-2.0
"""Turns what was measured into `results.json` (format `hansa.results/1`): methods, pairs, uplift, rounds.

Intervals resample persons: a household that shops at several merchants is one person, whose rows rise and fall
together.

Guarantees:
- two methods are compared on the same users only
- no value is NaN or infinite: what has no value is absent or None
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data.samples import EvaluationSet
from models.metrics import VIEWS, Interval, ViewMetrics, merge_views, paired_difference, relative_uplift, summarise
from privacy.plan import PrivacyPlan
from server.checkpoints import Checkpoint
from simulation.league import PreparedLeague
from simulation.references import PerMerchant

FORMAT = "hansa.results/1"
UPLIFT_METRIC = "ndcg@10"
LARGEST_RATIO = 1e3
REFERENCES = ("baseline", "local_only", "centralised")
Persons = Mapping[str, npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Scored:
    """One method over the whole league: its users of each view, merchant after merchant in league order."""

    name: str
    kind: str
    private: bool
    views: Mapping[str, ViewMetrics]


@dataclass(frozen=True, slots=True)
class Measured:
    """One method, measured at every merchant."""

    name: str
    kind: str
    private: bool
    per_merchant: PerMerchant

    def scored(self) -> Scored:
        return Scored(self.name, self.kind, self.private, merge_views(self.per_merchant.values()))


def persons_of(windows: Mapping[str, EvaluationSet]) -> dict[str, npt.NDArray[np.int64]]:
    """Per merchant the number of the person behind each row: equal user ids are one person, int64 [U]."""
    ids = sorted({user for window in windows.values() for user in window.histories.user_ids})
    number = {user: i for i, user in enumerate(ids)}
    return {m: np.array([number[u] for u in w.histories.user_ids], np.int64) for m, w in windows.items()}


def persons_of_rows(layout: PerMerchant, persons: Persons) -> dict[str, npt.NDArray[np.int64]]:
    """Per view the person behind each row of a `Scored`, int64 [U']; `layout` is any method of the league."""
    return {
        view: np.concatenate([persons[name][views[view].users] for name, views in layout.items()])
        for view in VIEWS
    }


def check_same_users(methods: Sequence[Scored]) -> None:
    """Raises ValueError where two methods were not measured on the same users, in the same order."""
    for view in VIEWS:
        expected = methods[0].views[view].users
        for method in methods[1:]:
            found = method.views[view].users
            if not np.array_equal(expected, found):
                raise ValueError(
                    f"view {view!r}: expected the {len(expected)} users of {methods[0].name!r}, found "
                    f"{len(found)} others of {method.name!r}: measure both on the same windows, in league order"
                )


def method_row(method: Scored, rows: Persons, seed: int) -> dict[str, Any]:
    """A method's row of the table: each view's metrics over the whole league, with intervals."""
    views = {
        view: {
            name: _interval(found)
            for name, found in summarise(method.views[view], persons=rows[view], seed=seed).items()
            if math.isfinite(found.mean)
        }
        for view in VIEWS
    }
    return {"name": method.name, "kind": method.kind, "private": method.private, "views": views}


def paired_rows(methods: Sequence[Scored], rows: Persons, seed: int) -> list[dict[str, Any]]:
    """Each federated method against every reference, and a private one against the ordinary one too.

    A view without users has no row. Raises ValueError where two methods were not measured on the same users.
    """
    check_same_users(methods)
    federated = sorted((m for m in methods if m.kind not in REFERENCES), key=lambda m: m.kind)
    return [
        _paired_row(ours, theirs, view, rows[view], seed)
        for ours in federated
        for theirs in methods
        if theirs.kind in REFERENCES or (theirs.kind == "federated" != ours.kind)
        for view in VIEWS
        if len(rows[view])
    ]


def uplift_row(
    method: Measured, local: Measured, paired: Mapping[str, Any], league: PreparedLeague
) -> dict[str, Any]:
    """The gain of a method over local-only at each merchant; `paired` is its row over the league."""
    view = paired["view"]
    users = {merchant.name: merchant.users for merchant in league.merchants}
    merchants = [
        {
            "merchant": name,
            "users": users[name],
            "federated": _mean(views[view]),
            "local_only": _mean(local.per_merchant[name][view]),
            "difference": _mean(views[view]) - _mean(local.per_merchant[name][view]),
        }
        for name, views in method.per_merchant.items()
        if len(views[view].users)
    ]
    differences = np.array([row["difference"] for row in merchants])
    return {
        "method": method.name,
        "view": view,
        "metric": paired["metric"],
        "paired": paired["difference"],
        "relative": paired["relative"],
        "median": float(np.median(differences)),
        "worst": float(differences.min()),
        "share_better": float((differences > 0).mean()),
        "merchants": merchants,
    }


def round_rows(
    run: str, final: Checkpoint, curve: Mapping[int, float], plan: PrivacyPlan, names: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per round of a run; `curve` holds ndcg@10 (novel, validation) of the rounds that were measured."""
    rows = []
    for record in final.history:
        loss, users = record.statistics.get("loss"), record.statistics.get("users")
        spent = plan.epsilon_after(record.round) if plan.private else math.inf
        rows.append(
            {
                "run": run,
                "round": record.round,
                "train_loss": _finite(loss / users) if loss is not None and users else None,
                "ndcg@10_novel": _finite(curve.get(record.round, math.nan)),
                "epsilon": _finite(spent),
                "wall_s": record.wall_s,
                "merchants": record.survivors,
                "dropped": [
                    {"merchant": names[n - 1], "reason": why} for n, why in sorted(record.dropped.items())
                ],
                "failure": record.failure,
            }
        )
    return rows


def privacy_part(plan: PrivacyPlan) -> dict[str, Any]:
    """What is promised, in figures and words."""
    return {
        "mode": str(plan.mode),
        "unit": str(plan.unit),
        "epsilon": plan.epsilon if plan.private else None,
        "delta": plan.delta if plan.private else None,
        "noise_multiplier": plan.noise_multiplier if plan.private else None,
        "clipping_norm": plan.clipping_norm if plan.private else None,
        "sampling_rate": plan.sampling_rate if plan.private else None,
        "steps": plan.steps if plan.private else None,
        "accountant": plan.accountant,
        "adversary": plan.adversary,
        "statement": plan.statement,
        "not_protected": list(plan.not_protected),
    }


def league_part(league: PreparedLeague) -> dict[str, Any]:
    """Which league it was."""
    return {
        "name": league.name,
        "merchants": len(league.merchants),
        "skipped": league.skipped,
        "users": sum(merchant.users for merchant in league.merchants),
        "items": league.items,
        "events": sum(merchant.events for merchant in league.merchants),
        "split": {
            "train_end": league.split.train_end.isoformat(),
            "valid_end": league.split.valid_end.isoformat(),
            "test_end": league.split.test_end.isoformat(),
        },
    }


def mean_ndcg(per_merchant: PerMerchant, view: str = "novel") -> float:
    """Mean ndcg@10 over all users of the league."""
    return _mean(merge_views(per_merchant.values())[view])


def _paired_row(
    ours: Scored, theirs: Scored, view: str, persons: npt.NDArray[np.int64], seed: int
) -> dict[str, Any]:
    mine, other = (method.views[view].per_user[UPLIFT_METRIC] for method in (ours, theirs))
    return {
        "method": ours.name,
        "against": theirs.name,
        "view": view,
        "metric": UPLIFT_METRIC,
        "difference": _interval(paired_difference(mine, other, persons=persons, seed=seed)),
        "relative": _relative(relative_uplift(mine, other, persons=persons, seed=seed)),
    }


def _mean(view: ViewMetrics) -> float:
    return float(view.per_user[UPLIFT_METRIC].mean())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _interval(found: Interval) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _relative(found: Interval) -> dict[str, float] | None:
    """None where the other method scores about nothing in some resample, so that a ratio says nothing."""
    return _interval(found) if abs(found.mean) + abs(found.low) + abs(found.high) < LARGEST_RATIO else None
