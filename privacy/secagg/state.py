# SPDX-License-Identifier: Apache-2.0
"""A merchant's state between messages, and its bytes for the key store (specification §7).

Guarantees:
- stored state gives back the same state
- the state never prints a secret
"""

from dataclasses import dataclass, field
from enum import IntEnum

from privacy.secagg import tags, wire
from privacy.secagg.errors import Malformed, StateRefused
from privacy.secagg.keys import MLKEM_SEED_SIZE, EpochKeys
from privacy.secagg.round_messages import RoundOpen, SignedHeader
from privacy.secagg.setup_messages import Bundle, EpochOpen

STATE_MAGIC = b"HSK"


class Setup(IntEnum):
    """Where the epoch's set-up stands."""

    NONE = 0
    ANNOUNCED = 1
    ENCAPSULATED = 2
    ESTABLISHED = 3


class Stage(IntEnum):
    """Where the open round stands."""

    NONE = 0
    OPENED = 1
    REPORTED = 2
    CONFIRMED = 3
    ANSWERED = 4


@dataclass(slots=True)
class PendingEpoch:
    """An epoch whose set-up is under way: its private keys live until it is established."""

    opening: EpochOpen
    keys: EpochKeys
    setup: Setup
    bundle: bytes = field(default=b"", repr=False)
    roots: dict[int, bytes] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class Epoch:
    """An established epoch: pair roots (number → 32 bytes) as they are at ratchet step `step`."""

    digest: bytes
    base_round: int
    step: int
    roots: dict[int, bytes] = field(repr=False)


@dataclass(slots=True)
class Round:
    """The open round."""

    opening: RoundOpen
    ctx: bytes
    stage: Stage
    header: SignedHeader | None = None
    survivors: tuple[int, ...] = ()
    survivors_digest: bytes = b""


@dataclass(slots=True)
class State:
    """All that a merchant remembers. Numbers are −1 before the first of their kind."""

    roster_digest: bytes
    highest_epoch: int = -1
    highest_round: int = -1
    highest_attempt: int = -1
    answered_round: int = -1
    pending: PendingEpoch | None = None
    epoch: Epoch | None = None
    round: Round | None = None

    def __repr__(self) -> str:
        return f"State(epoch={self.highest_epoch}, round={self.highest_round}.{self.highest_attempt}, hidden)"


def encode_state(state: State) -> bytes:
    """The bytes for the key store; secret."""
    numbers = (state.highest_epoch, state.highest_round, state.highest_attempt, state.answered_round)
    head = STATE_MAGIC + wire.u8(wire.VERSION) + state.roster_digest
    head += b"".join((number + 1).to_bytes(9, "little") for number in numbers)
    return head + _encode_pending(state.pending) + _encode_epoch(state.epoch) + _encode_round(state.round)


def decode_state(data: bytes, roster_digest: bytes) -> State:
    """State from the key store; StateRefused when it is damaged or belongs to another roster."""
    try:
        reader = wire.Reader(data, "key store")
        if reader.take(4) != STATE_MAGIC + wire.u8(wire.VERSION):
            raise Malformed("key store: not of version 1")
        state = State(reader.take(tags.DIGEST_SIZE))
        numbers = [int.from_bytes(reader.take(9), "little") - 1 for _ in range(4)]
        state.highest_epoch, state.highest_round, state.highest_attempt, state.answered_round = numbers
        state.pending, state.epoch, state.round = _pending(reader), _epoch(reader), _round(reader)
        reader.end()
    except (Malformed, ValueError) as error:
        raise StateRefused(
            f"the key store can't be read ({error}); enrol anew, never restore an old copy"
        ) from None
    if state.roster_digest != roster_digest:
        raise StateRefused("the key store belongs to another roster; start a new key store for a new roster")
    return state


def _encode_roots(roots: dict[int, bytes]) -> bytes:
    return wire.u8(len(roots)) + b"".join(wire.u8(index) + root for index, root in sorted(roots.items()))


def _roots(reader: wire.Reader) -> dict[int, bytes]:
    return {reader.u8(): reader.take(tags.KEY_SIZE) for _ in range(reader.u8())}


def _encode_pending(pending: PendingEpoch | None) -> bytes:
    if pending is None:
        return wire.u8(0)
    secrets = pending.keys.x25519 + pending.keys.mlkem_seed
    bundle = wire.u32(len(pending.bundle)) + pending.bundle
    return wire.u8(pending.setup) + pending.opening.encode() + secrets + bundle + _encode_roots(pending.roots)


def _pending(reader: wire.Reader) -> PendingEpoch | None:
    setup = Setup(reader.u8())
    if setup is Setup.NONE:
        return None
    opening = EpochOpen.decode(reader.take(wire.ENVELOPE_SIZE + 64))
    keys = EpochKeys(reader.take(tags.X25519_SIZE), reader.take(MLKEM_SEED_SIZE))
    bundle = reader.take(reader.u32())
    if bundle:
        Bundle.decode(bundle)
    return PendingEpoch(opening, keys, setup, bundle, _roots(reader))


def _encode_epoch(epoch: Epoch | None) -> bytes:
    if epoch is None:
        return wire.u8(0)
    return (
        wire.u8(1) + epoch.digest + wire.u64(epoch.base_round) + wire.u16(epoch.step) + _encode_roots(epoch.roots)
    )


def _epoch(reader: wire.Reader) -> Epoch | None:
    if reader.u8() == 0:
        return None
    return Epoch(reader.take(32), reader.u64(), reader.u16(), _roots(reader))


def _encode_round(round_: Round | None) -> bytes:
    if round_ is None:
        return wire.u8(Stage.NONE)
    header = wire.u8(0) if round_.header is None else wire.u8(1) + round_.header.encode()
    confirmed = wire.members(round_.survivors) + (round_.survivors_digest or bytes(32))
    return wire.u8(round_.stage) + round_.opening.encode() + round_.ctx + header + confirmed


def _round(reader: wire.Reader) -> Round | None:
    stage = Stage(reader.u8())
    if stage is Stage.NONE:
        return None
    opening = RoundOpen.decode(reader.take(wire.ENVELOPE_SIZE + 180))
    ctx = reader.take(32)
    header = SignedHeader.read(reader) if reader.u8() else None
    survivors, survivors_digest = reader.members(), reader.take(32)
    return Round(opening, ctx, stage, header, survivors, survivors_digest)
