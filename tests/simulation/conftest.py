# SPDX-License-Identifier: Apache-2.0
"""A whole run's results, as `simulate.py` writes them, over a made-up league.

The size and the noise are those of the league that ships.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.simulation.made import Made, make

# name, kind, private, then novel and all: ndcg@10, its half width, hit_rate@10, recall@20
METHODS = (
    ("popularity", "baseline", False, (0.0527, 0.0034, 0.3210, 0.0431), (0.0694, 0.0031, 0.3262, 0.0502)),
    ("merchant_popularity", "baseline", False, (0.0556, 0.0036, 0.3262, 0.0466), (0.0722, 0.0033, 0.3314, 0.0530)),
    ("own_repeats", "baseline", False, (0.0558, 0.0035, 0.3291, 0.0470), (0.1711, 0.0060, 0.5112, 0.1494)),
    ("item_knn", "baseline", False, (0.0588, 0.0035, 0.3520, 0.0480), (0.1602, 0.0058, 0.5071, 0.1466)),
    ("local_only", "local_only", False, (0.0571, 0.0036, 0.3301, 0.0495), (0.1722, 0.0060, 0.5120, 0.1502)),
    ("federated", "federated", False, (0.0602, 0.0037, 0.3590, 0.0538), (0.1741, 0.0061, 0.5180, 0.1523)),
    (
        "federated_private",
        "federated_private",
        True,
        (0.0548, 0.0034, 0.3252, 0.0476),
        (0.1729, 0.0060, 0.5131, 0.1508),
    ),
    ("centralised", "centralised", False, (0.0606, 0.0037, 0.3575, 0.0537), (0.1746, 0.0061, 0.5192, 0.1528)),
)
PAIRED_HALF = {"novel": 0.0016, "all": 0.0020}
HISTORY = (
    ("1082185", "Bananas", "2017-11-28"),
    ("1029743", "Fluid milk, white only", "2017-11-28"),
    ("995242", "Fluid milk, white only", "2017-11-21"),
    ("981760", "Eggs, large", "2017-11-21"),
    ("1127831", "Strawberries", "2017-11-14"),
    ("866211", "Grapes, red", "2017-11-14"),
    ("961554", "Carrots, mini peeled", "2017-11-07"),
    ("840361", "Eggs, X-large", "2017-11-07"),
)
RECOMMENDED = (
    ("826249", "Mainstream white bread", 4.31, ("Eggs, large", "Fluid milk, white only")),
    ("1070820", "Head lettuce", 4.12, ("Carrots, mini peeled",)),
    ("1098066", "Tomatoes, hothouse on the vine", 3.98, ("Carrots, mini peeled", "Grapes, red")),
    ("862349", "Grated cheese", 3.77, ("Fluid milk, white only",)),
    ("904360", "Raspberries", 3.71, ("Strawberries", "Grapes, red")),
    ("1044078", "Ground beef, 80% lean", 3.52, ()),
)


@pytest.fixture
def results() -> dict[str, Any]:
    """111 merchants, 8 rounds, 8 methods, both views; a fresh copy for each test."""
    rng = np.random.default_rng(0)
    users = np.sort(np.rint(np.exp(rng.normal(3.9, 0.75, 111))).astype(int).clip(20, 420))
    uplift = [
        _uplift(rng, users, method, view, scale)
        for method, scale in (("federated", 1.0), ("federated_private", -0.75))
        for view in ("novel", "all")
    ]
    return {
        "format": "hansa.results/1",
        "created": "2026-03-14T09:26:53Z",
        "seed": 0,
        "config_hash": "6f1c0a94be37d25a",
        "model_hash": "b1946ac92492d2347c6235b4d2611184",
        "league": {
            "name": "Complete Journey",
            "merchants": 111,
            "users": 6934,
            "items": 7408,
            "events": 1_118_402,
            "split": {"train_end": "2017-11-05", "valid_end": "2017-12-03", "test_end": "2017-12-31"},
        },
        "privacy": {
            "mode": "local",
            "unit": "one user inside one merchant",
            "epsilon": 7.9962,
            "delta": 1e-5,
            "noise_multiplier": 1.137,
            "clipping_norm": 0.5,
            "sampling_rate": 0.1,
            "steps": 240,
            "accountant": "prv",
            "adversary": "everybody but the merchant: platform, other merchants, readers of a release",
            "statement": (
                "Whoever sees everything that leaves a merchant can hardly tell whether one user's events at "
                "this merchant were used. A user of several merchants loses more: the losses add up."
            ),
            "not_protected": [
                "a user of several merchants, beyond the sum of what each merchant spends",
                "tuning on the validation weeks, which this run does not charge",
                "the merchant's own insiders and the side channels of its machine",
                "the size of a merchant's traffic",
            ],
        },
        "methods": [_method(rng, *method) for method in METHODS],
        "paired": list(_paired()),
        "uplift": uplift,
        "rounds": [_round(rng, run, n) for run in ("federated", "federated_private") for n in range(1, 9)],
        "verdicts": [],
        "example": {
            "user": "1364",
            "merchant": "367",
            "history": [{"item_id": i, "name": n, "date": d} for i, n, d in HISTORY],
            "recommended": [
                {"item_id": i, "name": n, "score": s, "because": list(b)} for i, n, s, b in RECOMMENDED
            ],
        },
        "release": {
            "version": 1,
            "published": True,
            "gate": "first release of this league",
            "model_sha256": "5e" * 32,
        },
        "timings": {"data": 6.2, "baselines": 11.8, "federated": 74.0, "federated_private": 96.4, "release": 1.3},
    }


def _method(
    rng: np.random.Generator, name: str, kind: str, private: bool, *views: tuple[float, ...]
) -> dict[str, Any]:
    measured = {}
    covered = float(rng.uniform(0.05, 0.4))
    for view, (ndcg, half, hit_rate, recall) in zip(("novel", "all"), views, strict=True):
        measured[view] = {
            "ndcg@10": {"mean": ndcg, "low": ndcg - half, "high": ndcg + 1.06 * half},
            "hit_rate@10": {"mean": hit_rate, "low": hit_rate - 0.0158, "high": hit_rate + 0.0166},
            "recall@20": {"mean": recall, "low": recall - 0.0029, "high": recall + 0.0031},
            "recall@10": {"mean": 0.6 * recall, "low": 0.57 * recall, "high": 0.63 * recall},
            "coverage@10": {"mean": covered, "low": covered - 0.0041, "high": covered + 0.0041},
        }
    return {"name": name, "kind": kind, "private": private, "views": measured}


def _paired() -> Iterator[dict[str, Any]]:
    """As the job writes it: each federated model against the references, the private one against the other."""
    for ours, theirs, i in itertools.product(METHODS, METHODS, (3, 4)):
        if ours[1].startswith("federated") and theirs[1] != "federated_private" and ours != theirs:
            view, difference = ("novel", "all")[i - 3], ours[i][0] - theirs[i][0]
            low, high = difference - PAIRED_HALF[view], difference + 1.06 * PAIRED_HALF[view]
            means = {"mean": difference, "low": low, "high": high}
            yield {
                "method": ours[0],
                "against": theirs[0],
                "view": view,
                "metric": "ndcg@10",
                "difference": means,
                "relative": {name: value / theirs[i][0] for name, value in means.items()},
            }


def _uplift(rng: np.random.Generator, users: np.ndarray, method: str, view: str, scale: float) -> dict[str, Any]:
    gain = scale * (0.0048 if view == "novel" else 0.0021)
    differences = gain * (50.0 / users) ** 0.35 + rng.normal(0.0, 0.055 / np.sqrt(users))
    alone = 0.0571 + rng.normal(0.0, 0.06 / np.sqrt(users))
    return {
        "method": method,
        "view": view,
        "metric": "ndcg@10",
        "paired": {"mean": 0.72 * gain, "low": 0.72 * gain - 0.0018, "high": 0.72 * gain + 0.0019},
        "relative": {"mean": 12.6 * gain, "low": 12.6 * gain - 0.032, "high": 12.6 * gain + 0.033},
        "median": float(np.median(differences)),
        "worst": float(differences.min()),
        "share_better": float((differences > 0).mean()),
        "merchants": [
            {
                "merchant": str(300 + i),
                "users": int(n),
                "federated": float(a + d),
                "local_only": float(a),
                "difference": float(d),
            }
            for i, (n, d, a) in enumerate(zip(users, differences, alone, strict=True))
        ],
    }


def _round(rng: np.random.Generator, run: str, n: int) -> dict[str, Any]:
    private = run == "federated_private"
    reached, speed = (0.0549, 3.0) if private else (0.0611, 1.8)
    return {
        "run": run,
        "round": n,
        "train_loss": 6.2 - (0.5 if private else 0.9) * (1.0 - np.exp(-n / speed)) + float(rng.normal(0, 0.008)),
        "ndcg@10_novel": reached - 0.013 * float(np.exp(-n / speed)) + float(rng.normal(0, 0.0003)),
        "epsilon": 7.9962 * (n / 8) ** 0.62 if private else None,
        "wall_s": 9.0 + n % 3,
        "merchants": 111 if n != 5 else 110,
        "dropped": [{"merchant": "348", "reason": "no answer within 60 s"}] if n == 5 and not private else [],
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A prepared league of made-up purchases."""
    return make(tmp_path_factory.mktemp("made"))
