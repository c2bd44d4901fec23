# SPDX-License-Identifier: Apache-2.0
"""The tiny league, written once; each test gets its own copy, since homes change."""

import shutil
from pathlib import Path

import pytest
import torch

from client.runtime import Runtime
from tests.client.small import Small, build


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return build(tmp_path_factory.mktemp("league"))


@pytest.fixture
def small(original: Small, tmp_path: Path) -> Small:
    shutil.copytree(original.folder, tmp_path / "league")
    return Small(tmp_path / "league")


@pytest.fixture(scope="session")
def runtime(original: Small) -> Runtime:
    return original.runtime()
