# SPDX-License-Identifier: Apache-2.0
"""A tiny made-up league on disk, a merchant's home in it, and the requests that a platform would send."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from client.home import MerchantSettings, create_home, open_home
from client.runtime import Runtime, RuntimeSettings, open_runtime, read_runtime, write_runtime
from client.wire import Request
from client.worker import Worker
from data import files
from data.catalogue import Vocabulary, build_vocabulary
from models.parameters import public_arrays
from privacy.plan import Mode, PrivacyPlan, Unit

START = datetime(2024, 1, 1, 12, tzinfo=UTC)
TRAIN_UNTIL, GATE_UNTIL = START + timedelta(weeks=8), START + timedelta(weeks=12)
ITEMS = 12
OPTIONS = {"dimension": 4, "negatives": 8, "history_events": 8, "targets": 4}
SECRET = bytes(range(32))
CANARY = "canary-customer-7f3a"
POLICY = """\
max_epsilon = 30.0
delta = 1e-5
min_cohort = 2
secure_aggregation_required = false
modes = ["none", "local"]
"""
PLAN = PrivacyPlan(
    mode=Mode.LOCAL,
    unit=Unit.USER_MERCHANT,
    epsilon=25.0,
    delta=1e-5,
    clipping_norm=1.0,
    noise_multiplier=2.0,
    sampling_rate=0.25,
    steps_per_round=2,
    rounds=3,
    popularity_noise_multiplier=4.0,
    popularity_clipping_norm=1.0,
    gate_noise_multiplier=4.0,
    gate_clipping_norm=1.0,
    accountant="rdp",
)
OPEN_PLAN = replace(PLAN, mode=Mode.NONE, epsilon=float("inf"), noise_multiplier=0.0)
TRAINING = {"steps_per_round": 4, "sampling_rate": 0.5, "learning_rate": 0.05, "optimiser": "sgd"}


@dataclass(frozen=True)
class Small:
    """Where the tiny league lies."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def events(self) -> Path:
        return self.folder / "events" / "north.parquet"

    def runtime(self) -> Runtime:
        return open_runtime(read_runtime(self.home / "runtime.json"))

    def worker(self, runtime: Runtime) -> Worker:
        """A worker as after a start of its process."""
        return Worker(open_home(self.home), runtime)


def build(folder: Path) -> Small:
    """Write events, catalogue, vocabulary and the home of the merchant `north`."""
    folder.mkdir(parents=True, exist_ok=True)
    events(seed=1).write_csv(folder / "events.csv")
    catalogue().write_csv(folder / "catalogue.csv")
    league = files.load(str(folder / "events.csv"), str(folder / "catalogue.csv"), now=GATE_UNTIL)
    vocabulary().save(folder / "vocabulary.parquet")
    small = Small(folder)
    small.events.parent.mkdir()
    league.merchant_events("north").drop("merchant_id").write_parquet(small.events)
    settings = MerchantSettings("north", "../events/north.parquet", TRAIN_UNTIL, GATE_UNTIL, max_events=16)
    create_home(small.home, settings, POLICY, SECRET)
    runtime = RuntimeSettings("recommendation", OPTIONS, "../vocabulary.parquet", "cpu", durable=True)
    write_runtime(small.home / "runtime.json", runtime)
    return small


def events(seed: int) -> pl.DataFrame:
    """Purchases of 20 users at each of two merchants over twelve weeks; one user's id is a canary."""
    rng = np.random.default_rng(seed)
    rows = []
    for merchant in ("north", "south"):
        for user in range(20):
            name = CANARY if merchant == "north" and user == 0 else f"u{user}"
            taste = rng.integers(0, ITEMS, size=4)
            for basket in range(14):
                moment = START + timedelta(days=6 * basket, minutes=int(rng.integers(0, 900)))
                for item in {int(rng.choice(taste)), int(rng.integers(0, ITEMS))}:
                    rows.append((merchant, name, f"item-{item:02d}", moment.isoformat(), "purchase"))
    return pl.DataFrame(rows, ["merchant_id", "user_id", "item_id", "timestamp", "event"], orient="row")


def vocabulary() -> Vocabulary:
    """All items, as if three merchants carried each."""
    return build_vocabulary(catalogue()).shared(np.ones(ITEMS, np.bool_), carriers=3)


def catalogue() -> pl.DataFrame:
    numbers = range(ITEMS)
    return pl.DataFrame(
        {
            "item_id": [f"item-{n:02d}" for n in numbers],
            "kind": [f"kind {n % 3}" for n in numbers],
            "maker": [f"maker {n % 5}" for n in numbers],
        }
    )


def request(
    runtime: Runtime,
    kind: str = "train",
    *,
    plan: PrivacyPlan | dict[str, object] = PLAN,
    round: int = 1,
    **changes,
) -> Request:
    """A sound request of the platform; `changes` replace settings."""
    fresh = runtime.task.build(seed=0)
    model = public_arrays(fresh, runtime.spec)
    if kind == "gate":
        other = public_arrays(runtime.task.build(seed=1), runtime.spec)
        arrays = {f"candidate/{k}": v for k, v in other.items()} | {f"previous/{k}": v for k, v in model.items()}
    else:
        arrays = model if kind == "train" else {}
    settings = {
        "plan": json.dumps(plan if isinstance(plan, dict) else plan.to_dict()),
        "training": json.dumps(TRAINING),
        "cohort-size": 3,
        "aggregation": "plain",
        "vocabulary": runtime.vocabulary.digest,
    }
    return Request(kind, "run-1", round if kind == "train" else 0, arrays, settings | changes)
