# SPDX-License-Identifier: Apache-2.0
"""The folder of one run of the main job, and how a killed run finds it again.

outputs/2026-11-22_14-03-11/
  config.json            settings and their hash
  league/                the prepared league
  runs/<name>/           homes, checkpoints and ledgers of each federated run
  runs/numbers/          of secure rounds, by the roster's digest
  platform/ merchant/    keys and repository; the merchant that pulls, verifies and serves
  results.json metrics.jsonl tensorboard/ report.html
  finished               empty; there once nothing is left to do
"""

import hashlib
import json
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from simulation.config import Config

RESULTS, FINISHED = "results.json", "finished"
NOT_PART_OF_THE_RUN = ("output", "resume", "device", "serve", "engine", "compare")


def config_hash(config: Config) -> str:
    """SHA-256 of all settings that decide the model: not where, on what or beside what it runs."""
    settings = {k: v for k, v in asdict(config).items() if k not in NOT_PART_OF_THE_RUN}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def run_folder(config: Config, now: datetime) -> tuple[Path, bool]:
    """The folder to work in, and whether it is an unfinished run's.

    With `resume` it is the newest unfinished run of the same settings, or a new one where there is none.
    """
    root, digest = Path(config.output), config_hash(config)
    if config.resume:
        for path in sorted(root.glob("*/config.json"), reverse=True):
            if json.loads(path.read_text("utf-8"))["hash"] == digest and not (path.parent / FINISHED).exists():
                return path.parent, True
    folder = _new_folder(root, now.astimezone(UTC).strftime("%Y-%m-%d_%H-%M-%S"))
    write_json(folder / "config.json", {"hash": digest, "config": asdict(config)})
    return folder, False


def finish(folder: Path) -> None:
    """Mark the run as done: nothing will resume it."""
    (folder / FINISHED).touch()


def _new_folder(root: Path, name: str) -> Path:
    """A folder of this run alone, also when several start in the same second."""
    for number in count(1):
        folder = root / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that readers find the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False, default=str), "utf-8")
    temporary.replace(path)
