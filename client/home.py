# SPDX-License-Identifier: Apache-2.0
"""A merchant's home: the one folder with its settings, policy, secret, ledger and local model parts.

    merchant.toml     name, where the events are, which weeks train
    policy.toml       what this merchant allows (privacy.policy)
    secret.key        32 random bytes: seeds every draw of sampling and noise; readable by its owner alone
    ledger.jsonl      what privacy was spent
    answers/          the newest answer of each run, so that a lost one is sent again and not computed again

Guarantees:
- A secret file that others can read is refused.
- A secret of another length is refused.
- The text form of a home shows neither secret nor data.
- A policy edited while the node runs counts from the next request.
"""

import hashlib
import json
import os
import secrets
import tomllib
from dataclasses import dataclass, fields
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
    secret: bytes

    def __repr__(self) -> str:
        return f"Home(merchant={self.settings.name!r})"

    @property
    def policy(self) -> Policy:
        """The policy as the file says now; raises `privacy.errors.PolicyError`."""
        return Policy.read(self.path / "policy.toml")

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
    home = Home(path, read_settings(path / "merchant.toml"), read_secret(path / "secret.key"))
    _ = home.policy
    return home


def create_home(path: Path, settings: MerchantSettings, policy: str, secret: bytes | None = None) -> None:
    """Make a home with a fresh secret, or with `secret` where a simulation must repeat itself.

    Folder and files can be read by their owner alone; a fresh home is on disk when this returns.
    """
    durable = secret is None
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    write_private(path / "merchant.toml", _toml(settings).encode(), durable=durable)
    write_private(path / "policy.toml", policy.encode(), durable=durable)
    write_private(path / "secret.key", secret or secrets.token_bytes(SECRET_BYTES), durable=durable)


def write_private(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file that only its owner can read; it appears whole or not at all.

    `durable`: it is on disk when this returns, as a secret must be before anything is drawn from it.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, 0o600)
        file.write(data)
        if durable:
            file.flush()
            os.fsync(handle)
    temporary.replace(path)
    if durable:
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_settings(path: Path) -> MerchantSettings:
    """Read and check `merchant.toml`; raises `HomeError`."""
    known = [field.name for field in fields(MerchantSettings)]
    try:
        found = tomllib.loads(path.read_text("utf-8"))
        if unknown := sorted(set(found) - set(known)):
            raise HomeError(f"{path}: unknown {', '.join(unknown)}; it takes {', '.join(known)}")
        settings = msgspec.convert(found, MerchantSettings)
    except OSError as missing:
        raise HomeError(f"{path}: {missing.strerror}; run `hansa merchant init` first") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as wrong:
        raise HomeError(f"{path}: {wrong}") from None
    if settings.train_until.tzinfo is None or settings.gate_until.tzinfo is None:
        raise HomeError(f"{path}: train_until and gate_until need a time zone, such as 2017-10-01T00:00:00Z")
    if not settings.gate_until > settings.train_until:
        raise HomeError(f"{path}: gate_until must lie after train_until, since the weeks between judge a release")
    if not settings.name or not settings.events:
        raise HomeError(f"{path}: name and events must not be empty")
    if settings.max_events < 1:
        raise HomeError(f"{path}: max_events must be at least 1, found {settings.max_events}")
    return settings


def read_secret(path: Path) -> bytes:
    """Read and check `secret.key`; raises `HomeError`."""
    try:
        with path.open("rb") as file:
            mode, secret = os.fstat(file.fileno()).st_mode, file.read(SECRET_BYTES + 1)
    except OSError as missing:
        raise HomeError(f"{path}: {missing.strerror}; run `hansa merchant init` first") from None
    if mode & 0o077:
        raise HomeError(f"{path}: others may read the secret (mode {mode & 0o777:o}); chmod 600 it")
    if len(secret) != SECRET_BYTES:
        raise HomeError(f"{path}: expected {SECRET_BYTES} bytes, found another length; restore the file")
    return secret


def _toml(settings: MerchantSettings) -> str:
    name, events = (json.dumps(text, ensure_ascii=False) for text in (settings.name, settings.events))
    return (
        f"name = {name}\nevents = {events}\n"
        f"train_until = {settings.train_until.astimezone(UTC).isoformat()}\n"
        f"gate_until = {settings.gate_until.astimezone(UTC).isoformat()}\n"
        f"max_events = {settings.max_events}\n"
    )
