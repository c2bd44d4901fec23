# SPDX-License-Identifier: Apache-2.0
"""The stages of protection, as types and in print."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from privacy.errors import NoiseError
from privacy.noise_shares import Tolerance, noise_share
from privacy.stages import (
    Aggregate,
    ClippedUpdate,
    IntegerUpdate,
    LocalUpdate,
    MaskedUpdate,
    NoisedUpdate,
    NoiseReceipt,
    Rows,
)

ROOT = Path(__file__).parents[2]
SHARE = noise_share(1.0, 0.5, 2, 20, Tolerance(4, 0, 0))
RECEIPT = NoiseReceipt(1.0, 0.5, "step/0")

WRONG = """
from privacy.noise import NoiseSource, add_noise
from privacy.stages import ClippedUpdate, IntegerUpdate, LocalUpdate, NoisedUpdate


def send(update: NoisedUpdate) -> None: ...


def leak(local: LocalUpdate, clipped: ClippedUpdate) -> None:
    send(local)
    send(clipped)
    add_noise(local, 1.0, NoiseSource.fresh().stream("x"))
    send(add_noise(clipped, 1.0, NoiseSource.fresh().stream("x")))


def leak_a_share(share: IntegerUpdate) -> None:
    send(share)
"""


def test_sending_an_unprotected_update_does_not_type_check(tmp_path):
    file = tmp_path / "leak.py"
    file.write_text(WRONG, "utf-8")
    settings = tmp_path / "mypy.ini"  # torch's own types decide nothing here and take half a minute to read
    settings.write_text("[mypy]\nstrict = true\n[mypy-torch.*]\nfollow_imports = skip\n", "utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(settings),
        "--cache-dir",
        str(tmp_path / "cache"),
    ]
    done = subprocess.run([*command, str(file)], cwd=ROOT, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if "error" in line and "leak.py" in line]
    assert [line.split(":")[1] for line in errors] == ["10", "11", "12", "17"], done.stdout
    assert all("arg-type" in line for line in errors)


def test_no_stage_prints_its_contents():
    secret = np.full(2, 123.456, np.float32)
    tensor = torch.full((2,), 123.456)
    rows = Rows((2, 2), torch.tensor([1]), torch.full((1, 2), 123.456))
    for stage in (
        LocalUpdate({"w": secret}),
        ClippedUpdate(1.0, {"w": tensor}, {"v": (rows,)}, tensor),
        NoisedUpdate({"w": secret}, (RECEIPT,)),
        IntegerUpdate(np.full(2, 123, np.uint32), SHARE, "step/0"),
        MaskedUpdate(np.full(2, 123, np.uint32)),
        Aggregate({"w": secret}, 3),
        rows,
    ):
        assert "123" not in repr(stage)


def test_what_was_computed_from_noised_steps_needs_their_receipts():
    values = {"w": np.zeros(2, np.float32)}
    assert NoisedUpdate.computed_from([RECEIPT], values).receipts == (RECEIPT,)
    with pytest.raises(NoiseError, match="receipts"):
        NoisedUpdate.computed_from([], values)


def test_a_clipped_update_is_dense_on_demand():
    rows = Rows((3, 2), torch.tensor([1, 1]), torch.ones(2, 2))
    update = ClippedUpdate(1.0, {"w": torch.ones(2)}, {"v": (rows, rows)}, torch.zeros(1))
    assert update.names == ("v", "w")
    torch.testing.assert_close(update.tensor("v"), torch.tensor([[0.0, 0], [4, 4], [0, 0]]))
    out = torch.full((3, 2), 9.0)
    assert update.tensor("v", out) is out
    torch.testing.assert_close(out, update.tensor("v"))
