# SPDX-License-Identifier: Apache-2.0
"""What is written and shown around a run's end: the log, the console, the repository's keys, the shopper."""

import io
import json
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from rich.console import Console

from releases.publish import Repository
from simulation.metrics_log import MetricsLog
from simulation.progress import Display
from simulation.publication import open_repository, same_model
from simulation.shop_front import example, shoppers

START = datetime(2025, 1, 1, tzinfo=UTC)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def test_a_round_is_logged_once_however_often_its_run_was_resumed(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.round("federated", 1, {"ndcg": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as torn:
        torn.write('{"run": "federated", "rou')
    with MetricsLog(tmp_path) as log:
        assert log.logged("federated", 1)
        assert not log.logged("federated_private", 1)
        log.round("federated", 1, {"ndcg": 0.7})
        log.round("federated", 2, {"ndcg": 0.6, "loss": 3.0})
        assert log.series("federated", "ndcg") == {1: 0.5, 2: 0.6}
    assert [(line["round"], line["ndcg"]) for line in lines(tmp_path)] == [(1, 0.5), (2, 0.6)]


def test_no_value_of_the_log_is_nan_or_infinite(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.round("federated", 1, {"ndcg": float("nan"), "loss": float("inf"), "survivors": 2})
    assert lines(tmp_path)[0].keys() == {"time", "run", "round", "survivors"}


@pytest.mark.parametrize("name", ["[bold]Tea[/]", "[/nothing open]", "[link=https://x.example]x", ":smile:"])
def test_a_name_cannot_style_or_break_the_console(name):
    written = io.StringIO()
    display = Display(Console(file=written, width=200))
    display.say(f"{name}\x1b[31m\r")
    display.fail("hansa:", name)
    with display.stage(name, 1) as stage:
        stage.advance(name)
    assert written.getvalue().startswith(f"{name}[31m\nhansa: {name}\n")


def test_keys_that_a_killed_run_left_without_a_repository_are_used(tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Repository, "create", killed)
        with pytest.raises(KeyboardInterrupt):
            open_repository(tmp_path)
    left = {path: path.read_bytes() for path in (tmp_path / "keys").rglob("*.pem")}
    assert len(left) == 6
    (tmp_path / "keys" / "offline" / "root-3.pem").write_bytes(b"")
    assert open_repository(tmp_path).versions() == ()
    del left[tmp_path / "keys" / "offline" / "root-3.pem"]
    assert all(path.read_bytes() == data for path, data in left.items())
    assert open_repository(tmp_path).versions() == ()


def test_models_are_the_same_only_when_every_bit_is():
    one = {"w": pl.Series([1.0, 2.0], dtype=pl.Float32).to_numpy()}
    assert same_model(one, {"w": one["w"].copy()})
    assert not same_model(one, {"w": one["w"] + 1e-6})
    assert not same_model(one, {"v": one["w"]})


def test_shoppers_bought_before_the_test_weeks_and_are_shown_without_their_ids():
    events = pl.DataFrame(
        {
            "user_id": ["secret", "late", "looker"],
            "item_id": ["tea", "tea", "tea"],
            "timestamp": [START, START + timedelta(days=9), START],
            "event": ["purchase", "purchase", "view"],
        }
    )
    found = shoppers(events, START + timedelta(days=2), 3)
    assert [shopper.user_id for shopper in found] == ["secret"]
    shown = example("user 1", found[0], "north", {"items": []}, {"tea": "Tea"})
    assert shown["user"] == "user 1"
    assert "secret" not in json.dumps(shown)
