# SPDX-License-Identifier: Apache-2.0
"""The roster: who is in the league and every parameter of the protocol (specification §2).

Guarantees:
- a roster with unsafe thresholds cannot be built
- a roster without enough council signatures is refused
- a roster other than the pinned one is refused
- nobody is in the roster twice

Assumes that the pin reached the merchant by a way that the platform does not control.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from privacy.secagg import tags, wire
from privacy.secagg.errors import Malformed, RequestRefused, RosterRefused
from privacy.secagg.identity import Identity, verify

ROSTER_MAGIC: Final = b"HSR"
SIGNED_MAGIC: Final = b"HSS"
SUITE: Final = 1
MODULUS_BITS: Final = 32
MAX_NAME_BYTES: Final = 200


@dataclass(frozen=True, slots=True)
class Member:
    """A merchant of the league: its name and its Ed25519 public key (32 bytes)."""

    name: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a merchant's own policy asks of any roster [R6]."""

    min_survivors: int = 3
    min_colluders: int = 1


@dataclass(frozen=True)
class Roster:
    """Every parameter of secure aggregation. Raises RosterRefused when built with unsafe ones [R1–R3].

    threshold t, colluders c, min_survivors n_min as in the specification; `bound` is the largest absolute value
    that a coordinate may have, in units of the update; a unit has 2^scale_log2 grid steps.
    """

    league: str
    serial: int
    members: tuple[Member, ...]
    threshold: int
    colluders: int
    min_survivors: int
    scale_log2: int = 20
    bound: float = 8.0
    max_words: int = 1 << 28
    epoch_rounds: int = 256

    def __post_init__(self) -> None:
        _check_members(self.members)
        _check_thresholds(len(self.members), self.threshold, self.colluders, self.min_survivors)
        _check_ring(self)

    @cached_property
    def encoded(self) -> bytes:
        """The canonical bytes."""
        head = (
            ROSTER_MAGIC
            + wire.u8(wire.VERSION)
            + wire.u8(SUITE)
            + wire.string(self.league)
            + wire.u64(self.serial)
        )
        counts = bytes((self.threshold, self.colluders, self.min_survivors, MODULUS_BITS, self.scale_log2))
        limits = wire.f64(self.bound) + wire.u32(self.max_words) + wire.u16(self.epoch_rounds)
        members = b"".join(wire.string(member.name) + member.key for member in self.members)
        return head + counts + limits + wire.u8(len(self.members)) + members

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes: the pin."""
        return tags.digest(self.encoded)

    @property
    def drops_tolerated(self) -> int:
        """T = N − t: this many merchants may drop out, at any step."""
        return len(self.members) - self.threshold

    def index_of(self, name: str) -> int:
        """The merchant's number; RosterRefused when the name is not in the roster."""
        for index, member in enumerate(self.members):
            if member.name == name:
                return index
        raise RosterRefused(f"{name!r} is not in the roster of league {self.league!r}, serial {self.serial}")

    def index_of_key(self, public: bytes) -> int:
        """The number of the merchant with this key; RosterRefused when no merchant has it."""
        for index, member in enumerate(self.members):
            if member.key == public:
                return index
        raise RosterRefused(
            f"key {public.hex()[:16]}… is not in the roster of league {self.league!r}; enrol first"
        )

    def names(self, indices: Collection[int]) -> tuple[str, ...]:
        return tuple(self.members[index].name for index in sorted(indices))

    def require_members(self, indices: Sequence[int]) -> None:
        """RequestRefused when a number is outside the roster."""
        outside = [index for index in indices if index >= len(self.members)]
        if outside:
            raise RequestRefused(f"numbers {outside} are outside the roster of {len(self.members)} merchants")


def make_roster(
    league: str,
    members: Sequence[Member],
    *,
    serial: int = 1,
    colluders: int | None = None,
    min_survivors: int | None = None,
    scale_log2: int = 20,
    bound: float = 8.0,
    max_words: int = 1 << 28,
    epoch_rounds: int = 256,
) -> Roster:
    """A roster with the default thresholds: c = max(1, N // 3), t = (N + c) // 2 + 1, n_min = max(t, c + 2)."""
    n = len(members)
    c = max(1, n // 3) if colluders is None else colluders
    t = (n + c) // 2 + 1
    n_min = min(n, max(t, c + 2)) if min_survivors is None else min_survivors
    ordered = tuple(sorted(members, key=lambda member: member.name))
    return Roster(league, serial, ordered, t, c, n_min, scale_log2, bound, max_words, epoch_rounds)


@dataclass(frozen=True, slots=True)
class SignedRoster:
    """A roster's canonical bytes with the council's signatures, as read: nothing is verified yet.

    signatures: (public key 32 bytes, signature 64 bytes) each, over `tags.ROSTER + encoded`.
    """

    encoded: bytes
    signatures: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def decode(cls, data: bytes) -> "SignedRoster":
        """Raises Malformed."""
        reader = wire.Reader(data, "signed roster")
        if reader.take(4) != SIGNED_MAGIC + wire.u8(wire.VERSION):
            raise Malformed("expected a signed roster of version 1")
        encoded = reader.take(reader.u32())
        signatures = [(reader.take(tags.KEY_SIZE), reader.take(tags.SIGNATURE_SIZE)) for _ in range(reader.u8())]
        reader.end()
        return cls(encoded, tuple(signatures))

    def encode(self) -> bytes:
        head = SIGNED_MAGIC + wire.u8(wire.VERSION) + wire.u32(len(self.encoded)) + self.encoded
        return head + wire.u8(len(self.signatures)) + b"".join(key + value for key, value in self.signatures)

    def roster(self) -> Roster:
        """The roster, its parameters checked [R1–R3]; raises Malformed or RosterRefused."""
        return decode_roster(self.encoded)

    def check(self, key: bytes, signature: bytes) -> None:
        """Raises PeerRefused when this is not the key's signature over this roster."""
        verify(key, signature, "roster", tags.ROSTER, self.encoded)


def sign_roster(roster: Roster, council: Sequence[Identity]) -> bytes:
    """The signed roster's bytes."""
    signatures = ((key.public, key.sign(tags.ROSTER, roster.encoded)) for key in council)
    return SignedRoster(roster.encoded, tuple(signatures)).encode()


def open_roster(
    signed: bytes,
    *,
    council: Collection[bytes],
    signatures_needed: int,
    pin: bytes | None,
    requirements: Requirements | None = None,
) -> Roster:
    """Decode and check a signed roster [R1–R6].

    `council` holds the public keys that this merchant trusts, `pin` the expected SHA-256 of the roster (None
    only for the act of pinning itself). Raises RosterRefused or Malformed.
    """
    if signatures_needed < 1:
        raise RosterRefused(f"expected at least one council signature to be needed, found {signatures_needed}")
    found = SignedRoster.decode(signed)
    encoded, good = found.encoded, set()
    for key, signature in found.signatures:  # [R4]
        if key in council:
            found.check(key, signature)
            good.add(key)
    if len(good) < signatures_needed:
        raise RosterRefused(
            f"expected {signatures_needed} signatures of the council, found {len(good)}: "
            "sign with `hansa council sign`"
        )
    if pin is not None and tags.digest(encoded) != pin:  # [R5]
        raise RosterRefused(
            f"expected the pinned roster {pin.hex()[:16]}…, found {tags.digest(encoded).hex()[:16]}…; "
            "compare it with the league's council before pinning anew"
        )
    roster = found.roster()
    require(roster, requirements or Requirements())
    return roster


def require(roster: Roster, requirements: Requirements) -> None:
    """[R6] RosterRefused when the roster protects less than this merchant's policy asks."""
    if roster.min_survivors < requirements.min_survivors:
        raise RosterRefused(
            f"policy asks for sums over at least {requirements.min_survivors} merchants, the roster's n_min is "
            f"{roster.min_survivors}"
        )
    if roster.colluders < requirements.min_colluders:
        raise RosterRefused(
            f"policy asks to withstand {requirements.min_colluders} colluders, the roster only {roster.colluders}"
        )


def decode_roster(encoded: bytes) -> Roster:
    """Canonical bytes to a checked roster; Malformed or RosterRefused."""
    reader = wire.Reader(encoded, "roster")
    if reader.take(5) != ROSTER_MAGIC + bytes((wire.VERSION, SUITE)):
        raise Malformed("expected a roster of version 1, suite 1")
    league, serial = reader.string(), reader.u64()
    threshold, colluders, min_survivors, modulus_bits, scale_log2 = reader.take(5)
    if modulus_bits != MODULUS_BITS:
        raise RosterRefused(f"expected a ring of {MODULUS_BITS} bits, found {modulus_bits}")
    bound, max_words, epoch_rounds = reader.f64(), reader.u32(), reader.u16()
    members = tuple(Member(reader.string(), reader.take(tags.KEY_SIZE)) for _ in range(reader.u8()))
    reader.end()
    return Roster(
        *(league, serial, members, threshold, colluders, min_survivors, scale_log2, bound, max_words, epoch_rounds)
    )


def _check_members(members: tuple[Member, ...]) -> None:
    n = len(members)
    if not 3 <= n <= tags.MAX_MEMBERS:
        what = "masked sums need three" if n < 3 else "divide a larger league"
        raise RosterRefused(f"expected 3 to {tags.MAX_MEMBERS} merchants, found {n}; {what}")
    names = [member.name for member in members]
    if names != sorted(set(names)):  # [R1]
        raise RosterRefused("expected distinct names in rising order")
    if len({member.key for member in members}) != n:
        raise RosterRefused("expected a key of its own for every merchant")
    for member in members:
        if len(member.key) != tags.KEY_SIZE or not 1 <= len(member.name.encode()) <= MAX_NAME_BYTES:
            raise RosterRefused(
                f"merchant {member.name!r}: expected a 32-byte key and a name of 1–{MAX_NAME_BYTES} bytes"
            )


def _check_thresholds(n: int, t: int, c: int, n_min: int) -> None:
    if not (2 * t > n + c and t <= n and c >= 1):  # [R2]
        raise RosterRefused(f"expected 2t > N + c, t <= N and c >= 1, found N={n}, t={t}, c={c}")
    if not c + 2 <= n_min <= n:
        raise RosterRefused(f"expected c + 2 <= n_min <= N, found n_min={n_min}, c={c}, N={n}")


def _check_ring(roster: Roster) -> None:
    if not (math.isfinite(roster.bound) and roster.bound > 0 and 0 <= roster.scale_log2 <= MODULUS_BITS):
        raise RosterRefused(f"expected a finite bound above 0, found {roster.bound}, scale 2^{roster.scale_log2}")
    if len(roster.members) * (roster.bound * 2.0**roster.scale_log2 + 1) >= 2.0 ** (MODULUS_BITS - 1):  # [R3]
        raise RosterRefused(
            f"{len(roster.members)} values of up to {roster.bound} at scale 2^{roster.scale_log2} can wrap around "
            "2^32; lower the bound or the scale"
        )
    if not (
        1 <= roster.max_words < 1 << 32 and 1 <= roster.epoch_rounds < 1 << 16 and 0 <= roster.serial < 1 << 64
    ):
        raise RosterRefused("expected max_words, epoch_rounds and serial to fit their fields")
    if len(roster.league.encode()) > MAX_NAME_BYTES:
        raise RosterRefused(f"expected a league name of at most {MAX_NAME_BYTES} bytes")
