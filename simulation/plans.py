# SPDX-License-Identifier: Apache-2.0
"""From settings to federated runs: the run that was asked for and, beside a private one, the ordinary one."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from client.trainer import TrainingConfig
from privacy.plan import Mode, PrivacyPlan, PrivacyRequest, calibrate
from server.cohorts import PLAIN, SECURE
from server.rounds import RoundsConfig
from server.run import RunSettings
from simulation.config import Config
from simulation.federation import Federation
from simulation.outputs import config_hash
from strategies.build import StrategyConfig, build
from strategies.errors import StrategyError

ORDINARY, PRIVATE = "federated", "federated_private"
RECIPE = "recipe"


def federations(config: Config, folder: Path) -> dict[str, Federation]:
    """The runs by name, the asked one first.

    Raises:
        SettingsError: strategy or training settings are wrong.
        privacy.errors.CalibrationError: no noise meets the privacy settings.
    """
    _check(config)
    plan = calibrate(PrivacyRequest(**_request(config)))
    runs = {PRIVATE: _federation(config, folder, PRIVATE, plan)} if plan.private else {}
    if not plan.private or config.compare.non_private:
        runs[ORDINARY] = _federation(config, folder, ORDINARY, _no_privacy(config))
    return runs


class SettingsError(Exception):
    """A setting that can be seen to be wrong before anything is read."""


def _check(config: Config) -> None:
    if config.cohort.aggregation not in (PLAIN, SECURE):
        raise SettingsError(f"cohort.aggregation={config.cohort.aggregation!r}; choose {PLAIN} or {SECURE}")
    try:
        for private in (False, True):
            build(strategy(config, private=private))
            TrainingConfig(**training(config, private=private))
    except (StrategyError, TypeError, ValueError) as wrong:
        raise SettingsError(str(wrong)) from None


def workers(config: Config) -> int:
    """How many processes the engine may use."""
    return config.engine.workers or len(os.sched_getaffinity(0))


def training(config: Config, *, private: bool) -> dict[str, Any]:
    """Settings of the merchants' training."""
    return {**config.model.training, **(config.model.private_training if private else {})}


def strategy(config: Config, *, private: bool) -> StrategyConfig:
    """The strategy that was asked for, or the recipe's."""
    asked = asdict(config.strategy)
    if asked["name"] == RECIPE:
        asked |= config.model.private_strategy if private else config.model.strategy
    return StrategyConfig(**asked)


def options(config: Config, *, private: bool) -> dict[str, Any]:
    """Settings of the task's model."""
    return {**config.model.options, **(config.model.private_options if private else {})}


def _federation(config: Config, folder: Path, name: str, plan: PrivacyPlan) -> Federation:
    rounds = RoundsConfig(
        rounds=plan.rounds,
        seed=config.seed,
        round_timeout_s=config.cohort.round_timeout_s,
        gather_timeout_s=config.cohort.gather_timeout_s,
        min_merchants=config.cohort.min_merchants,
    )
    settings = RunSettings(
        run=f"{name}-{config_hash(config)[:12]}",
        config_hash=config_hash(config),
        strategy=strategy(config, private=plan.private),
        rounds=rounds,
        plan=plan,
        training=training(config, private=plan.private),
        popularity=config.model.popularity,
        aggregation=config.cohort.aggregation,
    )
    return Federation(
        folder=folder / "runs" / name,
        league=folder / "league",
        task=config.model.task,
        options=options(config, private=plan.private),
        device=config.device,
        settings=settings,
        min_survivors=config.cohort.min_survivors,
        seed=config.seed,
    )


def _request(config: Config) -> dict[str, Any]:
    wanted = asdict(config.privacy)
    if wanted["mode"] == Mode.NONE:
        wanted["rounds"], wanted["steps_per_round"] = config.rounds, int(config.model.training["steps_per_round"])
    return wanted


def _no_privacy(config: Config) -> PrivacyPlan:
    ordinary = replace(config.privacy, mode=Mode.NONE.value, unit="user_merchant", merchants_per_user=1)
    return calibrate(PrivacyRequest(**_request(replace(config, privacy=ordinary))))
