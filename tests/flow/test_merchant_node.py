# SPDX-License-Identifier: Apache-2.0
"""A merchant's node as it is deployed: Flower's message, the relay, a UNIX socket, a daemon of its own process."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import answer
from client.runtime import open_runtime, read_runtime
from privacy.ledger import Ledger
from tests.client.small import CANARY, PLAN, SECRET, TRAINING, Small, build, request, vocabulary

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def flower_task(monkeypatch):
    """What Flower sets in the process that it starts for a message."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def small(tmp_path):
    return build(tmp_path / "league")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    small = build(tmp_path_factory.mktemp("league"))
    return request(open_runtime(read_runtime(small.home / "runtime.json"))).arrays


def start(small: Small):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hansa", "merchant", "run", str(small.home)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=small.folder
    )


@contextmanager
def daemon(small):
    """A daemon that listens; its process, whose output is read when it has ended."""
    process = start(small)
    try:
        ready = process.stdout.readline()
        assert "listens on" in ready, process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


def train_message(model, number=1, **settings):
    proposal = {
        "run": "run-1",
        "server-round": number,
        "plan": json.dumps(PLAN.to_dict()),
        "training": json.dumps(TRAINING),
        "cohort-size": 3,
        "aggregation": "plain",
        "vocabulary": vocabulary().digest,
        **settings,
    }
    shared = {name: array for name, array in model.items() if "popularity" not in name}
    fixed = {name: array for name, array in model.items() if "popularity" in name}
    content = RecordDict(
        {
            "arrays": ArrayRecord({k: Array(v) for k, v in shared.items()}),
            "fixed": ArrayRecord({k: Array(v) for k, v in fixed.items()}),
            "config": ConfigRecord(proposal),
        }
    )
    return Message(content, dst_node_id=7, message_type="train")


def relayed(small, message):
    context = Context(1, 7, {"socket": str(small.home / "run" / "worker.sock")}, RecordDict(), {})
    return answer(message, context)


def arrays_of(reply):
    assert not reply.has_error(), reply.error
    return {name: array.numpy() for name, array in reply.content["arrays"].items()}


def test_a_message_of_flower_is_answered_by_the_daemon_and_survives_kill_9(small, model):
    with daemon(small) as process:
        first = arrays_of(relayed(small, train_message(model)))
        assert all(np.isfinite(array).all() for array in first.values())
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        gone = relayed(small, train_message(model))
        assert gone.has_error()
        assert gone.error.reason == "this merchant's worker does not answer (ConnectionRefusedError)"
    with daemon(small) as process:
        second_daemon = start(small)
        _, errors = second_daemon.communicate(timeout=60)
        assert second_daemon.returncode == 2
        assert "another daemon lives here" in errors

        again = arrays_of(relayed(small, train_message(model)))
        assert all(again[name].tobytes() == first[name].tobytes() for name in first)
        assert len(Ledger(small.home / "ledger.jsonl").reservations()) == 1

        refused = relayed(small, train_message(model, **{"cohort-size": 1}))
        assert refused.has_error()
        assert "at least 2 are required" in refused.error.reason
        odd = relayed(small, train_message(model, **{"server-round": "first"}))
        assert odd.has_error()
        assert "no request of this version" in odd.error.reason

        (small.home / "ledger.jsonl").write_bytes(b"torn")
        broken = relayed(small, train_message(model, 2))
        assert broken.error.reason == "this merchant's node could not answer; its own log says why"

        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert not (small.home / "run" / "worker.sock").exists()
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events == ["listening", "answered", "refused", "failed", "stopped"]
    assert CANARY not in log
    assert SECRET.hex() not in log


def test_a_daemon_whose_data_are_wrong_does_not_start_and_says_why(small):
    (small.home / "merchant.toml").write_text(
        (small.home / "merchant.toml").read_text().replace("north.parq", "no.parq")
    )
    process = start(small)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "there is no such file or folder" in errors


def test_a_node_without_a_worker_says_how_to_start_one(model):
    reply = answer(train_message(model), Context(1, 7, {}, RecordDict(), {}))
    assert "--node-config" in reply.error.reason


def test_the_relay_imports_neither_torch_nor_data():
    code = "import sys, client.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    imported = set(done.stdout.split())
    assert "client.wire" in imported
    assert not imported & {"torch", "data", "polars", "models", "privacy", "client.worker", "client.home"}
