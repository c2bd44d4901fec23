# SPDX-License-Identifier: Apache-2.0
"""Bytes to fields and back: little-endian, every length checked, nothing left over (specification §6).

Guarantees:
- decoding raises Malformed or returns, whatever the bytes
"""

import itertools
import struct
from collections.abc import Iterable
from typing import Final

from privacy.secagg.errors import Malformed
from privacy.secagg.tags import MAX_MEMBERS, MEMBERS_SIZE

MAGIC: Final = b"HSA"
VERSION: Final = 1
ENVELOPE_SIZE: Final = 5


class Reader:
    """Reads fields from the front of `data` without copying it."""

    def __init__(self, data: bytes | bytearray | memoryview, what: str) -> None:
        self._view = memoryview(data).cast("B").toreadonly()
        self._at = 0
        self._what = what

    def view(self, size: int) -> memoryview:
        left = len(self._view) - self._at
        if size > left:
            raise Malformed(f"{self._what}: expected {size} more bytes, found {left}; the message is cut off")
        self._at += size
        return self._view[self._at - size : self._at]

    def take(self, size: int) -> bytes:
        return bytes(self.view(size))

    def u8(self) -> int:
        return self.view(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.view(2), "little")

    def u32(self) -> int:
        return int.from_bytes(self.view(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.view(8), "little")

    def f64(self) -> float:
        (value,) = struct.unpack("<d", self.view(8))
        return float(value)

    def string(self) -> str:
        try:
            return self.take(self.u8()).decode()
        except UnicodeDecodeError:
            raise Malformed(f"{self._what}: a name is not UTF-8") from None

    def members(self) -> tuple[int, ...]:
        bits = int.from_bytes(self.view(MEMBERS_SIZE), "little")
        return tuple(index for index in range(8 * MEMBERS_SIZE) if bits >> index & 1)

    def left(self) -> int:
        return len(self._view) - self._at

    def end(self) -> None:
        if self.left():
            raise Malformed(f"{self._what}: {self.left()} bytes too many after the message's end")


def u8(value: int) -> bytes:
    return value.to_bytes(1, "little")


def u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def f64(value: float) -> bytes:
    return struct.pack("<d", value)


def string(value: str) -> bytes:
    raw = value.encode()
    return u8(len(raw)) + raw


def members(indices: Iterable[int]) -> bytes:
    """The bit set of merchants' numbers, 32 bytes."""
    bits = 0
    for index in indices:
        bits |= 1 << index
    return bits.to_bytes(MEMBERS_SIZE, "little")


def envelope(kind: int) -> bytes:
    return MAGIC + u8(VERSION) + u8(kind)


def open_envelope(data: bytes | bytearray | memoryview, kind: int, what: str) -> Reader:
    """Check magic, version and kind; return a reader of the body."""
    found = kind_of(data)
    if found != kind:
        raise Malformed(f"expected {what} (kind {kind}), found kind {found}")
    reader = Reader(data, what)
    reader.view(ENVELOPE_SIZE)
    return reader


def kind_of(data: bytes | bytearray | memoryview) -> int:
    """The kind of a message, after magic and version were checked."""
    reader = Reader(data, "envelope")
    head = reader.take(ENVELOPE_SIZE)
    if head[:3] != MAGIC or head[3] != VERSION:
        raise Malformed(
            f"expected a message {MAGIC.decode()} version {VERSION}, found {head[:4].hex()}; update the older side"
        )
    return head[4]


def rising(indices: tuple[int, ...], what: str) -> tuple[int, ...]:
    """The numbers themselves, after a check that they rise strictly and fit a roster."""
    if any(b <= a for a, b in itertools.pairwise(indices)) or any(i >= MAX_MEMBERS for i in indices):
        raise Malformed(f"{what}: merchants' numbers must rise and be below {MAX_MEMBERS}, found {indices}")
    return indices
