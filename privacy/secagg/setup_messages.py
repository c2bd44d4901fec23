# SPDX-License-Identifier: Apache-2.0
"""The messages of an epoch's set-up: frozen, each encodes and decodes itself (specification §6, version 1).

Decoding checks form alone: lengths, order of numbers, nothing left over. Who may send what is the machines'
business.

Guarantees:
- decoding raises Malformed or returns, whatever the bytes
- a decoded message encodes to the same bytes
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from privacy.secagg import tags, wire


@dataclass(frozen=True, slots=True)
class EpochOpen:
    """P → i: a new epoch is set up [E0]. Digest 32 bytes, run 16 bytes."""

    KIND: ClassVar[int] = 1
    roster_digest: bytes
    run: bytes
    epoch: int
    base_round: int

    def encode(self) -> bytes:
        return wire.envelope(self.KIND) + self.binding()

    def binding(self) -> bytes:
        """What every signature of the set-up covers."""
        return self.roster_digest + self.run + wire.u64(self.epoch) + wire.u64(self.base_round)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        reader = wire.open_envelope(data, cls.KIND, "EPOCH_OPEN")
        message = cls(reader.take(32), reader.take(16), reader.u64(), reader.u64())
        reader.end()
        return message


@dataclass(frozen=True, slots=True)
class Keys:
    """i → P: this epoch's public keys [E1]."""

    KIND: ClassVar[int] = 2
    index: int
    x25519: bytes
    mlkem: bytes
    signature: bytes

    def signed(self) -> bytes:
        return wire.u8(self.index) + self.x25519 + self.mlkem

    def body(self) -> bytes:
        return self.signed() + self.signature

    def encode(self) -> bytes:
        return wire.envelope(self.KIND) + self.body()

    @classmethod
    def read(cls, reader: wire.Reader) -> Self:
        index, x25519 = reader.u8(), reader.take(tags.X25519_SIZE)
        return cls(index, x25519, reader.take(tags.MLKEM_KEY_SIZE), reader.take(tags.SIGNATURE_SIZE))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        reader = wire.open_envelope(data, cls.KIND, "KEYS")
        message = cls.read(reader)
        reader.end()
        return message


@dataclass(frozen=True, slots=True)
class Bundle:
    """P → i: everybody's keys [E2]."""

    KIND: ClassVar[int] = 3
    keys: tuple[Keys, ...]

    def encode(self) -> bytes:
        bodies = b"".join(keys.body() for keys in self.keys)
        return wire.envelope(self.KIND) + wire.u8(len(self.keys)) + bodies

    @classmethod
    def decode(cls, data: bytes) -> Self:
        reader = wire.open_envelope(data, cls.KIND, "BUNDLE")
        message = cls(tuple(Keys.read(reader) for _ in range(reader.u8())))
        reader.end()
        wire.rising(tuple(keys.index for keys in message.keys), "BUNDLE")
        return message


@dataclass(frozen=True, slots=True)
class Capsule:
    """One ML-KEM ciphertext; `other` is the receiver in KEM, the sender in DELIVERY."""

    other: int
    ciphertext: bytes
    mac: bytes
    signature: bytes

    def body(self) -> bytes:
        return wire.u8(self.other) + self.ciphertext + self.mac + self.signature

    @classmethod
    def read(cls, reader: wire.Reader) -> Self:
        other, ciphertext = reader.u8(), reader.take(tags.MLKEM_CIPHERTEXT_SIZE)
        return cls(other, ciphertext, reader.take(tags.DIGEST_SIZE), reader.take(tags.SIGNATURE_SIZE))


@dataclass(frozen=True, slots=True)
class _Capsules:
    KIND: ClassVar[int] = 0
    index: int
    capsules: tuple[Capsule, ...]

    def encode(self) -> bytes:
        body = b"".join(capsule.body() for capsule in self.capsules)
        return wire.envelope(self.KIND) + wire.u8(self.index) + wire.u8(len(self.capsules)) + body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        what = cls.__name__.upper()
        reader = wire.open_envelope(data, cls.KIND, what)
        message = cls(reader.u8(), tuple(Capsule.read(reader) for _ in range(reader.u8())))
        reader.end()
        wire.rising(tuple(capsule.other for capsule in message.capsules), what)
        return message


@dataclass(frozen=True, slots=True)
class Kem(_Capsules):
    """i → P: ciphertexts from `index` to every higher number [E3]."""

    KIND: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class Delivery(_Capsules):
    """P → j: ciphertexts for `index` from every lower number [E4]."""

    KIND: ClassVar[int] = 5


@dataclass(frozen=True, slots=True)
class Ready:
    """i → P: set-up is done [E5]."""

    KIND: ClassVar[int] = 6
    index: int
    epoch_digest: bytes
    signature: bytes

    def encode(self) -> bytes:
        return wire.envelope(self.KIND) + wire.u8(self.index) + self.epoch_digest + self.signature

    @classmethod
    def decode(cls, data: bytes) -> Self:
        reader = wire.open_envelope(data, cls.KIND, "READY")
        message = cls(reader.u8(), reader.take(tags.DIGEST_SIZE), reader.take(tags.SIGNATURE_SIZE))
        reader.end()
        return message
