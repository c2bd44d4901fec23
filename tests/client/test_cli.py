# SPDX-License-Identifier: Apache-2.0
"""`hansa merchant`, `hansa doctor` and `hansa ledger` as people call them."""

import json
import tomllib
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from client.cli import main as merchant
from client.doctor import main as doctor
from client.home import open_home
from client.runtime import read_runtime
from privacy.cli import main as ledger
from privacy.policy import Policy
from tests.client.small import OPTIONS, request


def init(small, home, *more):
    events, vocabulary = str(small.events), str(small.folder / "vocabulary.parquet")
    options = ["--name", "north", "--events", events, "--vocabulary", vocabulary, "--options", json.dumps(OPTIONS)]
    moments = ["--train-until", "2024-02-26T12:00:00Z", "--gate-until", "2024-03-25T12:00:00Z"]
    return merchant(["init", str(home), *options, *moments, *more])


def state(capsys):
    return {(check["name"], check["state"]) for check in json.loads(capsys.readouterr().out)["checks"]}


def test_init_makes_a_home_that_opens_with_the_strict_default_policy(small, tmp_path, capsys):
    home = tmp_path / "new" / "home"
    assert init(small, home) == 0
    assert "next: read" in capsys.readouterr().out
    opened = open_home(home)
    assert opened.settings.name == "north"
    assert opened.policy == Policy()
    assert set(tomllib.loads((home / "policy.toml").read_text())) <= set(Policy.__dataclass_fields__)
    assert (home / "policy.toml").read_text().count("#") > 8
    assert read_runtime(home / "runtime.json").options == OPTIONS


def test_init_says_every_problem_in_one_line_each_and_changes_nothing(small, tmp_path, capsys):
    arguments = ["--name", "", "--events", "nowhere.csv", "--vocabulary", "none.parquet", "--max-events", "0"]
    assert merchant(["init", str(tmp_path / "new"), *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert not (tmp_path / "new").exists()
    before = {path: path.read_bytes() for path in small.home.iterdir() if path.is_file()}
    assert init(small, small.home) == 2
    assert "a home is here already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in small.home.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ('{"dimensoin": 16}', "model.options has no dimensoin; it has dimension"),
        ('{"dimension": "16"}', "dimension"),
        ('{"dimension": 0}', "dimension"),
    ],
)
def test_init_refuses_options_that_the_task_does_not_take_and_changes_nothing(
    small, tmp_path, capsys, options, words
):
    assert init(small, tmp_path / "new", "--options", options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--options", "{dimension: 16}"), "expected a JSON object"),
        (("--train-until", "monday"), "'monday': expected a day or moment"),
    ],
)
def test_init_says_what_an_argument_should_look_like(small, tmp_path, capsys, more, words):
    with pytest.raises(SystemExit) as ended:
        init(small, tmp_path / "new", *more)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_init_refuses_default_weeks_in_which_nothing_was_bought(small, tmp_path, capsys):
    events, vocabulary = str(small.events), str(small.folder / "vocabulary.parquet")
    arguments = ["--name", "north", "--events", events, "--vocabulary", vocabulary]
    assert merchant(["init", str(tmp_path / "new"), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--gate-until: no event lies between" in line
    assert not (tmp_path / "new").exists()
    newer = pl.read_parquet(small.events).with_columns(
        pl.lit(datetime.now(UTC) - timedelta(days=2)).alias("timestamp")
    )
    newer.unique(["user_id", "item_id"]).write_parquet(small.events)
    assert merchant(["init", str(tmp_path / "new"), *arguments]) == 0


@pytest.mark.parametrize("where", ["file/home", "file", "x" * 300])
def test_init_on_an_impossible_path_ends_with_2_and_one_line(small, tmp_path, capsys, where):
    (tmp_path / "file").write_text("in the way")
    assert init(small, tmp_path / where) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "choose a folder that you can write" in lines[0]


@pytest.mark.parametrize("arguments", [[], ["run"], ["dance", "home"], ["init", "h", "--name", "n"]])
def test_a_wrong_call_ends_with_2(arguments):
    with pytest.raises(SystemExit) as ended:
        merchant(arguments)
    assert ended.value.code == 2


def test_run_says_each_problem_of_the_data_in_one_line(small, capsys):
    events = pl.read_parquet(small.events)
    events.with_columns(event=pl.lit("steal"), quantity=pl.lit(-1.0)).write_parquet(small.events)
    assert merchant(["run", str(small.home)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("hansa merchant: ") for line in lines)


def test_status_tells_how_a_node_stands(small, runtime, capsys):
    assert merchant(["status", str(small.home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["releases"] == 0
    assert not (small.home / "ledger.jsonl").exists()
    small.worker(runtime).answer(request(runtime))
    assert merchant(["status", str(small.home), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["daemon"] == "does not run"
    assert report["releases"] == 1
    assert 0 < report["epsilon_reserved"] < report["max_epsilon"]
    assert merchant(["status", str(small.folder / "nowhere")]) == 2
    assert "hansa merchant init" in capsys.readouterr().err


def test_ledger_shows_what_is_spent_and_left(small, runtime, capsys):
    worker = small.worker(runtime)
    for number in (1, 2):
        worker.answer(request(runtime, round=number))
    assert ledger([str(small.home), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["records"] == 4
    assert 0 < report["epsilon_spent"] <= report["epsilon_with_reserved"] < report["epsilon_allowed"]
    assert report["rounds_left"] >= 1
    assert [release["spent"] for release in report["releases"]] == [True, True]
    assert ledger([str(small.home / "ledger.jsonl"), "--verify", "--anchor", report["head"]]) == 0
    assert "the chain holds" in capsys.readouterr().out
    assert ledger([str(small.home)]) == 0
    assert "rounds like the last one" in capsys.readouterr().out


def test_ledger_names_the_unit_in_words_and_says_when_the_policy_allows_another(small, runtime, capsys):
    words = "one user inside one merchant (all events of that user there)"
    assert ledger([str(small.home)]) == 0
    assert f"unit  user_merchant: {words}" in capsys.readouterr().out
    small.worker(runtime).answer(request(runtime))
    assert ledger([str(small.home), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["unit"] == {"name": "user_merchant", "words": words}
    assert report["epsilon_left"] > 0
    policy = small.home / "policy.toml"
    policy.write_text(policy.read_text() + 'units = ["user_k"]\n')
    assert ledger([str(small.home), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["unit"]["name"] == "user_merchant"
    assert [unit["name"] for unit in report["units_allowed"]] == ["user_k"]
    assert report["epsilon_left"] == 0
    assert ledger([str(small.home)]) == 0
    assert "refused: units = ['user_k'] in the policy" in capsys.readouterr().out
    assert doctor([str(small.home), "--json"]) == 1
    assert ("ledger", "bad") in state(capsys)


def test_ledger_of_a_fresh_home_says_that_nothing_is_spent_and_what_is_allowed(small, tmp_path, capsys):
    assert ledger([str(small.home)]) == 0
    text = capsys.readouterr().out
    assert "nothing has been spent yet" in text
    assert "allowed 30, left 30" in text
    assert ledger([str(small.home), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["records"], report["releases"], report["epsilon_spent"]) == (0, [], 0)
    assert not (small.home / "ledger.jsonl").exists()
    assert ledger([str(small.home), "--anchor", f"3:{'0' * 64}"]) == 1
    assert "restore the original" in capsys.readouterr().err
    assert ledger([str(tmp_path / "nowhere")]) == 2


def test_ledger_finds_an_edit_and_a_cut(small, runtime, capsys):
    small.worker(runtime).answer(request(runtime))
    path = small.home / "ledger.jsonl"
    assert ledger([str(path), "--verify", "--json"]) == 0
    head = json.loads(capsys.readouterr().out)["head"]
    whole = path.read_bytes()
    path.write_bytes(whole.splitlines(keepends=True)[0])
    assert ledger([str(path), "--verify"]) == 0
    assert ledger([str(path), "--verify", "--anchor", head]) == 1
    path.write_bytes(whole.replace(b'"round":1', b'"round":9'))
    assert ledger([str(path), "--verify"]) == 1
    assert "changed after it was written" in capsys.readouterr().err


def test_a_runs_name_cannot_steer_the_terminal(small, runtime, capsys):
    from dataclasses import replace

    small.worker(runtime).answer(replace(request(runtime), run="\x1b[2Jrun\n"))
    assert ledger([str(small.home)]) == 0
    assert "\x1b" not in capsys.readouterr().out
