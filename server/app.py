# SPDX-License-Identifier: Apache-2.0
"""The platform's Flower ServerApp: reads a prepared run folder and conducts the run over Flower's Grid.

`league` in the run config names the folder: `run.json` (settings), `start.safetensors` (the starting model),
`roster.bin` or `rosters/` (secure runs), `checkpoints/` (written here; a run that finds some resumes). Where
`run.json` says what to count, the league's vocabulary is counted instead, into `shared.json`.
One line says why a run failed.
"""

from pathlib import Path

import msgspec
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from privacy.plan import PrivacyPlan
from server.checkpoints import read_checkpoint, write_durably
from server.cohorts import open_cohort
from server.errors import ServerError
from server.rounds import RoundsConfig
from server.run import RunSettings, conduct
from server.vocabulary import Count, count_vocabulary
from strategies.build import StrategyConfig

app = ServerApp()


class RunFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`run.json`: a run as plain data; with `count` one that counts the vocabulary and trains nothing."""

    run: str
    config_hash: str
    strategy: StrategyConfig
    rounds: RoundsConfig
    min_survivors: float
    plan: dict[str, object]
    training: dict[str, object]
    popularity: str
    aggregation: str
    vocabulary: str
    count: Count | None = None

    def settings(self) -> RunSettings:
        """The run's settings; raises `privacy.errors.PrivacyError` for a plan that does not add up."""
        return RunSettings(
            run=self.run,
            config_hash=self.config_hash,
            strategy=self.strategy,
            rounds=self.rounds,
            plan=PrivacyPlan.from_dict(self.plan),
            training=self.training,
            popularity=self.popularity,
            aggregation=self.aggregation,
            vocabulary=self.vocabulary,
        )


def write_run(folder: Path, file: RunFile) -> None:
    """Write `run.json`; it appears whole and on disk, or not at all."""
    write_durably(folder / "run.json", msgspec.json.format(msgspec.json.encode(file), indent=2))


def read_run(folder: Path) -> RunFile:
    """The run; raises `ServerError` with the remedy."""
    try:
        return msgspec.json.decode((folder / "run.json").read_bytes(), type=RunFile)
    except FileNotFoundError:
        raise ServerError(
            f"no prepared run in {str(folder)!r}: run `python simulate.py engine=ray`, which prepares and starts "
            "one, or pass --run-config 'league=\"FOLDER\"'"
        ) from None
    except msgspec.MsgspecError as broken:
        raise ServerError(f"{folder / 'run.json'}: {broken}") from None


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the run; an error ends the ServerApp, and Flower marks the run as failed."""
    folder = Path(str(context.run_config["league"]))
    file = read_run(folder)
    settings = file.settings()
    cohort = open_cohort(folder, file.aggregation, file.run, settings.plan, file.min_survivors)
    if file.count is not None:
        count_vocabulary(grid, cohort, settings, file.count, folder)
        return
    start = read_checkpoint(folder / "start.safetensors")
    conduct(grid, cohort, settings, start, folder / "checkpoints", lambda checkpoint: None)
