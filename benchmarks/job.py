# SPDX-License-Identifier: Apache-2.0
"""Runs the main job as a process and watches what it takes: wall time, and peak memory of all its processes."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class JobRun:
    """A finished main job.

    Attributes:
        peak_mib: largest sum of the processes' proportional set sizes, MiB.
        prepared_peak_mib: likewise, from the first worker process on: without reading the source of the league.
    """

    results: dict[str, Any]
    wall_s: float
    peak_mib: float
    prepared_peak_mib: float


def run_job(*overrides: str) -> JobRun:
    """Run `simulate.py` in a fresh folder; raises CalledProcessError when it fails."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "simulate.py", f"output={folder}", *overrides]
        began, peak, prepared_peak = time.monotonic(), 0.0, 0.0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None:
            total_mib, processes = _memory(process.pid)
            peak = max(peak, total_mib)
            prepared_peak = max(prepared_peak, total_mib if processes > 1 or prepared_peak else 0.0)
            time.sleep(POLL_S)
        wall_s = time.monotonic() - began
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        results = json.loads(next(Path(folder).glob("*/results.json")).read_text("utf-8"))
    return JobRun(results, wall_s, peak, prepared_peak)


def _memory(session: int) -> tuple[float, int]:
    """MiB of all processes of a session, and how many they are."""
    total_kib, processes = 0, 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rsplit(")", 1)[1].split()[3]) == session:
                rollup = (status.parent / "smaps_rollup").read_text()
                total_kib += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
                processes += 1
        except (OSError, StopIteration, IndexError):
            continue
    return total_kib / 1024, processes


def metric(results: dict[str, Any], method: str, view: str, name: str = "ndcg@10") -> float:
    """The mean of a method's metric."""
    row = next(row for row in results["methods"] if row["name"] == method)
    return float(row["views"][view][name]["mean"])
