# SPDX-License-Identifier: Apache-2.0
"""Turns what was measured into `results.json` (format `hansa.results/1`): methods, uplift, rounds, privacy.

Intervals resample persons: a household that shops at several merchants is one person, whose rows rise and fall
together.
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
Persons = Mapping[str, npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One method, measured at every merchant."""

    name: str
    kind: str
    private: bool
    per_merchant: PerMerchant


def persons_of(windows: Mapping[str, EvaluationSet]) -> dict[str, npt.NDArray[np.int64]]:
    """Per merchant the number of the person behind each row: equal user ids are one person, int64 [U]."""
    ids = sorted({user for window in windows.values() for user in window.histories.user_ids})
    number = {user: i for i, user in enumerate(ids)}
    return {m: np.array([number[u] for u in w.histories.user_ids], np.int64) for m, w in windows.items()}


def method_row(method: Measured, persons: Persons, seed: int) -> dict[str, Any]:
    """A method's row of the table: each view's metrics over the whole league, with intervals."""
    merged = merge_views(list(method.per_merchant.values()))
    views = {
        view: _intervals(summarise(merged[view], persons=_rows(method.per_merchant, view, persons), seed=seed))
        for view in VIEWS
    }
    return {"name": method.name, "kind": method.kind, "private": method.private, "views": views}


def baseline_rows(
    baselines: Mapping[str, Mapping[str, ViewMetrics]], layout: PerMerchant, persons: Persons, seed: int
) -> list[dict[str, Any]]:
    """The baselines' rows; they come merged over merchants, in the order of `layout`."""
    rows = []
    for name, merged in baselines.items():
        views = {
            view: _intervals(summarise(merged[view], persons=_rows(layout, view, persons), seed=seed))
            for view in VIEWS
        }
        rows.append({"name": name, "kind": "baseline", "private": False, "views": views})
    return rows


def uplift_row(
    method: Measured, local: Measured, view: str, league: PreparedLeague, persons: Persons, seed: int
) -> dict[str, Any]:
    """The paired gain of a method over local-only, over the league and at each merchant."""
    ours, theirs = (_values(m.per_merchant, view) for m in (method, local))
    rows = _rows(method.per_merchant, view, persons)
    users = {merchant.name: merchant.users for merchant in league.merchants}
    merchants = [
        {
            "merchant": name,
            "users": users[name],
            "federated": _mean(method.per_merchant[name][view]),
            "local_only": _mean(local.per_merchant[name][view]),
            "difference": _mean(method.per_merchant[name][view]) - _mean(local.per_merchant[name][view]),
        }
        for name in method.per_merchant
        if len(method.per_merchant[name][view].users)
    ]
    differences = np.array([row["difference"] for row in merchants])
    return {
        "method": method.name,
        "view": view,
        "metric": UPLIFT_METRIC,
        "paired": _interval(paired_difference(ours, theirs, persons=rows, seed=seed)),
        "relative": _relative(relative_uplift(ours, theirs, persons=rows, seed=seed)),
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
                "train_loss": loss / users if loss is not None and users else None,
                "ndcg@10_novel": curve.get(record.round),
                "epsilon": spent if math.isfinite(spent) else None,
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
        "adversary": "everybody outside the merchant, all other merchants and the platform together included",
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
    return float(_values(per_merchant, view).mean())


def _values(per_merchant: PerMerchant, view: str) -> npt.NDArray[np.float64]:
    return np.concatenate([views[view].per_user[UPLIFT_METRIC] for views in per_merchant.values()])


def _rows(per_merchant: PerMerchant, view: str, persons: Persons) -> npt.NDArray[np.int64]:
    return np.concatenate([persons[name][views[view].users] for name, views in per_merchant.items()])


def _mean(view: ViewMetrics) -> float:
    return float(view.per_user[UPLIFT_METRIC].mean())


def _interval(found: Interval) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _relative(found: Interval) -> dict[str, float] | None:
    """None where the other method scores about nothing in some resample, so that a ratio says nothing."""
    return _interval(found) if abs(found.mean) + abs(found.low) + abs(found.high) < LARGEST_RATIO else None


def _intervals(found: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: _interval(value) for name, value in found.items()}
