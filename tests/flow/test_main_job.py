# SPDX-License-Identifier: Apache-2.0
"""The main job as a user runs it: from anybody's own files to recommendations served over HTTP."""

import io
import json
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import product

import polars as pl
import pytest
from rich.console import Console

from privacy.accountant import epsilon
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from releases.pull import active
from server.app import read_run
from simulation.job import run_job as run_here
from simulation.shop_front import ServingFailed, ask, serving
from tests.flow.conftest import ROOT, SMALL
from tests.simulation.test_config import composed

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
    assert "planned is to spend at most ε = " in text
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert {line["run"] for line in lines} == {"federated", "federated_private"}
    assert any((folder / "tensorboard").iterdir())


def test_the_served_release_is_the_verified_one_with_the_ledgers_epsilon(finished):
    folder, _ = finished
    home = next(folder.glob("runs/federated_private/homes/*/releases")).parent
    release = active(home)
    plan = PrivacyPlan.from_dict(read_run(folder / "runs" / "federated_private").plan)
    spent = [
        Ledger(path).epsilon(plan.delta) for path in folder.glob("runs/federated_private/homes/*/ledger.jsonl")
    ]
    assert release.card.epsilon == max(spent) <= plan.epsilon
    assert "as spent; planned was 3.000, which" in release.card.privacy_statement
    assert release.card.unit == "user_merchant"
    shown = json.loads((folder / "results.json").read_text("utf-8"))["release"]["model_sha256"]
    assert release.card.model_hash == shown


def test_a_private_releases_card_carries_no_figures_and_says_why(finished):
    folder, _ = finished
    home = next(folder.glob("runs/federated_private/homes/*/releases")).parent
    card = active(home).card
    assert card.metrics == ()
    assert any("users whom epsilon does not cover" in line for line in card.limitations)
    assert not any("several runs" in line for line in card.limitations)


def test_every_merchants_ledger_holds_what_the_run_cost(finished):
    folder, _ = finished
    plan = PrivacyPlan.from_dict(read_run(folder / "runs" / "federated_private").plan)
    ledgers = sorted(folder.glob("runs/federated_private/homes/*/ledger.jsonl"))
    assert len(ledgers) == 4
    for path in ledgers:
        ledger = Ledger(path)
        ledger.verify()
        purposes = [reservation.purpose for reservation in ledger.reservations()]
        assert purposes == ["popularity", "training", "training", "training"]
        assert all(reservation.spent for reservation in ledger.reservations())
        training = plan.release_events("training") * plan.rounds
        cost = epsilon((*plan.release_events("popularity"), *training), plan.delta)
        assert ledger.epsilon(plan.delta) == pytest.approx(cost, rel=0.01)


def test_no_users_id_leaves_the_merchants_homes(finished):
    """User ids carry a canary: only events and event logs may hold it."""
    folder, text = finished
    assert CANARY not in text
    assert "user 1 (last bought" in text
    assert json.loads((folder / "results.json").read_text("utf-8"))["example"]["user"] == "user 1"
    allowed = ("league/events/", "/homes/")
    leaks = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(part in path.relative_to(folder).as_posix() for part in allowed)
        if CANARY.encode() in path.read_bytes()
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
    lines = [json.loads(line) for line in next(tmp_path.glob("*/metrics.jsonl")).read_text("utf-8").splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    curve = {row["round"]: row["ndcg@10_novel"] for row in results(tmp_path)["rounds"]}
    assert None not in curve.values()
    for path in tmp_path.glob("*/runs/*/homes/*/ledger.jsonl"):
        twin = next(undisturbed.glob(f"runs/federated_private/homes/{path.parent.name}/ledger.jsonl"))
        plan_delta = 1e-5
        assert Ledger(path).epsilon(plan_delta) >= Ledger(twin).epsilon(plan_delta) * (1 - 1e-9)


def test_a_run_that_writes_beside_its_data_outside_the_clone_is_served_too(finished, monkeypatch):
    folder, _ = finished
    monkeypatch.chdir(folder)
    home = next(folder.glob("runs/federated_private/homes/*/releases")).parent
    with serving(home.relative_to(folder)) as address:
        assert ask(address, "/readyz")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_no_serving_process_outlives_a_killed_job(finished):
    folder, _ = finished
    home = next(folder.glob("runs/federated_private/homes/*/releases")).parent
    code = (
        "import pathlib, sys, time\nfrom simulation.shop_front import serving\n"
        "with serving(pathlib.Path(sys.argv[1])) as address:\n    print(address, flush=True)\n    time.sleep(600)"
    )
    job = subprocess.Popen([sys.executable, "-c", code, str(home)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    port = int(job.stdout.readline().rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)):
        job.kill()
        job.communicate()

    def nobody_listens():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    wait_for(nobody_listens, timeout_s=20)


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


def test_figures_and_report_outlive_a_failed_serving_and_a_resumed_run_serves_what_it_published(
    own_files, tmp_path, monkeypatch
):
    sources = (f"data.events='{own_files / 'events.csv'}'", f"data.catalogue='{own_files / 'catalogue.csv'}'")
    asked = (*SMALL, *PRIVATE_ONLY[:-2], "compare.non_private=false", *sources, f"output='{tmp_path}'")
    console = Console(file=io.StringIO())

    def down(home):
        raise ServingFailed("the port is taken")

    with monkeypatch.context() as patched:
        patched.setattr("simulation.finish.serving", down)
        assert run_here(composed(*asked), console) == 1
    assert console.file.getvalue().endswith("hansa: the run failed: the port is taken\n")
    assert results(tmp_path)["release"]["version"] == 1
    assert next(tmp_path.glob("*/report.html")).read_text("utf-8").startswith("<!doctype html>")
    ledgers = {path: path.read_bytes() for path in tmp_path.glob("*/runs/*/homes/*/ledger.jsonl")}
    assert run_here(composed(*asked, "resume=true"), console) == 0
    before = {"version": 1, "published": True, "gate": "published before"}
    assert results(tmp_path)["release"] == {**results(tmp_path)["release"], **before}
    assert results(tmp_path)["example"]["recommended"]
    assert ledgers == {path: path.read_bytes() for path in ledgers}


def test_a_league_without_novel_items_and_a_largest_merchant_without_shoppers_runs_to_its_end(run_job, tmp_path):
    """Besides, names are markup that closes what nobody opened, and blanks stand around ids."""
    begin, rows = datetime(2025, 1, 6, 9, tzinfo=UTC), []
    for merchant, users, kind in (("largest", 9, "view"), ("b", 6, "purchase"), ("c", 6, "purchase")):
        for user, week, item in product(range(users), range(20), range(3)):
            when = begin + timedelta(weeks=week, hours=user)
            rows.append((merchant, f"{merchant}-{user}", f" item-{item + user % 3} ", when.isoformat(), kind))
    columns = ["merchant_id", "user_id", "item_id", "timestamp", "event"]
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(tmp_path / "events.csv")
    names = [f"[/red] [bold]Thing {item}" for item in range(5)]
    items = pl.DataFrame({"item_id": [f"item-{i} " for i in range(5)], "name": names, "shelf": [" s"] * 5})
    items.write_csv(tmp_path / "catalogue.csv")
    sources = (f"data.events='{tmp_path / 'events.csv'}'", f"data.catalogue='{tmp_path / 'catalogue.csv'}'")
    code, text = run_job(tmp_path / "out", *QUICK[:3], *sources, "data.min_merchants=2")
    assert code == 0, text
    assert "serves release 1" in text
    assert "planned is to spend at most ε = " in text
    assert "[/red] [bold]Thing" in text
    assert results(tmp_path / "out")["example"]["merchant"] in ("b", "c")


def test_user_k_is_refused_where_a_user_shops_at_more_merchants(run_job, own_files, tmp_path):
    shared = (own_files / "events.csv").read_text("utf-8")
    for merchant in range(4):
        shared = shared.replace(f"{CANARY}-{merchant}-0,", "everywhere,")
    (tmp_path / "events.csv").write_text(shared, "utf-8")
    unit = ("privacy.unit=user_k", "privacy.merchants_per_user=2", f"data.events='{tmp_path / 'events.csv'}'")
    code, text = run_job(tmp_path / "out", *PRIVATE_ONLY, *unit)
    assert code == 2
    assert "shops at 4 merchants" in " ".join(text.split())
    assert "everywhere" not in text


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("strategy.name=krum", "krum"),
        ("model.task=telepathy", "telepathy"),
        ("privacy.epsilon=-1", "epsilon"),
        ("privacy.unit=household", "household"),
        ("cohort.min_merchants=9", "cohort.min_merchants=9, the league has 4"),
        ("cohort.aggregation=plain", "privacy.mode=distributed shares noise under masks"),
        ("model.under_noise.distributed.training.expected_users=0", "expected_users"),
    ],
)
def test_a_wrong_setting_is_named_without_a_traceback(run_job, tmp_path, override, word):
    code, text = run_job(tmp_path, *PRIVATE_ONLY, override)
    assert code == 2
    assert word in " ".join(text.split())
    assert "Traceback" not in text
    assert not any(tmp_path.iterdir()), "a refused run leaves no folder"
