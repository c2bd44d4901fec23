# SPDX-License-Identifier: Apache-2.0
"""`kill -9` all over the main job: set-up, rounds, comparison, publication, serving; it always ends in one model.

One job is killed again and again, each time a drawn moment after something new stands in its folder, and resumed.
"""

import json
import random
import signal
import time
from pathlib import Path

import pytest

from privacy.ledger import Ledger

pytestmark = pytest.mark.slow
CLEAR = ("privacy=local", "privacy.rounds=3", "cohort.aggregation=plain")
SEEN = (
    "config.json",
    "league/vocabulary.parquet",
    "league/events/00002.parquet",
    "league/league.json",
    "runs/federated_private/homes/*/secret.key",
    "runs/federated_private/start.safetensors",
    "runs/federated_private/run.json",
    "runs/federated_private/homes/*/answers/*-popularity.answer",
    "runs/federated_private/homes/*/answers/*-train.answer",
    "runs/federated_private/checkpoints/round-00000*",
    "runs/federated_private/checkpoints/round-00002*",
    "runs/federated/run.json",
    "runs/federated/checkpoints/round-00001*",
    "runs/federated/checkpoints/round-00003*",
    "report.html",
    "results.json",
    "platform/keys/timestamp.pem",
    "platform/repository/metadata/timestamp.json",
    "platform/repository/targets/1/*.card.json",
    "runs/*/homes/*/releases/root.json",
    "runs/*/homes/*/releases/active",
    "runs/*/homes/*/serving.log",
    "runs/*/homes/*/serving/events.sqlite",
)
LONGEST_WAIT_S = 0.3
FEWEST_KILLS = 10


@pytest.fixture(scope="module")
def undisturbed(run_job, tmp_path_factory):
    """The folder of a run that nobody disturbed, by the settings that it adds."""
    made: dict[tuple[str, ...], Path] = {}

    def folder(settings: tuple[str, ...]) -> Path:
        if settings not in made:
            output = tmp_path_factory.mktemp("undisturbed")
            code, text = run_job(output, *settings)
            assert code == 0, text
            made[settings] = next(output.glob("*"))
        return made[settings]

    return folder


def ledgers(output):
    """The whole lines of every merchant's ledger."""
    found = {path: path.read_bytes() for path in output.glob("*/runs/*/homes/*/ledger.jsonl")}
    return {path: text[: text.rfind(b"\n") + 1] for path, text in found.items()}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("settings", [CLEAR, ()], ids=["clear", "secure"])
def test_a_job_killed_all_over_ends_with_the_undisturbed_model_and_no_smaller_ledger(
    run_job, begin_job, undisturbed, tmp_path, settings, seed
):
    draws, kept, killed_at = random.Random(seed), {}, []
    for seen in SEEN:
        if list(tmp_path.glob(f"*/{seen}")):
            continue
        process = begin_job(tmp_path, *settings, "resume=true")
        while not list(tmp_path.glob(f"*/{seen}")) and process.poll() is None:
            time.sleep(0.002)
        time.sleep(LONGEST_WAIT_S * draws.random() ** 3)  # mostly at once
        process.send_signal(signal.SIGKILL)
        text, _ = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, f"resumed after {killed_at}: {text}"
            break
        killed_at.append(seen)
        now = ledgers(tmp_path)
        assert all(now[path].startswith(lines) for path, lines in kept.items()), killed_at
        kept = now
    assert len(killed_at) >= FEWEST_KILLS, killed_at
    if not list(tmp_path.glob("*/finished")):
        code, text = run_job(tmp_path, *settings, "resume=true")
        assert code == 0, f"resumed after {killed_at}: {text}"
    (folder,) = tmp_path.glob("*")
    twin = undisturbed(settings)
    found, expected = (json.loads((at / "results.json").read_text("utf-8")) for at in (folder, twin))
    assert found["model_hash"] == expected["model_hash"]
    assert found["release"]["published"]
    assert found["example"]["recommended"]
    for path in folder.glob("runs/*/homes/*/ledger.jsonl"):
        whole = Ledger(twin / path.relative_to(folder))
        assert Ledger(path).epsilon(1e-5) >= whole.epsilon(1e-5) * (1 - 1e-9)
