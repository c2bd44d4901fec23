# SPDX-License-Identifier: Apache-2.0
"""The relay: Flower's messages in and out, and what the platform may read of a failure."""

import socket

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import ask_worker, relay, request_of
from client.errors import Refused, WireError
from client.wire import Reply, Request


@pytest.fixture(autouse=True)
def flower_task(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def message(kind="train", config=None, **records):
    content = RecordDict(
        {"config": ConfigRecord(config or {"run": "r", "server-round": 2, "plan": "{}"}), **records}
    )
    return Message(content, dst_node_id=3, message_type=kind)


def arrays(**values):
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in values.items()})


def test_a_message_becomes_the_workers_request():
    asked = message("query.gate", arrays=arrays(a=np.ones(2, np.float32)), fixed=arrays(b=np.zeros(1, np.float32)))
    found = request_of(asked)
    assert (found.kind, found.run, found.round, found.settings) == ("gate", "r", 2, {"plan": "{}"})
    assert set(found.arrays) == {"a", "b"}


def test_a_reply_becomes_a_message_with_update_statistics_and_weight():
    reply = Reply({"a": np.ones(2, np.float32)}, {"loss": np.array(1.5, np.float32)}, 7)
    sent = relay(message(), lambda _: reply)
    assert sent.content["arrays"]["a"].numpy().tolist() == [1.0, 1.0]
    assert float(sent.content["statistics"]["loss"].numpy()) == 1.5
    assert sent.content["metrics"]["num-examples"] == 7


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Refused("epsilon is spent"), "epsilon is spent"),
        (WireError("not a message of this version"), "not a message of this version"),
        (
            FileNotFoundError(2, "No such file", "/srv/north/run/worker.sock"),
            "does not answer (FileNotFoundError)",
        ),
        (TimeoutError("timed out"), "does not answer (TimeoutError)"),
    ],
)
def test_of_a_failure_at_the_merchant_the_platform_reads_a_reason_that_was_meant_for_it(error, reason):
    def ask(_request):
        raise error

    sent = relay(message(), ask)
    assert sent.error.reason.endswith(reason)
    assert "/srv" not in sent.error.reason


@pytest.mark.parametrize(
    "odd",
    [
        {"run": "r", "server-round": "first"},
        {"run": "r", "server-round": [1, 2]},
        {"run": "r", "server-round": float("nan")},
    ],
)
def test_a_message_that_is_no_request_is_answered_with_a_reason(odd):
    sent = relay(message(config=odd), lambda _: pytest.fail("asked the worker"))
    assert "no request of this version" in sent.error.reason


def test_arrays_that_are_no_float32_never_reach_the_worker(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        with pytest.raises(WireError, match="expected little-endian float32"):
            ask_worker(path, Request("train", "r", 1, {"a": np.zeros(2)}, {}))


def test_bytes_that_are_no_array_are_no_request():
    broken = ArrayRecord({"a": Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=b"\x80\x04junk")})
    sent = relay(message(arrays=broken), lambda _: pytest.fail("asked the worker"))
    assert "no request of this version" in sent.error.reason
