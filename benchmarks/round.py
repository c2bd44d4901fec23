# SPDX-License-Identifier: Apache-2.0
"""A round without compute, 50 merchants: the in-process engine beside Flower's simulation runtime on Ray.

    python -m benchmarks.round [--quick]

Both sides run the same thing: a model of 10,000 float32, every merchant answers with a zero update, FedAvg. The
figure is the median round after the first; ours has its first round, start-up included, in a row of its own. Ours
is measured before and after the peer's run, as Ray takes the machine for itself while it runs.
"""

import functools
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.measure import Row, row, table, write
from client.wire import Reply, Request
from server.checkpoints import Checkpoint, CheckpointFolder
from server.rounds import RoundsConfig, run_rounds
from simulation.flower_runtime import QUIET
from simulation.grid import InProcessGrid
from simulation.pool import executor
from strategies.build import StrategyConfig
from strategies.cohort_grid import CohortGrid
from strategies.plain_cohort import PlainCohort

MERCHANTS, PARAMETERS = 50, 10_000
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "zero"
version = "1.0.0"
dependencies = []
license = { text = "Apache-2.0" }
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "zero:server"
clientapp = "zero:client"
[tool.flwr.app.config]
rounds = 6
times = ""
"""
APP = f"""
import json, time
from pathlib import Path
import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
client = ClientApp()
@client.train()
def train(message: Message, context: Context) -> Message:
    arrays = message.content["arrays"]
    content = RecordDict({{"arrays": arrays, "metrics": MetricRecord({{"num-examples": 1}})}})
    return Message(content, reply_to=message)
server = ServerApp()
@server.main()
def main(grid: Grid, context: Context) -> None:
    times = [time.perf_counter()]
    start = ArrayRecord({{"w": Array(np.zeros({PARAMETERS}, np.float32))}})
    FedAvg(fraction_evaluate=0.0).start(
        grid, start, int(context.run_config["rounds"]),
        evaluate_fn=lambda number, arrays: times.append(time.perf_counter()),
    )
    Path(str(context.run_config["times"])).write_text(json.dumps(times))
"""


def zero_update(merchant: str, request: Request) -> Reply:
    """A merchant that computes nothing."""
    return Reply({name: np.zeros_like(array) for name, array in request.arrays.items()}, {}, weight=1)


def _answerer() -> object:
    return zero_update


def in_process(rounds: int) -> list[float]:
    """Seconds of each round of the in-process engine, start-up in the first."""
    times = [time.perf_counter()]
    names = [f"merchant-{number}" for number in range(MERCHANTS)]
    pool = executor(functools.partial(_answerer), 1)  # type: ignore[arg-type]
    league = InProcessGrid(names, pool)
    grid = CohortGrid(league, PlainCohort(0.5), {}, 1, {})
    start = Checkpoint(0, "benchmark", {"w": np.zeros(PARAMETERS, np.float32)})
    with TemporaryDirectory() as folder:
        run_rounds(
            StrategyConfig(),
            league,
            grid,
            start,
            RoundsConfig(rounds, seed=0, round_timeout_s=60, gather_timeout_s=10, min_merchants=2),
            {},
            CheckpointFolder(Path(folder), "benchmark"),
            lambda state: times.append(time.perf_counter()),
        )
    return [b - a for a, b in itertools.pairwise(times)]


def on_ray(rounds: int) -> list[float]:
    """Seconds of each round under Flower's simulation runtime; the first holds the actors' start."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "pyproject.toml").write_text(PYPROJECT, "utf-8")
        (root / "zero.py").write_text(APP, "utf-8")
        bin_folder = Path(sys.executable).parent
        path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **QUIET, "FLWR_HOME": str(root / "home"), "PATH": path}
        settings = f'rounds={rounds} times="{root / "times.json"}"'
        command = [
            *(str(bin_folder / "flwr"), "run", str(root), "local", "--stream", "--run-config", settings),
            *("--federation-config", f"num-supernodes={MERCHANTS} client-resources-num-cpus=1"),
        ]
        try:
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
        finally:
            subprocess.run(["pkill", "-f", str(root / "home")], check=False)
        times = json.loads((root / "times.json").read_text("utf-8"))
    return [b - a for a, b in itertools.pairwise(times)]


def main() -> int:
    """Measure, print and write."""
    rounds = 6 if "--quick" in sys.argv else 20
    before, peer, after = in_process(rounds), on_ray(rounds), in_process(rounds)
    ours = before[1:] + after[1:]
    rows: list[Row] = [
        row("in_process_round_50_merchants", median(ours), "s", len(ours), median(peer[1:]), "Flower with Ray"),
        row(
            "in_process_first_round_50_merchants",
            median([before[0], after[0]]),
            "s",
            2,
            peer[0],
            "Flower with Ray",
        ),
    ]
    print(table(rows))
    write("round", rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
