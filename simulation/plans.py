# SPDX-License-Identifier: Apache-2.0
"""From settings to federated runs: the run that was asked for and, beside a private one, the ordinary one."""

import math
import os
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from client.errors import HomeError
from client.runtime import choose_device
from client.trainer import TrainingConfig
from data.catalogue import Vocabulary
from models.errors import ModelError
from models.parameters import arrays_of
from models.tasks import build_task
from privacy.errors import PrivacyError
from privacy.plan import Mode, PrivacyPlan, PrivacyRequest, Unit, calibrate
from privacy.units import SHARED_NOISE
from server.cohorts import PLAIN, SECURE
from server.rounds import RoundsConfig
from server.run import RunSettings
from simulation.config import Config
from simulation.federation import Federation
from simulation.league import PreparedLeague, catalogue_file, vocabulary_file
from simulation.outputs import config_hash
from simulation.rosters import sizes
from strategies.build import StrategyConfig, build
from strategies.errors import StrategyError

FEWEST_MASKED = 3
ORDINARY, PRIVATE = "federated", "federated_private"
COUNT = "vocabulary"
RECIPE = "recipe"
ONE_ITEM = np.zeros((2, 1), np.int32)
"""The smallest catalogue: enough to judge a model's settings."""


class SettingsError(Exception):
    """A setting that can be seen to be wrong before training begins; names setting, value and remedy."""


def check_settings(config: Config) -> None:
    """Judge all settings before anything is read or written; raises `SettingsError`."""
    _check_ranges(config)
    _check_device(config.device)
    try:
        for mode in (Mode.NONE, Mode(config.privacy.mode)):
            _check_strategy(strategy(config, mode))
            _check_model(config, mode)
        plans(config, STAND_IN)
    except PrivacyError as wrong:
        raise SettingsError(f"privacy: {wrong}") from None
    except (StrategyError, ModelError) as wrong:
        raise SettingsError(str(wrong)) from None


def check_league(config: Config, league: PreparedLeague) -> None:
    """Judge what only the league can show: its size, and the unit of privacy; raises `SettingsError`."""
    found, least = len(league.merchants), config.cohort.min_merchants
    secure = config.cohort.aggregation == SECURE
    if secure and found < FEWEST_MASKED:
        raise SettingsError(
            f"cohort.aggregation=secure takes at least {FEWEST_MASKED} merchants, the league has {found}: bring "
            "more merchants, lower data.min_users, or add in clear: experiment=open data.min_merchants=2"
        )
    together = sizes(found)[0] if secure else found
    if together < max(least, config.data.min_merchants) <= found:
        raise SettingsError(
            f"cohort.min_merchants={least} and data.min_merchants={config.data.min_merchants} count the merchants "
            f"of one sum: the league's {found} are divided into rosters of {together} and more; lower them"
        )
    if found < least:
        raise SettingsError(
            f"cohort.min_merchants={least}, the league has {found}: bring more merchants, or lower "
            "cohort.min_merchants or data.min_users"
        )
    if found < config.data.min_merchants:
        raise SettingsError(
            f"data.min_merchants={config.data.min_merchants}, the league has {found}: no item can be carried "
            "by more; lower data.min_merchants, or bring more merchants"
        )
    if config.privacy.mode != Mode.NONE and config.privacy.unit == Unit.USER_K:
        most, allowed = league.most_merchants, config.privacy.merchants_per_user
        if most > allowed:
            raise SettingsError(
                f"privacy.merchants_per_user={allowed}, a user of this league shops at {most} merchants: the "
                f"guarantee would not hold for them; use privacy.merchants_per_user={most} or "
                "privacy.unit=user_merchant privacy.merchants_per_user=1"
            )


def federations(config: Config, folder: Path, league: PreparedLeague) -> dict[str, Federation]:
    """The runs by name, the asked one first; raises `SettingsError`.

    The run beside a private one is the researcher's reference: it adds in clear and is never published.
    """
    vocabulary = Vocabulary.load(vocabulary_file(folder / "league"))
    found = plans(config, _size(config, league, vocabulary))
    asked = next(iter(found))
    return {
        name: _federation(
            config, folder, name, plan, config.cohort.aggregation if name == asked else PLAIN, vocabulary.digest
        )
        for name, plan in found.items()
    }


def counting(config: Config, folder: Path, league: PreparedLeague) -> Federation:
    """The run in which the league counts what is carried by how many: the asked one, over the whole catalogue."""
    candidates = Vocabulary.load(catalogue_file(folder / "league"))
    plan = next(iter(plans(config, _size(config, league, candidates)).values()))
    return _federation(config, folder, COUNT, plan, config.cohort.aggregation, candidates.digest)


@dataclass(frozen=True, slots=True)
class Size:
    """What shared noise is laid out for: merchants of the largest sum, and the longest vector that they send.

    Attributes:
        fewer: by how many the smallest sum has fewer merchants; its noise is laid out as if they had dropped out.
    """

    merchants: int
    coordinates: int
    fewer: int = 0


STAND_IN = Size(FEWEST_MASKED, 4)


def _size(config: Config, league: PreparedLeague, vocabulary: Vocabulary) -> Size:
    task = build_task(config.model.task, options(config, Mode(config.privacy.mode)), vocabulary.codes_VA)
    model = task.build(config.seed)
    weights = sum(array.size for array in arrays_of(model, task.spec(model).shared).values())
    counts = config.privacy.clipping_quantile > 0
    smallest, largest = sizes(len(league.merchants))
    return Size(largest, max(weights + counts, vocabulary.size + 1), largest - smallest)


def plans(config: Config, size: Size) -> dict[str, PrivacyPlan]:
    """The privacy plan of each run, the asked one first."""
    plan = _calibrated(PrivacyRequest(**_request(config, size)))
    found = {PRIVATE: plan} if plan.private else {}
    if not plan.private or config.compare.non_private:
        found[ORDINARY] = _no_privacy(config, size)
    return found


_calibrated = cache(calibrate)


def _check_ranges(config: Config) -> None:
    data, cohort = config.data, config.cohort
    at_least_one = {
        "data.min_users": data.min_users,
        "data.min_merchants": data.min_merchants,
        "data.valid_weeks": data.valid_weeks,
        "data.test_weeks": data.test_weeks,
        "data.max_events": data.max_events,
        "cohort.min_merchants": cohort.min_merchants,
        "rounds": config.rounds,
    }
    if config.privacy.mode != Mode.NONE:
        at_least_one |= {
            "privacy.rounds": config.privacy.rounds,
            "privacy.steps_per_round": config.privacy.steps_per_round,
        }
    wrong = [f"{name} must be at least 1, found {value}" for name, value in at_least_one.items() if value < 1]
    for name, value in (("seed", config.seed), ("engine.workers", config.engine.workers)):
        if value < 0:
            wrong.append(f"{name} must be at least 0, found {value}")
    for name, share in (
        ("strategy.fraction_train", config.strategy.fraction_train),
        ("cohort.min_survivors", cohort.min_survivors),
    ):
        if not 0 < share <= 1:
            wrong.append(f"{name} must lie in (0, 1], found {share:g}")
    for name, share in (("dropouts", config.privacy.dropouts), ("colluders", config.privacy.colluders)):
        if not 0 <= share < 0.5:
            wrong.append(f"privacy.{name} is a share of the merchants in [0, 0.5), found {share:g}")
    mode = config.privacy.mode
    if mode in SHARED_NOISE and cohort.aggregation == PLAIN:
        wrong.append(
            f"privacy.mode={mode} shares noise under masks: set cohort.aggregation=secure, or privacy=local"
        )
    if mode in SHARED_NOISE and config.strategy.fraction_train != 1:
        wrong.append(
            f"privacy.mode={mode} lays its noise out for the whole league: set strategy.fraction_train=1, "
            f"found {config.strategy.fraction_train:g}"
        )
    for name, seconds in (
        ("cohort.round_timeout_s", cohort.round_timeout_s),
        ("cohort.gather_timeout_s", cohort.gather_timeout_s),
    ):
        if not 0 < seconds < math.inf:
            wrong.append(f"{name} must be a positive number of seconds, found {seconds:g}")
    for name, word, known in (
        ("data.league", data.league, ("complete_journey", "files")),
        ("engine.name", config.engine.name, ("in_process", "ray")),
        ("cohort.aggregation", config.cohort.aggregation, (PLAIN, SECURE)),
        ("privacy.mode", config.privacy.mode, tuple(Mode)),
    ):
        if word not in known:
            wrong.append(f"{name}={word!r}; choose one of {', '.join(known)}")
    for name, path in (("events", data.events), ("catalogue", data.catalogue)):
        if data.league == "files" and not path:
            wrong.append(f"data.{name} is not set: give data.{name}=PATH (docs/your-own-data.md)")
        if data.league != "files" and path:
            wrong.append(f"data.{name}={path} is read with data=files alone: add data=files")
    if config.repository and config.serve and mode != Mode.NONE and not config.privacy.gate_share:
        remedy = "another mode has one" if mode == Mode.MERCHANT else "give the gate a share, such as 0.05"
        wrong.append(
            "privacy.gate_share=0 leaves nothing to compare a release with the last one of "
            f"repository={config.repository}: {remedy}"
        )
    if wrong:
        raise SettingsError("; ".join(wrong))


def _check_device(name: str) -> None:
    try:
        choose_device(name)
    except HomeError as absent:
        raise SettingsError(str(absent)) from None


def _check_strategy(asked: StrategyConfig) -> None:
    for option, value in asked.options.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise SettingsError(f"strategy.options.{option} must be a finite number, found {value!r}")
    build(asked)


def _check_model(config: Config, mode: Mode) -> None:
    _converted("model.options", options(config, mode), _options_type(config.model.task))
    build_task(config.model.task, options(config, mode), ONE_ITEM)
    ordinary = training(config, mode)
    _converted(
        f"model.under_noise.{mode}.training" if mode in config.model.under_noise else "model.training",
        ordinary,
        TrainingConfig,
    )
    for name, laid_over in (("centralised", config.model.centralised), ("local_only", config.model.local_only)):
        _converted(f"model.{name}", {**ordinary, **laid_over}, TrainingConfig)


def _options_type(task: str) -> type[Any]:
    return type(getattr(build_task(task, {}, ONE_ITEM), "config"))  # noqa: B009


def _converted(name: str, settings: dict[str, Any], kind: type[Any]) -> None:
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(settings) - known):
        raise SettingsError(f"{name} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    try:
        msgspec.convert(settings, kind)
    except msgspec.ValidationError as wrong:
        what, _, where = str(wrong).partition(" - at `$")
        found = settings.get(where.strip(".`"))
        raise SettingsError(
            f"{name}{where.rstrip('`')}: {what}" + (f"; found {found!r}" if where else "")
        ) from None


def workers(config: Config) -> int:
    """How many processes the engine may use."""
    return config.engine.workers or len(os.sched_getaffinity(0))


def training(config: Config, mode: Mode) -> dict[str, Any]:
    """Settings of the merchants' training."""
    return {**config.model.training, **_laid_over(config, mode, "training")}


def strategy(config: Config, mode: Mode) -> StrategyConfig:
    """The strategy that was asked for, or the recipe's."""
    asked = asdict(config.strategy)
    if asked["name"] == RECIPE:
        asked |= config.model.strategy | _laid_over(config, mode, "strategy")
    return StrategyConfig(**asked)


def options(config: Config, mode: Mode) -> dict[str, Any]:
    """Settings of the task's model."""
    return {**config.model.options, **_laid_over(config, mode, "options")}


def _laid_over(config: Config, mode: Mode, part: str) -> dict[str, Any]:
    return dict(config.model.under_noise.get(mode, {}).get(part, {}))


def _federation(
    config: Config, folder: Path, name: str, plan: PrivacyPlan, aggregation: str, vocabulary: str
) -> Federation:
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
        strategy=strategy(config, plan.mode),
        rounds=rounds,
        plan=plan,
        training=training(config, plan.mode),
        popularity=config.model.popularity,
        aggregation=aggregation,
        vocabulary=vocabulary,
    )
    return Federation(
        folder=folder / "runs" / name,
        league=folder / "league",
        task=config.model.task,
        options=options(config, plan.mode),
        device=config.device,
        settings=settings,
        min_survivors=config.cohort.min_survivors,
        carriers=config.data.min_merchants,
        seed=config.seed,
    )


def _request(config: Config, size: Size) -> dict[str, Any]:
    wanted = asdict(config.privacy)
    wanted |= {
        "cohort": size.merchants,
        "dropouts": max(int(config.privacy.dropouts * size.merchants), size.fewer),
        "colluders": max(1, int(config.privacy.colluders * size.merchants)),
        "coordinates": size.coordinates,
    }
    if wanted["mode"] == Mode.NONE:
        wanted["rounds"], wanted["steps_per_round"] = config.rounds, int(config.model.training["steps_per_round"])
    return wanted


def _no_privacy(config: Config, size: Size) -> PrivacyPlan:
    ordinary = replace(config.privacy, mode=Mode.NONE.value, unit="user_merchant", merchants_per_user=1)
    return _calibrated(PrivacyRequest(**_request(replace(config, privacy=ordinary), size)))
