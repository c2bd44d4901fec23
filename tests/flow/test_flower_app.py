# SPDX-License-Identifier: Apache-2.0
"""The repository's root is a Flower app: what `flwr build` packs, and the same model on Flower's own runtime."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKED = {"client", "data", "models", "privacy", "releases", "server", "strategies"}
QUICK = (
    *("compare.local_only=false", "compare.centralised=false", "compare.baselines=false"),
    *("compare.non_private=false", "serve=false"),
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    environment = {**os.environ, "FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0"}
    command = [str(Path(sys.executable).parent / "flwr"), "build", "--app", str(ROOT)]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return next(folder.glob("*.fab"))


def test_the_bundle_holds_the_rooms_of_both_sides_and_nothing_else(bundle):
    names = zipfile.ZipFile(bundle).namelist()
    folders = {name.split("/")[0] for name in names if "/" in name and not name.startswith(".")}
    assert folders == PACKED
    assert {"LICENSE", "pyproject.toml", "server/app.py", "client/app.py", "data/samples.py"} <= set(names)
    assert bundle.stat().st_size < 10 * 2**20
    assert all(name.endswith((".py", ".md", ".toml", "LICENSE")) for name in names if not name.startswith("."))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra hansa[ray]")
def test_flowers_runtime_gives_the_same_model_as_the_in_process_engine(run_job, tmp_path):
    hashes = []
    for engine in ("in_process", "ray"):
        code, text = run_job(tmp_path / engine, *QUICK, f"engine={engine}")
        assert code == 0, text
        result = next((tmp_path / engine).glob("*/results.json"))
        hashes.append(json.loads(result.read_text("utf-8"))["model_hash"])
    assert hashes[0] == hashes[1]
