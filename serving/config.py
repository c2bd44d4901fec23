# SPDX-License-Identifier: Apache-2.0
"""The settings of one serving process, with the reason for each default."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """What one serving process is told; checked when it is made.

    Raises:
        ConfigError: a setting is out of range, or an address that others can reach has no token.
    """

    home: Path
    host: str = "127.0.0.1"
    """Loopback: whoever can ask for a user's recommendations learns something about that user."""
    port: int = 8077
    """0 asks the system for a free port; the ready line names it."""
    token: str | None = None
    """Bearer token of the shop; needed as soon as `host` is not loopback."""
    max_body_bytes: int = 1 << 20
    """A full batch of 1,000 events with long ids is some 400 kB."""
    body_timeout_s: float = 10.0
    """A client that sends a byte a minute holds a connection no longer than this."""
    max_users: int = 50_000
    """Users whose history is kept in memory; all others are read from the log when asked for."""
    max_events_per_user: int = 512
    """As many purchases as conf/data bounds a user to, so that own repeats count as they did in evaluation.

    Older ones stay in the log for training.
    """
    max_hot_events: int = 1_000_000
    """All users together: about 200 bytes an event, so some 200 MB at worst."""
    max_pending_events: int = 20_000
    """Events that may wait for the disk; more are refused with 503 and Retry-After."""
    retention_days: float = 400.0
    """From the time of receipt (the client's clock is not trusted): a year and its season, and a month."""
    max_log_events: int = 50_000_000
    """At about 150 bytes an event, 7.5 GB of disk at most."""
    watch_interval_s: float = 2.0
    """How often the activated release and the local part are looked at; SIGHUP looks at once."""
    stale_after_s: float = 14 * 86_400.0
    """A release older than this is served and labelled stale."""
    drain_timeout_s: float = 10.0
    """What SIGTERM leaves to requests under way."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"{name}: expected a number above 0, found {value}")
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"port: expected 0 to 65535, found {self.port}")
        if self.token is not None and len(self.token) < 16:
            raise ConfigError(
                "token: expected at least 16 characters, found fewer; make one with `openssl rand -hex 32`"
            )
        if not self.is_loopback and self.token is None:
            raise ConfigError(
                f"host: {self.host} can be reached from outside and there is no token; "
                "give --token-file, or bind 127.0.0.1"
            )

    def __repr__(self) -> str:
        return f"ServingConfig(home={str(self.home)!r}, host={self.host!r}, port={self.port}, token=<redacted>)"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def log_path(self) -> Path:
        """The event log: home/serving/events.sqlite."""
        return self.home / "serving" / "events.sqlite"

    @property
    def local_path(self) -> Path:
        """The merchant's local part, written by training."""
        return self.home / "local.safetensors"


_POSITIVE = (
    "max_body_bytes",
    "body_timeout_s",
    "max_users",
    "max_events_per_user",
    "max_hot_events",
    "max_pending_events",
    "retention_days",
    "max_log_events",
    "watch_interval_s",
    "stale_after_s",
    "drain_timeout_s",
)
