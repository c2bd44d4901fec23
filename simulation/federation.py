# SPDX-License-Identifier: Apache-2.0
"""One federated run of a simulated league: homes, starting model, engine, rounds, and what was seen of them."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.enrolment import FOLDER as SECAGG
from client.runtime import RuntimeSettings
from data.catalogue import Vocabulary
from models.parameters import arrays_of
from models.tasks import build_task
from privacy.plan import Unit
from server.app import RunFile, write_run
from server.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from server.cohorts import SECURE, open_cohort, save_rosters
from server.run import RunSettings, conduct
from server.vocabulary import Count
from simulation.grid import InProcessGrid
from simulation.league import PreparedLeague, vocabulary_file
from simulation.nodes import NodesSpec, create_homes, home_path
from simulation.pool import Executor
from simulation.rosters import write_rosters
from strategies.cohort import Cohort


@dataclass(frozen=True, slots=True)
class Federation:
    """One federated run.

    Attributes:
        folder: `homes/`, `checkpoints/`, `run.json`, `start.safetensors` of this run.
        options: of the task.
        min_survivors: of the cohort.
        carriers: merchants that must carry an item of the vocabulary.
        seed: of model, homes and draws.
    """

    folder: Path
    league: Path
    task: str
    options: Mapping[str, Any]
    device: str
    settings: RunSettings
    min_survivors: float
    carriers: int
    seed: int

    @property
    def nodes(self) -> NodesSpec:
        return NodesSpec(self.league, self.folder / "homes")

    @property
    def secure(self) -> bool:
        return self.settings.aggregation == SECURE

    def cohort(self) -> Cohort:
        """The platform's cohort over this run's merchants, once `set_up` has prepared them."""
        settings = self.settings
        return open_cohort(self.folder, settings.aggregation, settings.run, settings.plan, self.min_survivors)


@dataclass(frozen=True, slots=True)
class FederatedRun:
    """A finished federated run.

    Attributes:
        curve: ndcg@10 (novel view, validation weeks) of the rounds that were measured.
    """

    federation: Federation
    final: Checkpoint
    curve: Mapping[int, float]


def set_up(federation: Federation, league: PreparedLeague) -> Checkpoint:
    """Write homes and the starting model, unless they stand already; returns the starting model as it stands."""
    start = federation.folder / "start.safetensors"
    if not (federation.folder / "run.json").exists():
        open_homes(federation, league, vocabulary_file(federation.league))
        write_checkpoint(start, starting_model(federation))
        write_run(federation.folder, run_file(federation))
    return read_checkpoint(start)


def open_homes(federation: Federation, league: PreparedLeague, vocabulary: Path) -> None:
    """Write the merchants' homes over a vocabulary, and their roster where the run is secure."""
    runtime = RuntimeSettings(
        federation.task, federation.options, str(vocabulary.resolve()), federation.device, durable=False
    )
    home_users = federation.settings.plan.unit is Unit.HOME_USER
    create_homes(federation.nodes, league, runtime, federation.seed, _policy(federation), home_users)
    if federation.secure:
        _write_rosters(federation, league)


def federate(
    federation: Federation, league: PreparedLeague, executor: Executor, observe: Callable[[Checkpoint], None]
) -> Checkpoint:
    """Run to the end over the in-process engine; goes on from the newest checkpoint in the folder."""
    start = set_up(federation, league)
    grid = InProcessGrid(league.names, executor)
    return conduct(
        grid, federation.cohort(), federation.settings, start, federation.folder / "checkpoints", observe
    )


def starting_model(federation: Federation) -> Checkpoint:
    """The model before any round: the same for the same seed, everywhere."""
    vocabulary = Vocabulary.load(vocabulary_file(federation.league))
    task = build_task(federation.task, federation.options, vocabulary.codes_VA)
    model = task.build(federation.seed)
    spec = task.spec(model)
    return Checkpoint(
        round=0,
        config_hash=federation.settings.config_hash,
        arrays=arrays_of(model, spec.shared),
        fixed=arrays_of(model, spec.fixed),
    )


def _write_rosters(federation: Federation, league: PreparedLeague) -> None:
    homes = {merchant.name: home_path(federation.nodes, merchant) for merchant in league.merchants}
    for home in homes.values():
        shutil.rmtree(home / SECAGG, ignore_errors=True)  # of a set-up that was killed half way
    settings = federation.settings
    signed = write_rosters(homes, settings.run, federation.seed, settings.plan.sharing)
    save_rosters(federation.folder, signed)


def _policy(federation: Federation) -> str:
    """A simulated merchant allows what the researcher asks, and no more: its ledger and limits are real."""
    plan = federation.settings.plan
    limit = f"max_epsilon = {plan.epsilon!r}\ndelta = {plan.delta!r}\n" if plan.private else ""
    return (
        f'{limit}modes = ["{plan.mode}"]\nunits = ["{plan.unit}"]\ntasks = ["{federation.task}"]\n'
        f"min_cohort = {federation.settings.rounds.min_merchants}\nmin_carriers = {federation.carriers}\n"
        f"secure_aggregation_required = {str(federation.secure).lower()}\n"
    )


def run_file(federation: Federation, count: Count | None = None) -> RunFile:
    """The run as its ServerApp reads it; with `count`, one that counts the vocabulary."""
    settings = federation.settings
    return RunFile(
        run=settings.run,
        config_hash=settings.config_hash,
        strategy=settings.strategy,
        rounds=settings.rounds,
        min_survivors=federation.min_survivors,
        plan=settings.plan.to_dict(),
        training=dict(settings.training),
        popularity=settings.popularity,
        aggregation=settings.aggregation,
        vocabulary=settings.vocabulary,
        count=count,
    )
