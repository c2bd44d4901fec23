# SPDX-License-Identifier: Apache-2.0
"""The real process on a signed release, over a real socket: ready line, drain, kill, swap, no users' data."""

from __future__ import annotations

import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from releases.pull import activate
from serving.__main__ import main
from tests.serving.drivers import Process
from tests.serving.small import item_id


def purchase(user: str, index: int, event_id: str | None = None) -> dict[str, Any]:
    event = {"user_id": user, "item_id": item_id(index), "event": "purchase"}
    return event if event_id is None else {**event, "event_id": event_id}


def start(processes: list[Process], home: Path, *arguments: str) -> Process:
    processes.append(Process.start(home, *arguments))
    return processes[-1]


def test_the_process_serves_a_signed_release_and_sigterm_ends_it_with_0(
    processes: list[Process], installed_home: Path
) -> None:
    server = start(processes, installed_home)
    assert server.ready_line.count("\n") == 1
    assert "release 1" in server.ready_line
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/readyz").json()["model_version"] == 1
        assert client.post("/v1/events", json={"events": [purchase("u", 3)]}).json()["accepted"] == 1
        answer = client.post("/v1/recommend", json={"user_id": "u"}).json()
        assert (answer["history_events"], answer["fallback"], answer["stale"]) == (1, [], False)
    assert server.end(signal.SIGTERM) == 0


def test_sigterm_drains_a_request_under_way(processes: list[Process], installed_home: Path) -> None:
    server = start(processes, installed_home)
    host, _, port = server.url.removeprefix("http://").partition(":")
    body = b'{"events":[{"user_id":"u","item_id":"item-003","event":"purchase"}]}'
    head = f"POST /v1/events HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode() + body[:20])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        connection.sendall(body[20:])
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"accepted":1' in answer
    assert server.process.wait(timeout=20) == 0
    again = start(processes, installed_home)
    assert httpx.post(f"{again.url}/v1/recommend", json={"user_id": "u"}).json()["history_events"] == 1


def test_an_accepted_event_survives_kill_minus_nine(processes: list[Process], installed_home: Path) -> None:
    server = start(processes, installed_home)
    accepted: list[str] = []

    def send(user: str) -> None:
        with httpx.Client(base_url=server.url) as client:
            for number in range(10_000):
                event_id = f"{user}-{number}"
                try:
                    response = client.post(
                        "/v1/events", json={"events": [purchase(user, 1 + number % 40, event_id)]}
                    )
                except httpx.TransportError:
                    return
                if response.status_code == 200:
                    accepted.append(event_id)

    threads = [threading.Thread(target=send, args=(f"u{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + 20
    while len(accepted) < 60 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    for thread in threads:
        thread.join()
    assert len(accepted) >= 60
    again = start(processes, installed_home)
    events = [
        purchase(event_id.partition("-")[0], 1 + int(event_id.partition("-")[2]) % 40, event_id)
        for event_id in accepted[:1000]
    ]
    answer = httpx.post(f"{again.url}/v1/events", json={"events": events}).json()
    assert answer == {"accepted": 0, "duplicates": len(events), "unknown_items": 0}


def test_no_request_fails_while_a_release_is_swapped(processes: list[Process], installed_home: Path) -> None:
    server = start(processes, installed_home)
    outcomes: list[tuple[int, int]] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.url) as client:
            while not stop.is_set():
                response = client.post("/v1/recommend", json={"history": [{"item_id": item_id(3)}]})
                outcomes.append((response.status_code, response.json().get("model_version", 0)))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for version in (2, 1, 2):
            activate(installed_home, version)
            server.process.send_signal(signal.SIGHUP)
            deadline_s = time.monotonic() + 20
            while outcomes[-1:] != [(200, version)] and time.monotonic() < deadline_s:
                time.sleep(0.01)
            assert outcomes[-1] == (200, version)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in outcomes} == {200}
    assert server.end() == 0


def test_no_log_line_holds_users_data(processes: list[Process], installed_home: Path) -> None:
    server = start(processes, installed_home)
    canary = "CANARY7319"
    event = {
        "user_id": f"user-{canary}",
        "item_id": f"item-{canary}",
        "event": "purchase",
        "basket_id": f"basket-{canary}",
        "event_id": f"event-{canary}",
    }
    with httpx.Client(base_url=server.url) as client:
        client.post("/v1/events", json={"events": [event]})
        client.post("/v1/recommend", json={"user_id": f"user-{canary}"})
        client.post("/v1/recommend", json={"user_id": f"user-{canary}", "k": canary})
        client.post("/v1/recommend", json={f"field-{canary}": 1})
        client.post(
            "/v1/recommend", json={"user_id": "u", "filters": {"attributes": {f"column-{canary}": [canary]}}}
        )
        client.post("/v1/events", content=f"{{broken {canary}", headers={"content-type": "application/json"})
        client.get(f"/users/{canary}?user={canary}", headers={"authorization": f"Bearer {canary}"})
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{canary} {canary}\r\n\r\n".encode())
        connection.recv(1_000)
    assert server.end() == 0
    assert canary not in server.output()
    assert any(line["message"] == "refused" for line in server.log_lines())
    log = (installed_home / "serving" / "events.sqlite").read_bytes()
    assert canary.encode() in log  # the canary was there to be leaked


def test_a_second_process_on_the_same_home_is_refused(
    processes: list[Process], installed_home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start(processes, installed_home)
    assert main([str(installed_home), "--port", "0"]) == 2
    assert "stop it first" in capfd.readouterr().err


def test_wrong_arguments_end_with_2_and_say_what_to_do(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "home folder" in capsys.readouterr().err
    assert main([str(home), "--host", "0.0.0.0"]) == 2
    assert "--token-file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as leave:
        main(["--help"])
    assert leave.value.code == 0
    assert "--retention-days" in capsys.readouterr().out
