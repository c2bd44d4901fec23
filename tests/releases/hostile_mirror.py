# SPDX-License-Identifier: Apache-2.0
"""A merchant, an honest platform, and a mirror in the hands of an attacker."""

import copy
import functools
import http.server
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from releases.keys import SigningKey
from releases.pull import activate, active, installed, pull
from tests.releases.small_release import Platform, mirror, new_merchant, new_platform


@dataclass(frozen=True)
class Scene:
    """A merchant who serves release 1, and a mirror's folder that the attacker may change at will."""

    platform: Platform
    home: Path
    mirror: Path

    @property
    def metadata(self) -> Path:
        return self.mirror / "metadata"

    def copy_platform(self) -> None:
        """Let the mirror offer what the platform has published."""
        shutil.copytree(self.platform.folder, self.mirror, dirs_exist_ok=True)

    def refused(self, error: type[Exception], match: str, source: str | None = None) -> None:
        """Pulling is refused with exactly this error; release 1 stays; the honest platform still gets through."""
        with mirror(self.mirror) as url, pytest.raises(error, match=match) as caught:
            pull(self.home, source or url)
        assert type(caught.value) is error
        assert installed(self.home) == (1,)
        assert active(self.home).version == 1
        assert pull(self.home, self.platform.source).version == max(self.platform.repository().versions())
        assert active(self.home).version == 1


def new_scene(tmp_path: Path) -> Scene:
    """A merchant that serves release 1 of a new platform, and a mirror that offers the same."""
    platform = new_platform(tmp_path)
    home = new_merchant(tmp_path, platform)
    platform.publish(0)
    activate(home, pull(home, platform.source).version)
    scene = Scene(platform, home, tmp_path / "mirror")
    scene.copy_platform()
    return scene


def target(scene: Scene, name: str, version: int = 2) -> Path:
    """Where the mirror keeps a file of a release."""
    return next((scene.mirror / "targets" / str(version)).glob(f"*.{name}"))


class Hostile(http.server.SimpleHTTPRequestHandler):
    """A mirror that answers some paths with an endless, a slow or a broken-off body."""

    sent_bytes = 0

    def __init__(self, *arguments: Any, ending: str, manner: str, **keywords: Any) -> None:
        self.ending, self.manner = ending, manner
        super().__init__(*arguments, **keywords)

    def do_GET(self) -> None:
        if not self.path.endswith(self.ending):
            super().do_GET()
            return
        self.send_response(200)
        if self.manner == "broken off":
            self.send_header("Content-Length", "100")
        self.end_headers()
        try:
            for _ in range({"endless": 4096, "slow": 60, "broken off": 1}[self.manner]):
                chunk = b" " * (65536 if self.manner == "endless" else 1)
                self.wfile.write(chunk)
                self.wfile.flush()
                type(self).sent_bytes += len(chunk)
                time.sleep(0 if self.manner == "endless" else 0.05)
        except OSError:
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


def hostile(scene: Scene, ending: str, manner: str) -> Callable[..., http.server.BaseHTTPRequestHandler]:
    Hostile.sent_bytes = 0
    return functools.partial(Hostile, directory=str(scene.mirror), ending=ending, manner=manner)


def point_timestamp_at(scene: Scene, snapshot_name: str, *, version: int) -> None:
    """What a thief of the timestamp key can do: name any snapshot."""
    data = (scene.metadata / snapshot_name).read_bytes()
    snapshot = Metadata[Snapshot].from_bytes(data).signed
    meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
    write_timestamp(scene, Timestamp(version=version, expires=tomorrow(), snapshot_meta=meta))


def write_timestamp(scene: Scene, timestamp: Timestamp) -> None:
    metadata = Metadata(timestamp)
    metadata.sign(scene.platform.signers.timestamp[0].signer)
    (scene.metadata / "timestamp.json").write_bytes(metadata.to_bytes())


def offer_targets(scene: Scene, targets: Targets, key: SigningKey) -> None:
    """What a holder of both online keys can do: make the feed name targets signed by `key`."""
    targets.version += 7
    metadata = Metadata(targets)
    metadata.sign(key.signer)
    data = metadata.to_bytes()
    (scene.metadata / f"{targets.version}.targets.json").write_bytes(data)
    meta = MetaFile.from_data(targets.version, data, ["sha256"])
    snapshot = Metadata(Snapshot(version=9, expires=tomorrow(), meta={"targets.json": meta}))
    snapshot.sign(scene.platform.signers.snapshot[0].signer)
    (scene.metadata / "9.snapshot.json").write_bytes(snapshot.to_bytes())
    point_timestamp_at(scene, "9.snapshot.json", version=9)


def refused_for_targets(scene: Scene, error: type[Exception], match: str) -> None:
    """Like `Scene.refused`, for metadata newer than the platform's own: the merchant keeps refusing the feed."""
    with mirror(scene.mirror) as url, pytest.raises(error, match=match) as caught:
        pull(scene.home, url)
    assert type(caught.value) is error
    assert installed(scene.home) == (1,)
    assert active(scene.home).version == 1


def current_targets(scene: Scene) -> Targets:
    return copy.deepcopy(Metadata[Targets].from_file(str(scene.metadata / "2.targets.json")).signed)


def tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)
