# SPDX-License-Identifier: Apache-2.0
"""The messages of a round: frozen, each encodes and decodes itself (specification §6, version 1).

Decoding checks form alone: lengths, order of numbers, nothing left over. Who may send what is the machines'
business.

Guarantees:
- decoding raises Malformed or returns, whatever the bytes
- a decoded message encodes to the same bytes
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from privacy.secagg import tags, wire
from privacy.secagg.errors import Malformed


@dataclass(frozen=True, slots=True)
class RoundOpen:
    """P → i: a round and its terms [A1]. d words of u32, e words of u64."""

    KIND: ClassVar[int] = 7
    epoch_digest: bytes
    round: int
    attempt: int
    members: tuple[int, ...]
    cohort: tuple[int, ...]
    model_digest: bytes
    plan_digest: bytes
    d: int
    e: int

    def encode(self) -> bytes:
        return wire.envelope(self.KIND) + self.binding()

    def binding(self) -> bytes:
        """What ctx covers beside the roster."""
        head = self.epoch_digest + wire.u64(self.round) + wire.u32(self.attempt)
        sets = wire.members(self.members) + wire.members(self.cohort)
        return head + sets + self.model_digest + self.plan_digest + wire.u32(self.d) + wire.u32(self.e)

    def ctx(self, roster_digest: bytes) -> bytes:
        """The context that every derivation, associated data and signature of the attempt covers, 32 bytes."""
        return tags.digest(tags.CTX, roster_digest, self.binding())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        reader = wire.open_envelope(data, cls.KIND, "ROUND_OPEN")
        epoch, number, attempt = reader.take(32), reader.u64(), reader.u32()
        members, cohort = reader.members(), reader.members()
        model, plan = reader.take(32), reader.take(32)
        message = cls(epoch, number, attempt, members, cohort, model, plan, reader.u32(), reader.u32())
        reader.end()
        return message


@dataclass(frozen=True, slots=True)
class SignedHeader:
    """What a merchant signs about its report [A8]: its number, three digests of 32 bytes, the signature."""

    index: int
    vector_digest: bytes
    sealed_digest: bytes
    commitments_digest: bytes
    signature: bytes

    def header(self) -> bytes:
        return wire.u8(self.index) + self.vector_digest + self.sealed_digest + self.commitments_digest

    def encode(self) -> bytes:
        return self.header() + self.signature

    @classmethod
    def read(cls, reader: wire.Reader) -> Self:
        index, vector, sealed, commitments = reader.u8(), reader.take(32), reader.take(32), reader.take(32)
        return cls(index, vector, sealed, commitments, reader.take(tags.SIGNATURE_SIZE))


def survivors_digest(ctx: bytes, headers: tuple[SignedHeader, ...]) -> bytes:
    """[C2] What merchants confirm, 32 bytes."""
    return tags.digest(tags.SURVIVORS, ctx, *(signed.header() for signed in headers))


@dataclass(frozen=True, slots=True)
class Report:
    """i → P: the masked vector and what goes with it [A8]. `vector` holds views, joined only on encoding."""

    KIND: ClassVar[int] = 8
    ctx: bytes
    signed: SignedHeader
    secrets: tuple[bytes, ...]
    roots: tuple[bytes, ...]
    sealed: tuple[bytes, ...]
    vector: tuple[memoryview, ...]

    def encode(self) -> bytes:
        sizes = wire.u8(len(self.secrets)) + wire.u8(len(self.roots))
        head = wire.envelope(self.KIND), self.ctx, self.signed.encode(), sizes
        return b"".join((*head, *self.secrets, *self.roots, *self.sealed, *self.vector))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        reader = wire.open_envelope(data, cls.KIND, "REPORT")
        ctx, signed = reader.take(32), SignedHeader.read(reader)
        n_secrets, n_members = reader.u8(), reader.u8()
        secrets = tuple(reader.take(32) for _ in range(n_secrets))
        roots = tuple(reader.take(tags.NODE_SIZE) for _ in range(n_members))
        size = 32 * n_secrets + tags.SEAL_TAG_SIZE
        sealed = tuple(reader.take(size) for _ in range(n_members))
        return cls(ctx, signed, secrets, roots, sealed, (reader.view(reader.left()),))


@dataclass(frozen=True, slots=True)
class Survivors:
    """P → i: whose vectors arrived [C1]."""

    KIND: ClassVar[int] = 9
    ctx: bytes
    headers: tuple[SignedHeader, ...]

    def encode(self) -> bytes:
        body = b"".join(signed.encode() for signed in self.headers)
        return wire.envelope(self.KIND) + self.ctx + wire.u8(len(self.headers)) + body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        reader = wire.open_envelope(data, cls.KIND, "SURVIVORS")
        message = cls(reader.take(32), tuple(SignedHeader.read(reader) for _ in range(reader.u8())))
        reader.end()
        wire.rising(tuple(signed.index for signed in message.headers), "SURVIVORS")
        return message


@dataclass(frozen=True, slots=True)
class Confirmation:
    """i → P: the one survivor list that this merchant stands by [C3]."""

    KIND: ClassVar[int] = 10
    index: int
    ctx: bytes
    survivors_digest: bytes
    signature: bytes

    def encode(self) -> bytes:
        body = wire.u8(self.index) + self.ctx + self.survivors_digest + self.signature
        return wire.envelope(self.KIND) + body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        reader = wire.open_envelope(data, cls.KIND, "CONFIRMATION")
        index, ctx, survivors = reader.u8(), reader.take(32), reader.take(32)
        message = cls(index, ctx, survivors, reader.take(tags.SIGNATURE_SIZE))
        reader.end()
        return message


@dataclass(frozen=True, slots=True)
class Sealed:
    """An author's sealed shares for one member, with their tree's root."""

    root: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """P → i: proof that one list was confirmed, and the shares to open [U1]. `shares` counts those in a seal."""

    KIND: ClassVar[int] = 11
    index: int
    ctx: bytes
    survivors: tuple[int, ...]
    survivors_digest: bytes
    signatures: tuple[tuple[int, bytes], ...]
    shares: int
    sealed: tuple[Sealed, ...]

    def encode(self) -> bytes:
        head = wire.u8(self.index) + self.ctx + wire.members(self.survivors) + self.survivors_digest
        signatures = b"".join(wire.u8(index) + signature for index, signature in self.signatures)
        sealed = b"".join(item.root + item.sealed for item in self.sealed)
        counts = wire.u8(len(self.sealed)) + wire.u8(self.shares)
        return wire.envelope(self.KIND) + head + wire.u8(len(self.signatures)) + signatures + counts + sealed

    @classmethod
    def decode(cls, data: bytes) -> Self:
        reader = wire.open_envelope(data, cls.KIND, "CERTIFICATE")
        index, ctx, survivors, confirmed = reader.u8(), reader.take(32), reader.members(), reader.take(32)
        signatures = tuple((reader.u8(), reader.take(tags.SIGNATURE_SIZE)) for _ in range(reader.u8()))
        authors, shares = reader.u8(), reader.u8()
        size = 32 * shares + tags.SEAL_TAG_SIZE
        sealed = tuple(Sealed(reader.take(tags.NODE_SIZE), reader.take(size)) for _ in range(authors))
        reader.end()
        wire.rising(tuple(member for member, _ in signatures), "CERTIFICATE")
        return cls(index, ctx, survivors, confirmed, signatures, shares, sealed)


@dataclass(frozen=True, slots=True)
class Opened:
    """A member's shares of one author's secrets with their proof; both empty where it complains."""

    complaint: bool
    shares: tuple[bytes, ...]
    nodes: tuple[bytes, ...]

    def encode(self) -> bytes:
        if self.complaint:
            return wire.u8(1)
        return wire.u8(0) + b"".join(self.shares) + wire.u8(len(self.nodes)) + b"".join(self.nodes)


@dataclass(frozen=True, slots=True)
class Answer:
    """i → P: the shares that open the sum [U4]. Without a complaint there are `shares` shares."""

    KIND: ClassVar[int] = 12
    index: int
    ctx: bytes
    survivors_digest: bytes
    own: tuple[bytes, ...]
    shares: int
    opened: tuple[Opened, ...]
    signature: bytes

    def body(self) -> bytes:
        """What is signed through its hash."""
        head = wire.u8(self.index) + self.ctx + self.survivors_digest
        own = wire.u8(len(self.own)) + b"".join(self.own)
        counts = wire.u8(len(self.opened)) + wire.u8(self.shares)
        return head + own + counts + b"".join(item.encode() for item in self.opened)

    def encode(self) -> bytes:
        return wire.envelope(self.KIND) + self.body() + self.signature

    @classmethod
    def decode(cls, data: bytes) -> Self:
        reader = wire.open_envelope(data, cls.KIND, "ANSWER")
        index, ctx, survivors = reader.u8(), reader.take(32), reader.take(32)
        own = tuple(reader.take(32) for _ in range(reader.u8()))
        authors, shares = reader.u8(), reader.u8()
        opened = tuple(_read_opened(reader, shares) for _ in range(authors))
        signature = reader.take(tags.SIGNATURE_SIZE)
        reader.end()
        return cls(index, ctx, survivors, own, shares, opened, signature)


def _read_opened(reader: wire.Reader, shares: int) -> Opened:
    flag = reader.u8()
    if flag > 1:
        raise Malformed(f"ANSWER: expected flag 0 or 1, found {flag}")
    if flag:
        return Opened(True, (), ())
    taken = tuple(reader.take(32) for _ in range(shares))
    return Opened(False, taken, tuple(reader.take(tags.NODE_SIZE) for _ in range(reader.u8())))
