# SPDX-License-Identifier: Apache-2.0
"""A merchant's home, a release source, applications and processes that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from releases.keys import Signers, SigningKey
from releases.publish import Repository
from releases.pull import activate, pull, trust
from serving.app import build
from serving.config import ServingConfig
from tests.serving.drivers import Client, Process
from tests.serving.small import MemoryRelease, MemoryReleases, card, payload, vectors_for, write_local_part


@pytest.fixture(scope="session")
def files() -> dict[str, bytes]:
    """The payload of the usual test release."""
    return payload()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A merchant's home with a local part."""
    folder = tmp_path / "home"
    folder.mkdir()
    write_local_part(folder)
    return folder


@pytest.fixture
def source(files: dict[str, bytes]) -> MemoryReleases:
    """A source whose release 1 is active."""
    return MemoryReleases(MemoryRelease(1, files))


@pytest.fixture
def connect(home: Path, source: MemoryReleases) -> Iterator[Callable[..., Client]]:
    """Start an application on the home with some settings; stopped at the end of the test."""
    clients: list[Client] = []

    def start(**settings: Any) -> Client:
        client = Client(build(ServingConfig(home=home, **settings), source))
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Client]) -> Client:
    """An application with the default settings."""
    return connect()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A signed repository with releases 1 and 2: the second ranks by other vectors."""
    key = SigningKey.generate
    signers = Signers(targets=(key(),), snapshot=(key(),), timestamp=(key(),))
    made = Repository.create(tmp_path_factory.mktemp("r") / "repository", signers, (key(),), root_threshold=1)
    for seed in (0, 1):
        made.publish(payload(vectors=vectors_for(seed=seed)), card())
    return made


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Processes that a test started; those still alive are killed at its end."""
    started: list[Process] = []
    yield started
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture
def installed_home(home: Path, repository: Repository) -> Path:
    """A home with signed releases 1 (active) and 2 installed."""
    trust(home, repository.root_bytes())
    for version in (1, 2):
        pull(home, str(repository.folder), version)
    activate(home, 1)
    return home
