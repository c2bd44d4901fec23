# SPDX-License-Identifier: Apache-2.0
"""The main job as a user runs it: from anybody's own files to recommendations served over HTTP."""

import json
import signal
import time

import pytest

from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from releases.pull import active
from server.app import read_run

CANARY = "canary7f3a"
QUICK = ("compare.local_only=false", "compare.centralised=false", "compare.baselines=false", "serve=false")
PRIVATE_ONLY = (*QUICK, "compare.non_private=false")


def results(output):
    return json.loads(next(output.glob("*/results.json")).read_text("utf-8"))


def wait_for(condition, timeout_s=120.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_newcomer_sees_a_league_train_publish_verify_serve_and_report(finished):
    folder, text = finished
    found = json.loads((folder / "results.json").read_text("utf-8"))
    names = {method["name"] for method in found["methods"]}
    assert {"federated", "federated_private", "local_only", "centralised", "own_repeats", "item_knn"} <= names
    assert found["release"] == {**found["release"], "version": 1, "published": True}
    assert found["example"]["recommended"]
    assert (folder / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert "serves release 1" in text
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert {line["run"] for line in lines} == {"federated", "federated_private"}
    assert any((folder / "tensorboard").iterdir())


def test_the_served_release_is_the_verified_one_with_the_ledgers_epsilon(finished):
    folder, _ = finished
    home = next(folder.glob("runs/federated_private/homes/*/releases")).parent
    release = active(home)
    plan = PrivacyPlan.from_dict(read_run(folder / "runs" / "federated_private")[0].plan)
    assert release.card.epsilon == pytest.approx(plan.epsilon)
    assert Ledger(home / "ledger.jsonl").epsilon(plan.delta) <= plan.epsilon * (1 + 1e-9)
    assert release.card.unit == "user_merchant"


def test_every_merchants_ledger_holds_what_the_run_cost(finished):
    folder, _ = finished
    plan = PrivacyPlan.from_dict(read_run(folder / "runs" / "federated_private")[0].plan)
    ledgers = sorted(folder.glob("runs/federated_private/homes/*/ledger.jsonl"))
    assert len(ledgers) == 4
    for path in ledgers:
        ledger = Ledger(path)
        ledger.verify()
        purposes = [reservation.purpose for reservation in ledger.reservations()]
        assert purposes == ["popularity", "training", "training", "training"]
        assert all(reservation.spent for reservation in ledger.reservations())
        assert ledger.epsilon(plan.delta) == pytest.approx(plan.epsilon_after(2), rel=0.5)


def test_no_users_id_leaves_the_merchants_homes(finished):
    """User ids carry a canary: only events, event logs and the one shown example may hold it."""
    folder, _ = finished
    example = json.loads((folder / "results.json").read_text("utf-8"))["example"]["user"]
    assert CANARY in example
    allowed = ("league/events/", "/homes/")
    leaks = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(part in path.relative_to(folder).as_posix() for part in allowed)
        if CANARY.encode() in path.read_bytes().replace(example.encode(), b"")
    ]
    assert leaks == []
    logs = b"".join(path.read_bytes() for path in folder.glob("runs/*/homes/*/*.log"))
    assert CANARY.encode() not in logs
    checkpoints = b"".join(path.read_bytes() for path in folder.glob("runs/*/checkpoints/*"))
    assert checkpoints
    assert CANARY.encode() not in checkpoints


def test_the_same_seed_gives_the_same_model_with_one_and_with_two_workers(run_job, tmp_path):
    for workers in (1, 2):
        code, text = run_job(tmp_path / str(workers), *PRIVATE_ONLY, f"engine.workers={workers}")
        assert code == 0, text
    one, two = (results(tmp_path / str(workers))["model_hash"] for workers in (1, 2))
    assert one == two
    code, _ = run_job(tmp_path / "other", *PRIVATE_ONLY, "seed=1")
    assert code == 0
    assert results(tmp_path / "other")["model_hash"] != one


@pytest.mark.parametrize("moment", ["first answer", "second checkpoint", "before any checkpoint"])
def test_a_run_killed_anywhere_resumes_to_the_same_model_and_no_smaller_ledger(
    run_job, begin_job, finished, tmp_path, moment
):
    pattern, count = {
        "before any checkpoint": ("*/runs/*/run.json", 1),
        "first answer": ("*/runs/*/homes/*/answers/*-train.answer", 1),
        "second checkpoint": ("*/runs/*/checkpoints/round-00001*", 1),
    }[moment]
    process = begin_job(tmp_path, *PRIVATE_ONLY)
    wait_for(lambda: len(list(tmp_path.glob(pattern))) >= count or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("*/results.json")), "the run was over before it could be killed"
    code, text = run_job(tmp_path, *PRIVATE_ONLY, "resume=true")
    assert code == 0, text
    assert "going on in" in text
    undisturbed, _ = finished
    expected = json.loads((undisturbed / "results.json").read_text("utf-8"))["model_hash"]
    assert results(tmp_path)["model_hash"] == expected
    for path in tmp_path.glob("*/runs/*/homes/*/ledger.jsonl"):
        twin = next(undisturbed.glob(f"runs/federated_private/homes/{path.parent.name}/ledger.jsonl"))
        plan_delta = 1e-5
        assert Ledger(path).epsilon(plan_delta) >= Ledger(twin).epsilon(plan_delta) * (1 - 1e-9)


def test_a_second_release_must_be_better_than_the_last(run_job, tmp_path):
    shared = (*QUICK[:3], "privacy=none", f"repository='{tmp_path / 'repository'}'")
    code, text = run_job(tmp_path / "first", *shared)
    assert code == 0, text
    code, text = run_job(tmp_path / "second", *shared)
    assert code == 0, text
    assert "not published: not better than the last release" in text
    assert results(tmp_path / "second")["release"]["published"] is False


def test_wrong_data_gets_every_finding_at_once_and_exit_code_2(run_job, own_files, tmp_path):
    bad = tmp_path / "bad.csv"
    lines = (own_files / "events.csv").read_text("utf-8").splitlines()
    lines[3] = lines[3].replace("purchase", "stole")
    lines[7] = lines[7].replace("+00:00", "")
    bad.write_text("\n".join(lines), "utf-8")
    code, text = run_job(tmp_path / "out", f"data.events='{bad}'")
    assert code == 2
    assert "the event type is unknown" in text
    assert "row 3" in text
    assert "bad.csv" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("strategy.name=krum", "krum"),
        ("model.task=telepathy", "telepathy"),
        ("privacy.epsilon=-1", "epsilon"),
        ("privacy.mode=distributed", "distributed"),
        ("model.private_training.learning_rate=0", "learning_rate"),
    ],
)
def test_a_wrong_setting_is_named_without_a_traceback(run_job, tmp_path, override, word):
    code, text = run_job(tmp_path, *PRIVATE_ONLY, override)
    assert code == 2
    assert word in text
    assert "Traceback" not in text
