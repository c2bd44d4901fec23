# SPDX-License-Identifier: Apache-2.0
"""The page, looked at in a real browser."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulation.report import write_report
from tests.simulation.test_report import HOSTILE, Results

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BROWSER_ANSWER_S = 40.0


class Browser:
    """Chromium over its debugging pipe (file descriptors 3 and 4): one page, its requests and complaints."""

    def __init__(self, profile: Path) -> None:
        assert BROWSER is not None
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={profile}",
            "--remote-debugging-pipe",
        ]
        redirected = ["sh", "-c", 'exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null', "sh", BROWSER, *flags]
        self.process = subprocess.Popen(
            redirected, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.events: list[dict[str, Any]] = []
        self.buffer = b""
        self.sent = 0
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        assert self.process.stdin is not None
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        self.process.stdin.flush()
        return self.until(lambda m: m.get("id") == self.sent)["result"]

    def until(self, wanted: Any) -> dict[str, Any]:
        assert self.process.stdout is not None
        deadline = time.monotonic() + BROWSER_ANSWER_S
        while (left_s := deadline - time.monotonic()) > 0.0:
            while b"\0" in self.buffer:
                raw, self.buffer = self.buffer.split(b"\0", 1)
                message = json.loads(raw)
                self.events.append(message)
                if wanted(message):
                    return dict(message)
            ready, _, _ = select.select([self.process.stdout], [], [], left_s)
            if not ready:
                break
            chunk = os.read(self.process.stdout.fileno(), 1 << 20)
            assert chunk, "the browser went away"
            self.buffer += chunk
        raise TimeoutError(f"the browser did not answer within {BROWSER_ANSWER_S} s")

    def open(self, path: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        if not any(m.get("method") == "Page.loadEventFired" for m in self.events):
            self.until(lambda m: m.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    def heard(self, method: str) -> list[dict[str, Any]]:
        return [m["params"] for m in self.events if m.get("method") == method]

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self.process.wait(timeout=10)  # closing the pipe ends it
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the path")
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


def test_in_a_real_browser(browser: Browser, results: Results, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    results["example"]["recommended"][0]["name"] = HOSTILE
    results["uplift"][0]["merchants"][0]["merchant"] = HOSTILE
    write_report(results, path)
    for scheme in ("light", "dark"):
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", features=media)
        browser.open(path)
        requested = {r["request"]["url"] for r in browser.heard("Network.requestWillBeSent")}
        assert {url for url in requested if not url.startswith("data:")} == {path.as_uri()}
        assert browser.heard("Runtime.consoleAPICalled") == []
        assert browser.heard("Runtime.exceptionThrown") == []
        assert browser.heard("Log.entryAdded") == []
        assert browser.value("document.title") == "Hansa: Complete Journey"
        assert browser.value("document.scripts.length") == 0
        boxes = browser.value(
            "[...document.querySelectorAll('svg.plot')].map(s => {"
            "const b = s.getBoundingClientRect(); return [s.id, b.width, b.height]})"
        )
        assert {name for name, _, _ in boxes} == {"plot-methods", "plot-uplift", "plot-learning", "plot-epsilon"}
        assert all(width > 400 and height > 150 for _, width, height in boxes)
        inked = browser.value("[...document.querySelectorAll('svg.plot text')].map(t => getComputedStyle(t).fill)")
        assert len(set(inked)) >= 2, "texts of a plot take the page's colours"
        bright = browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert bright == (scheme == "light")
    width, scrolled = browser.value("[document.documentElement.clientWidth, document.documentElement.scrollWidth]")
    assert scrolled <= width, "the page scrolls sideways"
