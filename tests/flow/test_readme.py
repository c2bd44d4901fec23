# SPDX-License-Identifier: Apache-2.0
"""README's two commands, typed into a fresh clone, as a newcomer does."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh") / "hansa"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


def make(clone, target, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "VIRTUAL_ENV"))}
    return subprocess.run(
        ["make", target], cwd=clone, env={**inherited, **environment}, capture_output=True, text=True, timeout=1200
    )


def test_make_demo_trains_publishes_verifies_serves_and_reports(clone):
    done = make(clone, "demo")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "serves release 1" in done.stdout
    assert next(clone.glob("outputs/*/report.html")).stat().st_size > 50_000


def test_make_test_runs_and_a_second_call_reuses_the_environment(clone):
    first = make(clone, "test", PYTEST_ADDOPTS="tests/strategies")
    assert first.returncode == 0, first.stdout[-2000:]
    made = (clone / ".venv" / ".ready").stat().st_mtime_ns
    assert make(clone, "test", PYTEST_ADDOPTS="tests/strategies").returncode == 0
    assert (clone / ".venv" / ".ready").stat().st_mtime_ns == made
