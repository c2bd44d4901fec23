# SPDX-License-Identifier: Apache-2.0
"""Two ways to drive serving: in process over ASGI, and as a real process over a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serving.app import App
from tests.serving.small import item_id

ROOT = Path(__file__).resolve().parents[2]


class Client:
    """A synchronous client of an application in process; its event loop runs in a thread of its own."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.run(app.start())

    def run(self, work: Any) -> Any:
        """Run a coroutine on the application's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request."""
        response: httpx.Response = self.run(self.request_async(method, path, **options))
        return response

    async def request_async(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, to be awaited on the application's loop."""
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, **options)

    def get(self, path: str) -> httpx.Response:
        """One GET."""
        return self.request("GET", path)

    def post(self, path: str, body: object) -> httpx.Response:
        """One POST of JSON."""
        return self.request("POST", path, json=body)

    def raw(self, path: str, body: bytes, content_type: str = "application/json") -> httpx.Response:
        """One POST of bytes."""
        return self.request("POST", path, content=body, headers={"content-type": content_type})

    def recommend(self, **body: Any) -> dict[str, Any]:
        """An answer of /v1/recommend that must succeed."""
        response = self.post("/v1/recommend", body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def buy(self, user: str, *items: int, **fields: Any) -> dict[str, Any]:
        """Store purchases that must be accepted."""
        events = [{"user_id": user, "item_id": item_id(i), "event": "purchase", **fields} for i in items]
        response = self.post("/v1/events", {"events": events})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def close(self) -> None:
        """Stop the application and its loop."""
        if self._loop.is_closed():
            return
        self.run(self.app.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass
class Process:
    """`python -m serving` as a real process on a free port; its output goes to files."""

    home: Path
    process: subprocess.Popen[bytes]
    url: str
    ready_line: str

    @classmethod
    def start(cls, home: Path, *arguments: str) -> Process:
        """Start it and wait for its ready line."""
        out, err = home.parent / "stdout.log", home.parent / "stderr.log"
        command = [sys.executable, "-m", "serving", str(home), "--port", "0", *arguments]
        with out.open("ab") as stdout, err.open("ab") as stderr:
            begin = stdout.tell()
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=stdout, stderr=stderr, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        deadline_s = time.monotonic() + 60
        while True:
            text = out.read_bytes()[begin:].decode()
            if found := re.search(r"on (http://\S+)", text):
                return cls(home, process, found[1], text)
            if process.poll() is not None or time.monotonic() > deadline_s:
                process.kill()
                raise AssertionError(f"no ready line: {text}{err.read_text()}")
            time.sleep(0.02)

    def output(self) -> str:
        """Everything it has written."""
        return "".join((self.home.parent / name).read_text() for name in ("stdout.log", "stderr.log"))

    def log_lines(self) -> list[dict[str, Any]]:
        """Its log."""
        return [json.loads(line) for line in (self.home.parent / "stderr.log").read_text().splitlines()]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=30)
