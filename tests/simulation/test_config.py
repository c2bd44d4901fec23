# SPDX-License-Identifier: Apache-2.0
"""Every file in conf/ makes a whole, typed configuration; the list of settings can't grow unseen."""

import dataclasses
import runpy
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from client.trainer import TrainingConfig
from models.recommendation import RecommendationConfig
from privacy.plan import Mode
from simulation.config import Config, register
from simulation.outputs import config_hash
from simulation.plans import Size, options, plans, strategy, training
from simulation.settings_help import help_text
from strategies.build import build

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = sorted(
    (file.parent.name, file.stem) for file in CONF.glob("*/*.yaml") if file.parent.name not in ("experiment",)
)
EXPERIMENTS = sorted(file.stem for file in CONF.glob("experiment/*.yaml"))
MODES = [Mode.NONE, Mode.LOCAL, Mode.DISTRIBUTED]
OWN_FILES = ["data.events=events.csv", "data.catalogue=catalogue.csv"]


def composed(*overrides):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = compose("config", overrides=list(overrides))
    config = OmegaConf.to_object(settings)
    assert isinstance(config, Config)
    return config


@pytest.mark.parametrize(("group", "name"), GROUPS)
def test_every_config_file_makes_a_whole_configuration(group, name):
    config = composed(f"{group}={name}", *(OWN_FILES if name == "files" else []))
    assert config_hash(config)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_lays_over_the_defaults(name):
    assert composed(f"experiment={name}")


@pytest.mark.parametrize("name", [name for group, name in GROUPS if group == "strategy"])
def test_every_strategy_file_builds_its_strategy(name):
    config = composed(f"strategy={name}")
    assert all(build(strategy(config, mode)) for mode in MODES)


def test_an_asked_strategy_replaces_the_recipes():
    recipe, asked = composed(), composed("strategy=fedyogi")
    assert [strategy(recipe, mode).name for mode in MODES] == ["fedadam", "fedavg", "fedavgm"]
    assert {strategy(asked, mode).name for mode in MODES} == {"fedyogi"}


@pytest.mark.parametrize("name", [name for group, name in GROUPS if group == "privacy"])
def test_every_privacy_file_calibrates_to_its_epsilon(name):
    config = composed(f"privacy={name}")
    for plan in plans(config, Size(merchants=111, coordinates=30_000)).values():
        assert plan.epsilon <= config.privacy.epsilon if plan.private else plan.epsilon == float("inf")


def test_the_models_settings_are_the_recipes_own_defaults():
    config = composed()
    expected = dataclasses.asdict(RecommendationConfig())
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in options(config, Mode.NONE).items()} == expected


@pytest.mark.parametrize("mode", MODES)
def test_the_training_settings_are_what_a_merchant_takes(mode):
    assert TrainingConfig(**training(composed(), mode))


def test_an_unknown_setting_is_refused():
    with pytest.raises(ConfigCompositionException, match="colour"):
        composed("privacy.colour=blue")


def test_the_hash_follows_what_decides_the_model_and_nothing_else():
    base = config_hash(composed())
    assert config_hash(composed("output=elsewhere", "resume=true", "engine.workers=1", "serve=false")) == base
    assert config_hash(composed("seed=1")) != base
    assert config_hash(composed("model.options.dimension=8")) != base


def test_the_list_of_settings_is_the_golden_one():
    def keys(node, prefix=""):
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if dataclasses.is_dataclass(value):
                yield from keys(value, f"{prefix}{field.name}.")
            elif isinstance(value, dict):
                yield from (f"{prefix}{field.name}.{key}" for key in value)
            else:
                yield f"{prefix}{field.name}"

    golden = Path(__file__).with_name("settings.txt").read_text("utf-8").split()
    assert sorted(keys(composed())) == golden


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("data.test_weeks=abc", "data.test_weeks=abc: expected a whole number"),
        ("privacy.epsilon=", "privacy.epsilon=: expected a number"),
        ("compare.baselines=maybe", "compare.baselines=maybe: expected true or false"),
        ("output=null", "output=null: expected text"),
        ("cohort=3", "cohort=3: expected one of its settings, as cohort.NAME=VALUE"),
        ("data.test_week=3", "data.test_week=3: there is no such setting; the nearest is data.test_weeks"),
        ("test_weeks=3", "test_weeks=3: there is no such setting; the nearest is data.test_weeks"),
        ("model.options.dimensoin=8", "there is no such setting; the nearest is model.options.dimension"),
        ("+data.epsilom=1", "epsilom: there is no such setting; the nearest is privacy.epsilon"),
        ("experiment=nosuch", "experiment=nosuch: choose one of open"),
        ("model=nosuch", "model=nosuch: choose one of recommendation"),
        ("strategy=fedadm", "strategy=fedadm: choose one of fedadam, fedavg, fedavgm, fedprox, fedyogi, recipe"),
        ("data.test_weeks", "data.test_weeks: expected KEY=VALUE"),
        ("seed=[1", "seed=[1: expected KEY=VALUE"),
        ("seed=3 rounds=2 seed=4", "seed=3 seed=4: seed is given twice; keep one"),
        ("privacy=local +privacy=none", "privacy is given twice"),
        ("~seed", "seed has no value: give seed=VALUE"),
        ("output=${nosuch}", "output: Interpolation key 'nosuch' not found"),
    ],
)
def test_a_wrong_override_ends_with_2_and_one_line_of_field_value_and_remedy(monkeypatch, capsys, typed, line):
    monkeypatch.setattr("sys.argv", ["simulate.py", *typed.split()])
    # Hydra closes every log handler of its process: of this one too, and with absl's the stream behind it.
    monkeypatch.setattr("hydra._internal.logging_config.configure_logging", lambda config: None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(CONF.parent / "simulate.py"), run_name="__main__")
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("hansa: ")
    assert line in lines[0]


def test_help_says_a_sentence_for_every_group_and_shows_the_settings_of_the_chosen_ones():
    text = help_text([])
    assert all(f" {group}={name} " in text for group, name in GROUPS)
    assert "rounds: 48           # of the non-private run" in text
    assert "epsilon: 3.0             # over the whole run" in text
    assert "hydra" not in text
    assert "defaults:" not in text
    other = help_text(["privacy=local", "seed=3"])
    assert "* privacy=local " in other
    assert "epsilon: 8.0             # over the whole run" in other
    assert "epsilon: 3.0 " not in other


def test_every_setting_stands_in_the_help_of_its_group():
    names = Path(__file__).with_name("settings.txt").read_text("utf-8").split()
    text = help_text([]) + help_text(["data=files"])
    assert [name for name in names if f"{name.split('.')[-1]}:" not in text] == []
