# SPDX-License-Identifier: Apache-2.0
"""A tiny league of anybody's own files: four merchants, three tastes, half a year."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[2]
MERCHANTS, USERS, ITEMS, WEEKS = 4, 12, 45, 26
CANARY = "canary7f3a"

SMALL = (
    "data=files",
    "data.min_users=2",
    "model.options.dimension=8",
    "model.options.history_events=16",
    "model.options.negatives=16",
    "model.training.steps_per_round=2",
    "model.centralised.steps_per_round=12",
    "rounds=3",
    "privacy.rounds=3",
    "engine.workers=1",
)


@pytest.fixture(scope="session")
def own_files(tmp_path_factory):
    """events.csv and catalogue.csv; user ids carry a canary that must show up nowhere."""
    folder = tmp_path_factory.mktemp("own files")
    rng = np.random.default_rng(3)
    begin = datetime(2025, 1, 6, 9, tzinfo=UTC)
    rows = []
    for merchant in range(MERCHANTS):
        for user in range(USERS):
            taste = (merchant + user) % 3
            for week in range(WEEKS):
                when = begin + timedelta(weeks=week, days=int(rng.integers(6)), hours=int(rng.integers(10)))
                for item in taste * 15 + rng.choice(15, size=3, replace=False):
                    rows.append(
                        (f"shop-{merchant}", f"{CANARY}-{merchant}-{user}", f"item-{item}", when.isoformat())
                    )
    events = pl.DataFrame(rows, schema=["merchant_id", "user_id", "item_id", "timestamp"], orient="row")
    events.with_columns(event=pl.lit("purchase"), quantity=1.0, price=2.5).write_csv(folder / "events.csv")
    items = [f"item-{i}" for i in range(ITEMS)]
    catalogue = pl.DataFrame(
        {
            "item_id": items,
            "name": [f"Thing {i}" for i in range(ITEMS)],
            "shelf": [f"s{i // 15}" for i in range(ITEMS)],
        }
    )
    catalogue.write_csv(folder / "catalogue.csv")
    return folder


def start_job(own_files, output, *overrides):
    """The main job as a process, as a user starts it; `overrides` replace what stands here."""
    settings = (
        *SMALL,
        f"data.events='{own_files / 'events.csv'}'",
        f"data.catalogue='{own_files / 'catalogue.csv'}'",
        f"output='{output}'",
        *overrides,
    )
    once = {text.partition("=")[0]: text for text in settings}
    command = [sys.executable, "simulate.py", *once.values()]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="session")
def run_job(own_files):
    """Runs the job to its end; returns exit code and output."""

    def run(output, *overrides):
        process = start_job(own_files, output, *overrides)
        text, _ = process.communicate(timeout=240)
        return process.returncode, text

    return run


@pytest.fixture(scope="session")
def begin_job(own_files):
    """Starts the job and returns the process."""
    return lambda output, *overrides: start_job(own_files, output, *overrides)


@pytest.fixture(scope="session")
def finished(run_job, tmp_path_factory):
    """One whole private run with everything beside it: folder and console text."""
    output = tmp_path_factory.mktemp("whole run")
    code, text = run_job(output)
    assert code == 0, text
    return next(path.parent for path in output.glob("*/results.json")), text
