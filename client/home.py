# SPDX-License-Identifier: Apache-2.0
"""A merchant's home: the one folder with its settings, policy, secret, ledger and local model parts.

    merchant.toml     name, where the events are, which weeks train
    policy.toml       what this merchant allows (privacy.policy)
    secret.key        32 random bytes: seeds every draw of sampling and noise; readable by its owner alone
    ledger.jsonl      what privacy was spent
    answers/          the newest answer of each run, so that a lost one is sent again and not computed again

Guarantees:
- A secret file that others can read, or of another length, is refused.
- The text form of a home shows neither secret nor data.
"""

import hashlib
import os
import secrets
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from client.errors import HomeError
from privacy.policy import Policy

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class MerchantSettings:
    """`merchant.toml`.

    Attributes:
        name: the merchant's name in the league.
        events: a path (relative to the home) or database URL that `data.files.load_merchant` takes.
        train_until: exclusive end of what is trained on, UTC; the league's split.
        gate_until: exclusive end of the weeks on which a candidate release is judged.
        max_events: a user's most recent events that count.
    """

    name: str
    events: str
    train_until: datetime
    gate_until: datetime
    max_events: int


@dataclass(frozen=True, slots=True, repr=False)
class Home:
    """An opened home."""

    path: Path
    settings: MerchantSettings
    policy: Policy
    secret: bytes

    def __repr__(self) -> str:
        return f"Home(merchant={self.settings.name!r})"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def answers(self) -> Path:
        return self.path / "answers"

    @property
    def events(self) -> str:
        """The source of the events; a relative path counts from the home."""
        source = self.settings.events
        return source if "://" in source else str((self.path / source).resolve())

    def key(self, *context: str) -> bytes:
        """32 bytes for one purpose, derived from the secret: different contexts, independent keys."""
        text = "|".join(str(len(part)) + ":" + part for part in context)
        return hashlib.blake2b(text.encode(), key=self.secret, person=b"hansa.home/1", digest_size=32).digest()


def open_home(path: Path) -> Home:
    """Read and check a home; raises `HomeError` or `privacy.errors.PolicyError`."""
    return Home(
        path, _settings(path / "merchant.toml"), Policy.read(path / "policy.toml"), _secret(path / "secret.key")
    )


def create_home(path: Path, settings: MerchantSettings, policy: str, secret: bytes | None = None) -> None:
    """Make a home with a fresh secret, or with `secret` where a simulation must repeat itself."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "merchant.toml").write_text(_toml(settings), "utf-8")
    (path / "policy.toml").write_text(policy, "utf-8")
    handle = os.open(path / "secret.key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(secret or secrets.token_bytes(SECRET_BYTES))


def _settings(path: Path) -> MerchantSettings:
    try:
        settings = msgspec.convert(tomllib.loads(path.read_text("utf-8")), MerchantSettings)
    except OSError as missing:
        raise HomeError(f"{path}: {missing.strerror}; run `hansa merchant init` first") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as wrong:
        raise HomeError(f"{path}: {wrong}") from None
    if settings.train_until.tzinfo is None or settings.gate_until.tzinfo is None:
        raise HomeError(f"{path}: train_until and gate_until need a time zone, such as 2017-10-01T00:00:00Z")
    if settings.max_events < 1:
        raise HomeError(f"{path}: max_events must be at least 1, found {settings.max_events}")
    return settings


def _secret(path: Path) -> bytes:
    try:
        mode, secret = path.stat().st_mode, path.read_bytes()
    except OSError as missing:
        raise HomeError(f"{path}: {missing.strerror}; run `hansa merchant init` first") from None
    if mode & 0o077:
        raise HomeError(f"{path}: others may read the secret (mode {mode & 0o777:o}); chmod 600 it")
    if len(secret) != SECRET_BYTES:
        raise HomeError(f"{path}: expected {SECRET_BYTES} bytes, found {len(secret)}; restore the file")
    return secret


def _toml(settings: MerchantSettings) -> str:
    name, events = (value.replace("\\", "\\\\").replace('"', '\\"') for value in (settings.name, settings.events))
    return (
        f'name = "{name}"\nevents = "{events}"\n'
        f"train_until = {settings.train_until.astimezone(UTC).isoformat()}\n"
        f"gate_until = {settings.gate_until.astimezone(UTC).isoformat()}\n"
        f"max_events = {settings.max_events}\n"
    )
