# SPDX-License-Identifier: Apache-2.0
"""The daemon's manners: whom it lets in, whom it gives up, what it says. Its whole way is in tests/flow."""

import json
import os
import socket
import stat
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from client.app import ask_worker
from client.daemon import FAILED, Daemon, listening, only_daemon
from client.errors import HomeError, Refused
from client.wire import MAGIC, Reply, Request, decode_reply, encode_request, receive_frame, send_frame
from data.errors import ReadError
from privacy.errors import LedgerTampered

ASKED = Request("train", "run-1", 2, {"a": np.ones(3, np.float32)}, {})


def echo(request):
    return Reply(request.arrays, {}, 1)


@contextmanager
def serving(tmp_path, answer=echo, client_timeout_s=5.0):
    path = tmp_path / "run" / "w.sock"
    with listening(path) as listener:
        daemon = Daemon(answer, listener, client_timeout_s)
        thread = threading.Thread(target=daemon.serve)
        thread.start()
        try:
            yield path
        finally:
            daemon.stop()
            thread.join(10)
            assert not thread.is_alive()
    assert not path.exists()


@contextmanager
def connected(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(str(path))
        yield client


def test_only_the_user_who_runs_it_can_open_the_socket(tmp_path):
    with serving(tmp_path) as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(HomeError, match="mode 700"), listening(tmp_path / "open" / "w.sock"):
        pass


def test_requests_are_answered_one_after_another(tmp_path):
    running, most = [], []

    def slowly(request):
        running.append(request)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()
        return echo(request)

    with serving(tmp_path, slowly) as path:
        clients = [threading.Thread(target=ask_worker, args=(str(path), ASKED)) for _ in range(6)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(10)
    assert most == [1] * 6


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        MAGIC,
        MAGIC + b"\xff" * 8,
        MAGIC + (4).to_bytes(8, "big") + b"\xc1\xc1\xc1\xc1",
    ],
)
def test_a_broken_client_is_given_up_and_the_next_one_is_served(tmp_path, sent, capsys):
    with serving(tmp_path) as path:
        with connected(path) as client:
            client.sendall(sent)
        assert ask_worker(str(path), ASKED).weight == 1
    assert '"event": "unreadable"' in capsys.readouterr().err


def test_a_look_whether_it_listens_leaves_no_line_in_the_log(tmp_path, capsys):
    with serving(tmp_path) as path:
        with connected(path):
            pass
        assert ask_worker(str(path), ASKED).weight == 1
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["answered"]


@pytest.mark.parametrize("sent", [b"", MAGIC, MAGIC + (10**6).to_bytes(8, "big") + b"x"])
def test_a_silent_client_is_given_up_at_a_deadline_and_the_next_one_is_served(tmp_path, sent):
    with serving(tmp_path, client_timeout_s=0.3) as path, connected(path) as silent:
        silent.sendall(sent)
        began = time.monotonic()
        assert ask_worker(str(path), ASKED).weight == 1
        assert time.monotonic() - began < 5
        reason = receive_frame(silent, 5.0)
        with pytest.raises(Refused, match="no whole request within"):
            decode_reply(reason)


def test_a_client_that_does_not_take_its_answer_is_given_up_at_a_deadline(tmp_path, capsys):
    big = Reply({"a": np.zeros(3_000_000, np.float32)}, {}, 1)
    with serving(tmp_path, lambda _: big, client_timeout_s=0.3) as path, connected(path) as deaf:
        send_frame(deaf, encode_request(ASKED))
        time.sleep(0.6)
        assert ask_worker(str(path), ASKED).arrays["a"].size == 3_000_000
    assert '"event": "client gone"' in capsys.readouterr().err


def test_a_client_that_leaves_before_its_answer_stops_nobody(tmp_path):
    with serving(tmp_path) as path:
        with connected(path) as hasty:
            send_frame(hasty, encode_request(ASKED))
        assert ask_worker(str(path), ASKED).weight == 1


def test_a_refusal_reaches_the_platform_with_its_reason(tmp_path):
    def refuse(_request):
        raise Refused("epsilon is spent")

    with serving(tmp_path, refuse) as path, pytest.raises(Refused, match=r"^epsilon is spent$"):
        ask_worker(str(path), ASKED)


SECRETS = [
    (ValueError("customer u-4711 bought insulin"), False),
    (MemoryError("1 GB for u-4711"), False),
    (ReadError("/srv/shop/u-4711.csv", "there is no such file", "Check the path"), True),
    (LedgerTampered("/srv/shop/u-4711/ledger.jsonl: line 3"), True),
    (OSError(28, "No space left", "/srv/shop/u-4711"), False),
]


@pytest.mark.parametrize(("error", "words_in_log"), SECRETS)
def test_of_a_failure_that_is_no_refusal_the_platform_learns_only_that_there_was_one(
    tmp_path, capsys, error, words_in_log
):
    def fail(_request):
        raise error

    with serving(tmp_path, fail) as path:
        with pytest.raises(Refused) as told:
            ask_worker(str(path), ASKED)
        assert str(told.value) == FAILED
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert line["event"] == "failed"
    assert line["error"] == type(error).__name__
    assert ("u-4711" in json.dumps(line)) is words_in_log


def test_logs_are_json_lines_with_run_duration_and_outcome_and_hold_no_users_data(tmp_path, capsys):
    with serving(tmp_path) as path:
        ask_worker(str(path), ASKED)
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert line.keys() == {"at", "event", "kind", "run", "round", "wall_s", "size_bytes"}
    assert (line["event"], line["run"], line["round"]) == ("answered", "run-1", 2)


def test_stop_which_is_what_sigterm_does_lets_the_request_in_hand_end_and_its_answer_leave(tmp_path):
    begun, go_on = threading.Event(), threading.Event()

    def wait(request):
        begun.set()
        go_on.wait(10)
        return echo(request)

    path = tmp_path / "run" / "w.sock"
    with listening(path) as listener:
        daemon = Daemon(wait, listener, 5.0)
        thread = threading.Thread(target=daemon.serve)
        thread.start()
        with connected(path) as client:
            send_frame(client, encode_request(ASKED))
            assert begun.wait(10)
            daemon.stop()
            go_on.set()
            assert receive_frame(client, 10.0)
        thread.join(10)
        assert not thread.is_alive()


def test_stop_does_not_wait_for_a_silent_client(tmp_path):
    path = tmp_path / "run" / "w.sock"
    with listening(path) as listener:
        daemon = Daemon(echo, listener, 60.0)
        thread = threading.Thread(target=daemon.serve)
        thread.start()
        with connected(path):
            time.sleep(0.2)
            began = time.monotonic()
            daemon.stop()
            thread.join(10)
            assert not thread.is_alive()
        assert time.monotonic() - began < 5


def test_a_second_daemon_on_the_same_home_is_refused(tmp_path):
    another = only_daemon(tmp_path)
    with only_daemon(tmp_path), pytest.raises(HomeError, match="another daemon lives here"):
        another.__enter__()
    with only_daemon(tmp_path):
        pass


def test_what_a_killed_daemon_left_behind_is_cleared_away_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    path = folder / "w.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    assert path.exists()
    with serving(tmp_path), pytest.raises(HomeError, match="another program listens"), listening(path):
        pass
    path.write_text("somebody's notes")
    with pytest.raises(HomeError, match="another file lies here"), listening(path):
        pass
    assert path.read_text() == "somebody's notes"


def test_a_path_that_is_too_long_for_a_socket_is_refused_with_a_remedy(tmp_path):
    folder = tmp_path / ("d" * 100)
    folder.mkdir(mode=0o700)
    with pytest.raises(HomeError, match="--socket"), listening(folder / "w.sock"):
        pass


def test_the_umask_is_as_before(tmp_path):
    before = os.umask(0o022)
    try:
        with listening(tmp_path / "run" / "w.sock"):
            pass
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
