# SPDX-License-Identifier: Apache-2.0
"""The one name on the path starts every role, from a checkout and from a wheel."""

import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from hansa.__main__ import ROLES

ROOT = Path(__file__).parents[2]
# Starts a role as `python -m hansa` does and tells which file it came from.
WHERE = """
import atexit, runpy, sys
atexit.register(lambda: print(sys.modules["client.cli"].__file__))
sys.argv = ["hansa", "merchant", "--help"]
runpy.run_module("hansa", run_name="__main__")
"""
LIGHT = [role for role in ROLES if role != "simulate"]


def hansa(root, *arguments, **environment):
    """Run the launcher that lies in `root`, from another folder, as its user would."""
    python = [sys.executable, "-X", "importtime", "-m", "hansa"]
    return subprocess.run(
        [*python, *arguments],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(root), **environment},
        check=False,
    )


def imported(done):
    return {
        line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")
    }


@pytest.mark.parametrize("role", LIGHT)
def test_every_role_names_a_module_that_exists_with_main(role):
    module = importlib.import_module(ROLES[role][0])
    parameters = list(inspect.signature(module.main).parameters)
    assert parameters == ["argv"]


def test_simulate_is_the_script_at_the_root():
    assert importlib.util.find_spec(ROLES["simulate"][0]) is not None
    assert (ROOT / "simulate.py").is_file()


@pytest.mark.parametrize("role", LIGHT)
def test_every_role_tells_what_it_does_without_torch(role):
    done = hansa(ROOT, role, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: hansa {role}" in done.stdout
    assert not imported(done) & {"torch", "opacus", "flwr"}


def test_without_a_role_the_roles_are_listed():
    for arguments, code in (([], 0), (["--help"], 0), (["dance"], 2)):
        done = hansa(ROOT, *arguments)
        assert done.returncode == code
        assert all(f"\n  {role} " in done.stdout for role in ROLES)


def test_an_unknown_role_is_told_the_nearest_one():
    assert "no role 'dcotor': did you mean `hansa doctor`?" in hansa(ROOT, "dcotor").stderr
    assert "no role 'dance': choose one of those above" in hansa(ROOT, "dance").stderr


def test_the_launcher_tells_its_version():
    done = hansa(ROOT, "--version")
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (done.returncode, done.stdout) == (0, f"hansa {stated}\n")


def test_the_launcher_works_from_the_layout_of_a_wheel(tmp_path):
    """The folders as `force-include` of pyproject.toml lays them out."""
    shutil.copytree(ROOT / "hansa", tmp_path / "hansa")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source, target in build["force-include"].items():
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / source, tmp_path / target)
    _check_wheel_layout(tmp_path)


@pytest.mark.slow
def test_the_launcher_works_from_a_wheel(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(ROOT),
        "--no-deps",
        "--wheel-dir",
        str(tmp_path / "built"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "hatchling" in done.stdout + done.stderr:
        pytest.skip("hatchling can't be fetched here")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "built").glob("hansa-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {
            "hansa",
            wheel.name.rsplit("-", 3)[0] + ".dist-info",
        }
        archive.extractall(tmp_path / "unzipped")
    _check_wheel_layout(tmp_path / "unzipped")
    assert hansa(tmp_path / "unzipped", "simulate", "--help").stdout.startswith("A league on one machine")


def _check_wheel_layout(root):
    done = hansa(root, "--help")
    assert done.returncode == 0
    done = hansa(root, "ledger", str(root / "none.jsonl"))
    assert done.returncode == 2
    assert "no ledger here" in done.stderr
    started = subprocess.run([sys.executable, "-c", WHERE], capture_output=True, text=True, cwd=root, check=False)
    assert started.stdout.splitlines()[-1] == str(root / "hansa" / "_app" / "client" / "cli.py")
