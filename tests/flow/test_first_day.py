# SPDX-License-Identifier: Apache-2.0
"""docs/first-day.md, command by command, with real processes: from nothing to a recommendation."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import polars as pl
import pytest

from client.runtime import read_runtime
from privacy.secagg.enrolment import enrolment
from privacy.secagg.identity import Identity
from tests.flow.conftest import CANARY, ROOT

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs" / "first-day.md").read_text("utf-8")
QUICK = (
    *("compare.local_only=false", "compare.centralised=false", "compare.baselines=false"),
    "compare.non_private=false",
)
USER = f"{CANARY}-0-1"


@pytest.fixture
def handed_over(run_job, own_files, tmp_path):
    """What a merchant holds on Monday: the shop's events, and what platform and council sent."""
    code, text = run_job(tmp_path / "league run", *QUICK)
    assert code == 0, text
    (run,) = (tmp_path / "league run").glob("*")
    here = tmp_path / "shop"
    (here / "league").mkdir(parents=True)
    events = pl.read_csv(own_files / "events.csv", infer_schema=False)
    events.filter(pl.col("merchant_id") == "shop-0").drop("merchant_id").write_csv(here / "events.csv")
    root = run / "platform" / "repository" / "metadata" / "1.root.json"
    (here / "league" / "1.root.json").write_bytes(root.read_bytes())
    runtime = read_runtime(run / "runs" / "federated_private" / "homes" / "runtime.json")
    (here / "league" / "options.json").write_text(json.dumps(runtime.options))
    return here, run / "platform" / "repository"


@pytest.fixture
def shell(handed_over):
    """Runs one block of the page as typed, but for the feed's address, the port and the user."""
    here, feed = handed_over
    (here / "bin").mkdir()
    command = here / "bin" / "hansa"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hansa "$@"\n')
    command.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "PATH": f"{here / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    started = []

    def run(block):
        block = block.replace("https://league.example/releases", f'"{feed}"').replace("8077", port)
        block = block.replace('"u1"', f'"{USER}"')
        said = here / "said.txt"
        with said.open("w") as output:
            process = subprocess.Popen(
                ["bash", "-euc", block], cwd=here, env=environment, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        started.append(process.pid)
        code = process.wait(timeout=240)
        assert code == 0, block + said.read_text()
        return said.read_text()

    yield run
    for group in started:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue


def council_meets(here):
    """What the council has before the newcomer's line comes: three others' enrolments."""
    lines = [enrolment(f"other-{n}", Identity.generate()) for n in range(3)]
    (here / "others.txt").write_text("\n".join(lines))


def test_the_pages_commands_lead_from_nothing_to_a_recommendation(shell, handed_over):
    here, _ = handed_over
    said = {}
    council_meets(here)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL):
        said[block.split("\n")[0].split(" home")[0]] = shell(block)
    assert "sound" in said["hansa doctor"]
    assert "nothing has been spent yet" in said["hansa doctor"]
    assert "4 merchants" in said["hansa merchant pin"]
    answer = json.loads(said[next(first for first in said if first.startswith("curl"))])
    assert len(answer["items"]) == 5
    assert answer["fallback"] == []
