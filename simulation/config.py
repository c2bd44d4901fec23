# SPDX-License-Identifier: Apache-2.0
"""Every setting of the main job, as frozen dataclasses: the schema of `conf/`.

Hydra fills them at the entry point; no other code sees Hydra. The reason for each default stands beside its
value in `conf/`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import FrozenInstanceError, asdict, dataclass, field
from difflib import get_close_matches
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError


@dataclass(frozen=True)
class DataConfig:
    """Which league: the one that ships, or anybody's own files."""

    league: str = MISSING
    events: str = ""
    catalogue: str = ""
    min_users: int = MISSING
    min_merchants: int = MISSING
    valid_weeks: int = MISSING
    test_weeks: int = MISSING
    max_events: int = MISSING


@dataclass(frozen=True)
class ModelConfig:
    """The task, and its settings for each way of training it.

    `popularity` names the model's array of league popularity, "" where a task has none. Options, training and
    strategy of `under_noise` are laid over the ordinary ones in private runs of that mode, `centralised` and
    `local_only` over training in those reference runs. The strategies are what `strategy=recipe` means.
    """

    task: str = MISSING
    popularity: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    strategy: dict[str, Any] = field(default_factory=dict)
    under_noise: dict[str, dict[str, Any]] = field(default_factory=dict)
    centralised: dict[str, Any] = field(default_factory=dict)
    local_only: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PrivacyConfig:
    """What is promised to a user, and how the budget is split.

    dropouts and colluders are shares of the league; they and scale_log2 belong to modes `distributed` and
    `merchant`, the quantile that the clipping norm follows to `distributed`.
    """

    mode: str = MISSING
    unit: str = MISSING
    epsilon: float = MISSING
    delta: float = MISSING
    clipping_norm: float = MISSING
    sampling_rate: float = MISSING
    steps_per_round: int = MISSING
    rounds: int = MISSING
    popularity_share: float = MISSING
    gate_share: float = MISSING
    merchants_per_user: int = MISSING
    dropouts: float = 0.0
    colluders: float = 0.0
    scale_log2: int = 16
    clipping_quantile: float = 0.0
    clipping_share: float = 0.01


@dataclass(frozen=True)
class StrategySettings:
    """How the cohort's mean becomes the next model."""

    name: str = MISSING
    fraction_train: float = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    averaging: float = 0.0


@dataclass(frozen=True)
class CohortConfig:
    """When a round counts."""

    aggregation: str = MISSING
    min_merchants: int = MISSING
    min_survivors: float = MISSING
    round_timeout_s: float = MISSING
    gather_timeout_s: float = MISSING


@dataclass(frozen=True)
class EngineConfig:
    """Where merchants' work runs."""

    name: str = MISSING
    workers: int = MISSING


@dataclass(frozen=True)
class CompareConfig:
    """What is trained and measured beside the run itself."""

    baselines: bool = MISSING
    non_private: bool = MISSING
    local_only: bool = MISSING
    centralised: bool = MISSING


@dataclass(frozen=True)
class Config:
    """The whole main job."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    strategy: StrategySettings = field(default_factory=StrategySettings)
    cohort: CohortConfig = field(default_factory=CohortConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    rounds: int = MISSING
    seed: int = MISSING
    device: str = MISSING
    output: str = MISSING
    resume: bool = MISSING
    serve: bool = MISSING
    repository: str = MISSING


def register() -> None:
    """Make the schema known to Hydra under the name that `conf/config.yaml` extends.

    A frozen dataclass gives read-only nodes, into which Hydra can't merge files: the flags are lifted on the
    schema alone, and what the entry point turns into a `Config` is frozen again.
    """
    schema = OmegaConf.structured(Config)
    _lift_read_only(schema)
    ConfigStore.instance().store(name="schema", node=schema)


def _lift_read_only(node: DictConfig) -> None:
    OmegaConf.set_readonly(node, None)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _lift_read_only(child)


class WrongOverride(Exception):
    """What was typed makes no configuration; one line with field, value and remedy."""


def typed(settings: DictConfig) -> Config:
    """The composed settings as frozen dataclasses; raises `WrongOverride` for a field too many or too few."""
    try:
        config = OmegaConf.to_object(settings)
    except FrozenInstanceError as extra:
        name = str(extra).split("'")[1]
        raise WrongOverride(_no_such_setting(name, OmegaConf.structured(Config))) from None
    except OmegaConfBaseException as wrong:
        raise WrongOverride(f"{wrong.full_key}: {str(wrong).splitlines()[0]}") from None
    assert isinstance(config, Config)
    if gone := sorted(OmegaConf.missing_keys(asdict(config))):
        raise WrongOverride(f"{gone[0]} has no value: give {gone[0]}=VALUE")
    return config


def check_once(overrides: Sequence[str]) -> None:
    """Raises `WrongOverride` for a setting that was typed twice: the last one would win unseen."""
    typed_first: dict[str, str] = {}
    for text in overrides:
        name = text.lstrip("+~").partition("=")[0]
        if not text.startswith("-") and typed_first.setdefault(name, text) is not text:
            raise WrongOverride(f"{typed_first[name]} {text}: {name} is given twice; keep one")


def explain(error: HydraException, overrides: Sequence[str]) -> WrongOverride:
    """Hydra's refusal of `overrides` in one line of our own words."""
    cause = error.__cause__
    if isinstance(error, OverrideParseException):
        return WrongOverride(f"{error.override}: expected KEY=VALUE; quote what holds commas, brackets or blanks")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return WrongOverride(f"{group}={name}: choose one of {', '.join(error.options)}")
    if not isinstance(cause, OmegaConfBaseException):
        return WrongOverride(" ".join(str(error).split()))
    name = cause.full_key or ""
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        return WrongOverride(_no_such_setting(_as_typed(name, overrides), cause.parent_node._get_root()))
    if isinstance(cause, ValidationError):
        return WrongOverride(f"{_as_typed(name, overrides)}: expected {_expected(name)}")
    return WrongOverride(f"{_as_typed(name, overrides)}: {str(cause).splitlines()[0]}")


def _no_such_setting(shown: str, settings: DictConfig) -> str:
    name = shown.partition("=")[0]
    keys = [key for key in _dotted(settings) if not key.startswith("hydra.")]
    forms = {form: key for key in keys for form in (key.split(".")[-1], key)}
    near = get_close_matches(name, forms, n=1, cutoff=0.0)
    return f"{shown}: there is no such setting; the nearest is {forms[near[0]]} (docs/settings.md lists all)"


def _dotted(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, node):
        child = node._get_node(key)
        if isinstance(child, DictConfig) and len(child):
            yield from _dotted(child, f"{prefix}{key}.")
        else:
            yield prefix + key


def _as_typed(name: str, overrides: Sequence[str]) -> str:
    return next((text for text in overrides if text.lstrip("+~").partition("=")[0] == name), name)


def _expected(name: str) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    kind: Any = Config
    for part in name.split("."):
        fields = getattr(kind, "__dataclass_fields__", {})
        kind = fields[part].type if part in fields else None
    return words.get(kind, f"one of its settings, as {name}.NAME=VALUE")
