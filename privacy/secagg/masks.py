# SPDX-License-Identifier: Apache-2.0
"""Masks: AES-256 in counter mode over zeros, added to or taken from a vector (specification §3, [A3]).

Shapes: d words of u32 (`body`), e words of u64 (`tail`). Many masks run through one block before the next, so
that the accumulator stays in the processor's cache; a mask then costs little more than its key stream. AES-GCM
with a zero nonce is the same counter mode from block 2 on (NIST SP 800-38D, 7.1): where the processor has wide
vectors for AES, OpenSSL runs it twice as fast as plain counter mode, elsewhere half as fast. No tag is made.

Guarantees:
- every word of a mask is a whole word of the key stream
- a mask taken away leaves what was there before it was added

Assumes that a seed is used for one mask only.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from threading import Lock
from time import perf_counter
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM

from privacy.secagg.errors import ValueRefused
from privacy.secagg.tags import KEY_SIZE

BLOCK_SIZE: Final = 1 << 17
WORDS: Final = BLOCK_SIZE // 4
THREAD_SIZE: Final = 1 << 24  # below this many bytes of masks, starting threads costs more than it gains
MAX_THREADS: Final = 8
GCM_HEAD: Final = 8  # words before the stream of GCM begins: it keeps counter blocks 0 and 1 for itself
_ZEROS: Final = bytes(BLOCK_SIZE)

Words32 = npt.NDArray[np.uint32]
Words64 = npt.NDArray[np.uint64]
Signed = tuple[bytes, np.ufunc]  # a seed, and whether its mask is added or taken away


@dataclass(frozen=True, slots=True)
class Vector:
    """A vector of the ring: body uint32 [d], sums mod 2^32; tail uint64 [e], sums mod 2^64. Both little-endian."""

    body: Words32
    tail: Words64

    def __post_init__(self) -> None:
        if self.body.dtype != np.dtype("<u4") or self.tail.dtype != np.dtype("<u8"):
            raise ValueRefused(f"expected uint32 and uint64, found {self.body.dtype} and {self.tail.dtype}")
        if self.body.ndim != 1 or self.tail.ndim != 1:
            raise ValueRefused(f"expected flat words, found {self.body.ndim} and {self.tail.ndim} dimensions")

    @classmethod
    def zeros(cls, d: int, e: int) -> "Vector":
        return cls(np.zeros(d, "<u4"), np.zeros(e, "<u8"))

    @classmethod
    def from_bytes(cls, data: memoryview, d: int, e: int) -> "Vector":
        """A view on received bytes, not a copy."""
        if len(data) != 4 * d + 8 * e:
            raise ValueRefused(f"expected {4 * d + 8 * e} bytes, found {len(data)}")
        return cls(np.frombuffer(data[: 4 * d], "<u4"), np.frombuffer(data[4 * d :], "<u8"))

    def views(self) -> tuple[memoryview, memoryview]:
        """The bytes of body and tail, not copied."""
        body, tail = np.ascontiguousarray(self.body), np.ascontiguousarray(self.tail)
        return body.view(np.uint8).data, tail.view(np.uint8).data

    def add(self, other: "Vector") -> None:
        """Add in place."""
        np.add(self.body, other.body, out=self.body)
        np.add(self.tail, other.tail, out=self.tail)

    def __repr__(self) -> str:
        return f"Vector(d={self.body.size}, e={self.tail.size}, hidden)"


def apply_masks(vector: Vector, plus: Sequence[bytes], minus: Sequence[bytes], threads: int | None = None) -> None:
    """Add the masks of the seeds in `plus` to the vector and take those in `minus` away, in place.

    The result is the same for any number of threads; by default large work uses up to eight cores.
    """
    seeds = [(_checked(seed), np.add) for seed in plus] + [(_checked(seed), np.subtract) for seed in minus]
    if threads is None:
        small = vector.body.nbytes * len(seeds) < THREAD_SIZE
        threads = 1 if small else min(MAX_THREADS, os.cpu_count() or 1)
    if vector.body.size < GCM_HEAD or not _gcm_is_faster():
        _apply([vector.body, vector.tail], CTR(bytes(16)), seeds, threads)
    else:
        _apply([vector.body[:GCM_HEAD]], CTR(bytes(16)), seeds, 1)
        _apply([vector.body[GCM_HEAD:], vector.tail], GCM(bytes(12)), seeds, threads)


def _apply(parts: Sequence[Words32 | Words64], mode: CTR | GCM, seeds: Sequence[Signed], threads: int) -> None:
    """Run every seed's stream over the parts, which lie in a row; each thread has seeds of its own."""
    lock = Lock()
    shares = [seeds[first::threads] for first in range(min(threads, len(seeds)))]
    if len(shares) == 1:
        _apply_some(parts, mode, shares[0], lock)
    elif shares:
        with ThreadPoolExecutor(len(shares)) as pool:
            for done in [pool.submit(_apply_some, parts, mode, share, lock) for share in shares]:
                done.result()


def _apply_some(parts: Sequence[Words32 | Words64], mode: CTR | GCM, seeds: Sequence[Signed], lock: Lock) -> None:
    """Sum one block of all masks after the other; the lock is held while a sum is added to the vector."""
    streams = [(Cipher(AES(seed), mode).encryptor(), combine) for seed, combine in seeds]
    buffer, sums = np.empty(WORDS + 8, "<u4"), np.empty(WORDS, "<u4")
    raw = buffer.view(np.uint8).data
    for words in parts:
        mask, total = buffer[:WORDS].view(words.dtype), sums.view(words.dtype)
        for start in range(0, words.size, total.size):
            block = words[start : start + total.size]
            zeros = _ZEROS if block.nbytes == BLOCK_SIZE else _ZEROS[: block.nbytes]
            block_mask, block_sum = mask[: block.size], total[: block.size]
            block_sum.fill(0)
            for stream, combine in streams:
                stream.update_into(zeros, raw)
                combine(block_sum, block_mask, out=block_sum)
            with lock:
                np.add(block, block_sum, out=block)


@cache
def _gcm_is_faster() -> bool:
    """Whether this processor runs GCM faster than counter mode: a block of each, the best of five."""
    seconds = []
    for mode in (GCM(bytes(12)), CTR(bytes(16))):
        stream, buffer = Cipher(AES(bytes(KEY_SIZE)), mode).encryptor(), bytearray(BLOCK_SIZE + 32)
        moments = [perf_counter()]
        for _ in range(5):
            stream.update_into(_ZEROS, buffer)
            moments.append(perf_counter())
        seconds.append(min(end - start for start, end in pairwise(moments)))
    return seconds[0] < seconds[1]


def _checked(seed: bytes) -> bytes:
    if len(seed) != KEY_SIZE:
        raise ValueError(f"expected a seed of {KEY_SIZE} bytes, found {len(seed)}")
    return seed
