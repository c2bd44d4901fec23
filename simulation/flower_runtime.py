# SPDX-License-Identifier: Apache-2.0
"""The `ray` engine: the same ServerApp and ClientApp on Flower's simulation runtime, through `flwr run`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from server.checkpoints import Checkpoint, CheckpointFolder
from server.errors import RunFailed, ServerError
from server.vocabulary import SHARED
from simulation.federation import Federation, set_up
from simulation.league import PreparedLeague

POLL_S = 1.0
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def run_on_flower(
    federation: Federation, league: PreparedLeague, workers: int, observe: Callable[[Checkpoint], None]
) -> Checkpoint:
    """Prepare the run's folder, start `flwr run . local`, and follow its checkpoints to the end.

    Raises:
        ServerError: Flower's simulation runtime is not installed.
        RunFailed: Flower ended without the last round's checkpoint.
    """
    set_up(federation, league)
    folder = federation.folder.resolve()
    checkpoints = CheckpointFolder(folder / "checkpoints", federation.settings.config_hash)
    seen = -1

    def watch() -> None:
        nonlocal seen
        seen = _observe_newer(checkpoints, seen, observe)

    code = _run(folder, len(league.names), workers, watch)
    watch()
    final = checkpoints.newest()
    if final is None or final.round < federation.settings.rounds.rounds:
        raise RunFailed(f"flwr run ended with code {code} before the last round; see {folder / 'flower.log'}")
    return final


def count_on_flower(federation: Federation, league: PreparedLeague, workers: int) -> None:
    """Have the prepared run's ServerApp count the vocabulary, into `shared.json`; raises as `run_on_flower`."""
    folder = federation.folder.resolve()
    code = _run(folder, len(league.names), workers, lambda: None)
    if not (folder / SHARED).exists():
        raise RunFailed(f"flwr run ended with code {code} without a count; see {folder / 'flower.log'}")


def _run(folder: Path, nodes: int, workers: int, watch: Callable[[], None]) -> int:
    """`flwr run . local` on a prepared folder to its end; its exit code, which is 0 for failed runs too."""
    if not (Path(sys.executable).parent / "flwr-simulation").exists():
        raise ServerError("engine=ray needs Flower's simulation runtime: pip install 'hansa[ray]'")
    with (folder / "flower.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            _command(folder, nodes, workers),
            cwd=Path(__file__).resolve().parent.parent,
            env=_environment(folder),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while (code := process.poll()) is None:
                watch()
                time.sleep(POLL_S)
        finally:
            process.kill()
            _stop_superlink(folder / "flower")
    return code


def _environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return {**os.environ, **QUIET, "PATH": path, "FLWR_HOME": str(folder / "flower")}


def _command(folder: Path, nodes: int, workers: int) -> list[str]:
    config = f'league="{folder}" homes="{folder / "homes"}"'
    federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
    return [
        str(Path(sys.executable).parent / "flwr"),
        *("run", ".", "local", "--stream", "--run-config", config, "--federation-config", federation),
    ]


def _observe_newer(checkpoints: CheckpointFolder, seen: int, observe: Callable[[Checkpoint], None]) -> int:
    newest = checkpoints.newest()
    if newest is None or newest.round <= seen:
        return seen
    observe(newest)
    return newest.round


def _stop_superlink(home: Path) -> None:
    """Flower leaves its local SuperLink running; the one whose state lies in this run's folder is ours to end."""
    database = str(home / "local-superlink").encode()
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if database in command.read_bytes():
                os.kill(int(command.parent.name), signal.SIGTERM)
        except (FileNotFoundError, ProcessLookupError):
            continue
