# SPDX-License-Identifier: Apache-2.0
"""A merchant's place in a league's secure aggregation: its identity, and the roster that it pinned.

    secagg/identity.key    32 secret bytes of the merchant's Ed25519 key; readable by its owner alone
    secagg/roster.bin      the roster as the council signed it
    secagg/pin.toml        the roster's hash, the council's keys, how many of them must have signed
    secagg/state-HASH.bin  what `privacy.secagg` keeps between messages, a file for each roster that was ever
                           pinned, by its hash; never delete one, never restore an old copy
    secagg/opened.bin      which requests were answered, over which survivors

Guarantees:
- An identity is made once; enrolling again gives the same one.
- A roster other than the pinned one, or that the council did not sign, is refused.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from client.errors import HomeError
from client.home import Home, read_secret, write_private
from privacy.secagg.errors import SecAggError
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Roster, open_roster

FOLDER = "secagg"
IDENTITY, ROSTER, PIN = "identity.key", "roster.bin", "pin.toml"


@dataclass(frozen=True, slots=True)
class Pin:
    """`pin.toml`: what this merchant compared with the council, by a way that the platform does not control.

    Attributes:
        roster: SHA-256 of the roster, hex.
        council: public keys of the council, hex.
        signatures_needed: how many of them must have signed.
    """

    roster: str
    council: tuple[str, ...]
    signatures_needed: int


def enrol(home: Path, secret: bytes | None = None) -> Identity:
    """The merchant's identity, made once: from `secret` where a simulation must repeat itself.

    Raises:
        HomeError: there is one that can't be used; a second one would be another merchant.
    """
    path = home / FOLDER / IDENTITY
    if path.exists():
        return Identity(read_secret(path))
    identity = Identity.generate() if secret is None else Identity(secret)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_private(path, identity.secret_bytes(), durable=secret is None)
    return identity


def pin_roster(home: Path, signed: bytes, council: Sequence[bytes], signatures_needed: int) -> Roster:
    """Check a signed roster that names this merchant, keep it and pin its hash.

    Raises:
        HomeError: this merchant has no identity yet.
        privacy.secagg.errors.SecAggError: the roster is unsigned, unsafe, or lacks this merchant.
    """
    roster = open_roster(signed, council=council, signatures_needed=signatures_needed, pin=None)
    roster.index_of_key(Identity(read_secret(home / FOLDER / IDENTITY)).public)
    keys = ", ".join(f'"{key.hex()}"' for key in council)
    text = f'roster = "{roster.digest.hex()}"\ncouncil = [{keys}]\nsignatures_needed = {signatures_needed}\n'
    write_private(home / FOLDER / ROSTER, signed)
    write_private(home / FOLDER / PIN, text.encode())
    return roster


def open_identity(home: Home) -> Identity:
    """The merchant's identity; raises `HomeError`."""
    return Identity(read_secret(home.path / FOLDER / IDENTITY))


def open_pinned(home: Home) -> Roster:
    """The pinned roster; raises `HomeError` where it is missing or not the pinned one."""
    folder = home.path / FOLDER
    try:
        pin = msgspec.convert(tomllib.loads((folder / PIN).read_text("utf-8")), Pin)
        return open_roster(
            (folder / ROSTER).read_bytes(),
            council=[bytes.fromhex(key) for key in pin.council],
            signatures_needed=pin.signatures_needed,
            pin=bytes.fromhex(pin.roster),
        )
    except OSError as missing:
        raise HomeError(f"{folder}: {missing.strerror}; this merchant has pinned no roster") from None
    except (ValueError, msgspec.ValidationError, SecAggError) as wrong:
        raise HomeError(f"{folder}: {wrong}") from None
