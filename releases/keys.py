# SPDX-License-Identifier: Apache-2.0
"""Ed25519 signing keys by role: root offline with a threshold, targets per release signer, two online.

Guarantees:
- A private key file is readable by its owner only, and a more open one is refused.
- A key never prints and never pickles its private half.
- A key file with a passphrase opens with that passphrase only.

Assumes: root keys are made and kept on machines that the network doesn't reach.
"""

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, Key

from releases import durable
from releases.errors import KeyFileError

MIN_PASSPHRASE_LENGTH: Final = 12
ROLES: Final = ("root", "targets", "snapshot", "timestamp")


class SigningKey:
    """A private key; its public half may go anywhere, the private half leaves only through `save`."""

    __slots__ = ("_private", "signer")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.signer = CryptoSigner(private)

    @classmethod
    def generate(cls) -> "SigningKey":
        """A fresh key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None = None) -> "SigningKey":
        """Read a key file; raises KeyFileError when it is open to others, no Ed25519 key, or stays shut."""
        try:
            mode = path.stat().st_mode
            data = path.read_bytes()
        except OSError as error:
            raise KeyFileError(f"{path}: expected a key file, found none ({error.strerror}).") from error
        if stat.S_IMODE(mode) & 0o077:
            raise KeyFileError(
                f"{path}: expected mode 600, found {stat.S_IMODE(mode):o}. Run chmod 600 and ask "
                "who could have read it."
            )
        try:
            private = load_pem_private_key(data, passphrase)
        except TypeError as error:
            need = "needs a passphrase" if passphrase is None else "has no passphrase, but one was given"
            raise KeyFileError(f"{path}: this key {need}.") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"{path}: expected a PEM key, found another file or a wrong passphrase.") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyFileError(f"{path}: expected an Ed25519 key, found another kind.")
        return cls(private)

    def save(self, path: Path, passphrase: bytes | None = None) -> None:
        """Write the key as PKCS#8 PEM with mode 600; never overwrites. Raises KeyFileError."""
        if passphrase is not None and len(passphrase) < MIN_PASSPHRASE_LENGTH:
            raise KeyFileError(
                f"passphrase: expected {MIN_PASSPHRASE_LENGTH} bytes or more, found {len(passphrase)}."
            )
        shut = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
        data = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, shut)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise KeyFileError(f"{path}: {error.strerror}. A key file is never overwritten.") from error
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
        durable.sync(path.parent)

    @property
    def keyid(self) -> str:
        """The public key's identifier, hexadecimal."""
        return str(self.signer.public_key.keyid)

    @property
    def public(self) -> Key:
        """The public half."""
        return self.signer.public_key

    def __repr__(self) -> str:
        return f"SigningKey(keyid={self.keyid[:16]!r}, private=redacted)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a SigningKey is never pickled; hand over its file")


@dataclass(frozen=True, slots=True)
class Signers:
    """The keys that a publishing machine holds. `targets` may be empty where only the clock is refreshed."""

    targets: Sequence[SigningKey]
    snapshot: Sequence[SigningKey]
    timestamp: Sequence[SigningKey]

    def of(self, role: str) -> Sequence[SigningKey]:
        """The keys for one of the roles targets, snapshot, timestamp."""
        keys: Sequence[SigningKey] = {
            "targets": self.targets, "snapshot": self.snapshot, "timestamp": self.timestamp,
        }[role]  # fmt: skip
        return keys


def public_to_json(key: Key) -> bytes:
    """A public key as JSON, to be handed to whoever drafts the next root."""
    return json.dumps({"keyid": key.keyid, **key.to_dict()}, indent=2, sort_keys=True).encode() + b"\n"


def public_from_json(data: bytes) -> Key:
    """Read what `public_to_json` wrote; raises KeyFileError."""
    try:
        fields = json.loads(data)
        return Key.from_dict(fields.pop("keyid"), fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeyFileError("public key: expected JSON with keyid, keytype, scheme, keyval.") from error


def load_keys(folder: Path, role: str, passphrase: bytes | None = None) -> tuple[SigningKey, ...]:
    """A role's keys in a folder: its files `<role>*.pem` in the order of their names. Raises KeyFileError."""
    return tuple(SigningKey.load(path, passphrase) for path in sorted(folder.glob(f"{role}*.pem")))


def load_signers(folder: Path, passphrase: bytes | None = None) -> Signers:
    """Read a publishing machine's keys: targets, snapshot and timestamp. Raises KeyFileError."""
    targets, snapshot, timestamp = (load_keys(folder, role, passphrase) for role in ROLES[1:])
    return Signers(targets, snapshot, timestamp)
