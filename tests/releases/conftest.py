# SPDX-License-Identifier: Apache-2.0
"""No test cuts the power, so no test waits for the disk; that files are flushed is test_durable's matter."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
