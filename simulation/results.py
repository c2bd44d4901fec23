# SPDX-License-Identifier: Apache-2.0
"""Turns what was measured into `results.json` (format `hansa.results/1`): methods, pairs, uplift, rounds.

Guarantees:
- no value is NaN or infinite: what has no value is absent or None
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.metrics import VIEWS, Interval, difference_interval, ratio_interval
from privacy.plan import PrivacyPlan
from server.checkpoints import Checkpoint
from simulation.league import PreparedLeague
from simulation.tally import PAIRED_METRIC, Scored

FORMAT = "hansa.results/1"
LARGEST_RATIO = 1e3
REFERENCES = ("baseline", "local_only", "centralised")


def method_row(method: Scored) -> dict[str, Any]:
    """A method's row of the table: each view's metrics over the whole league, with intervals."""
    views = {
        view: {name: _interval(found) for name, found in method.views[view].figures.items()} for view in VIEWS
    }
    return {"name": method.name, "kind": method.kind, "private": method.private, "views": views}


def paired_rows(methods: Sequence[Scored]) -> list[dict[str, Any]]:
    """Each federated method against every reference, and a private one against the ordinary one too.

    A view without users has no row.
    """
    federated = sorted((m for m in methods if m.kind not in REFERENCES), key=lambda m: m.kind)
    return [
        _paired_row(ours, theirs, view)
        for ours in federated
        for theirs in methods
        if theirs.kind in REFERENCES or (theirs.kind == "federated" != ours.kind)
        for view in VIEWS
        if PAIRED_METRIC in ours.views[view].figures
    ]


def uplift_row(method: Scored, local: Scored, paired: Mapping[str, Any], league: PreparedLeague) -> dict[str, Any]:
    """The gain of a method over local-only at each merchant; `paired` is its row over the league."""
    view = paired["view"]
    ours, alone = (each.views[view].merchants for each in (method, local))
    merchants = [
        {
            "merchant": merchant.name,
            "users": merchant.users,
            "federated": ours[merchant.name],
            "local_only": alone[merchant.name],
            "difference": ours[merchant.name] - alone[merchant.name],
        }
        for merchant in league.merchants
        if merchant.name in ours
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


def _paired_row(ours: Scored, theirs: Scored, view: str) -> dict[str, Any]:
    mine, other = ours.views[view], theirs.views[view]
    means = mine.figures[PAIRED_METRIC].mean, other.figures[PAIRED_METRIC].mean
    return {
        "method": ours.name,
        "against": theirs.name,
        "view": view,
        "metric": PAIRED_METRIC,
        "difference": _interval(difference_interval(*means, mine.resampled, other.resampled)),
        "relative": _relative(ratio_interval(*means, mine.resampled, other.resampled)),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _interval(found: Interval) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _relative(found: Interval) -> dict[str, float] | None:
    """None where the other method scores about nothing in some resample, so that a ratio says nothing."""
    return _interval(found) if abs(found.mean) + abs(found.low) + abs(found.high) < LARGEST_RATIO else None
