# SPDX-License-Identifier: Apache-2.0
"""Gaussian noise from a keyed stream, added to a clipped sum in one streaming pass.

AES-256 in counter mode under a key for this stream alone; Box-Muller in float32 with an angle from 32 bits and a
radius from 64 (`secure`, largest value 9.4) or, in simulations, from 32 (`fast`, largest value 6.7).

Floating-point Gaussians only approximate the real-valued mechanism of the proof: their low-order bits can betray
what they were added to (Mironov 2012). With `secure` the sum is rounded to a grid of 2^-20 of the deviation, which
the noise covers up to 8 deviations and which drops those bits: a mitigation, not a proof. Noise in the integers is
the proof.

Guarantees:
- the noise has the stated deviation
- streams of different keys or labels are independent, equal ones are equal
- a label is drawn from once per source
- with a fresh key no noise is ever used twice
"""

import hashlib
import itertools
import math
import os
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from privacy.discrete_gaussian import DiscreteGaussianStream
from privacy.errors import NoiseError
from privacy.stages import ClippedUpdate, NoisedUpdate, NoiseReceipt

__all__ = ["NoiseSource", "NoiseStream", "add_noise", "add_noise_to_array"]

_TAG_LABEL: Final = b"hansa.privacy.noise/1/label\x00"
_TAG_SEED: Final = b"hansa.privacy.noise/1/seed\x00"
_DEVIATIONS: Final = 1e-12, 1e12  # between them the squares of all draws are normal numbers of float32
_CHUNK: Final = 1 << 15  # draws at a time: all buffers of the pass stay in a core's cache
_GRID_BITS: Final = 20
_ZEROS: Final = memoryview(bytes(6 * _CHUNK))

Floats: TypeAlias = npt.NDArray[np.float32]


class NoiseStream:
    """Standard normals in a fixed order, each drawn once; `label` says what they are for.

    Chunk i is made from the key stream of nonce i, so threads change nothing in the result.
    """

    def __init__(self, key: bytes, label: str, *, secure: bool) -> None:
        self.label = label
        self._key, self._secure, self._chunks = key, secure, 0

    def standard_normal(self, out: Tensor) -> None:
        """Fill a contiguous float32 CPU tensor [n] with the next n independent standard normals."""
        drawer, begin = self._drawer(out), self._take(out)
        for i, part in enumerate(torch.split(out, _CHUNK), begin):
            part.copy_(torch.from_numpy(drawer.draw(i, part.numel(), 1.0)))

    def add_to(self, total: Tensor, deviation: float) -> None:
        """total += noise of `deviation`, in chunks that stay in cache; total is float32 [n] on the CPU.

        Raises NoiseError outside of 1e-12 <= deviation <= 1e12, where float32 would give zeros or NaN.
        """
        if not _DEVIATIONS[0] <= deviation <= _DEVIATIONS[1]:
            raise NoiseError(
                f"deviation must be within 1e-12 and 1e12, found {deviation}: choose another clipping norm"
            )
        threads = torch.get_num_threads()
        chunks = max(1, math.ceil(total.numel() / _CHUNK / threads))  # a thread's
        starts, parts = itertools.count(self._take(total), chunks), torch.split(total, chunks * _CHUNK)
        drawers = [self._drawer(part) for part in parts]
        if len(parts) == 1:
            drawers[0].add_to(total.numpy(), next(starts), deviation)
            return
        with ThreadPoolExecutor(threads) as pool:
            work = zip(drawers, parts, starts, strict=False)
            for each in [pool.submit(d.add_to, part.numpy(), start, deviation) for d, part, start in work]:
                each.result()

    def _drawer(self, part: Tensor) -> "_Drawer":
        return _Drawer(self._key, min(_CHUNK, part.numel()), secure=self._secure)

    def _take(self, out: Tensor) -> int:
        begin = self._chunks
        self._chunks += math.ceil(out.numel() / _CHUNK)
        return begin


class _Drawer:
    """Normals from one key, chunk by chunk, up to `largest` at a time: pairs of a radius and an angle."""

    def __init__(self, key: bytes, largest: int, *, secure: bool) -> None:
        pairs = (largest + 1) // 2
        self._cipher, self._secure = algorithms.AES(key), secure
        self._radius_type = np.dtype(np.int64 if secure else np.int32)
        self._bytes = bytearray((self._radius_type.itemsize + 4) * pairs + 15)
        self._radius, self._angle = np.empty((2, pairs), np.float32)
        self._noise = np.empty(2 * pairs, np.float32)

    def draw(self, chunk: int, n: int, deviation: float) -> Floats:
        """float32 [n], overwritten by the next call.

        Box & Muller 1958: radius sqrt(-2 log u) with u in (0, 1], angle even in [-pi, pi]. Exact to 2^-20 but for
        one draw in 1,000, of radius under 0.03 and exact to 2^-11. By numpy, whose logarithm, sine and cosine of
        float32 take a third of torch's time.
        """
        pairs, width = (n + 1) // 2, self._radius_type.itemsize
        # GCM encrypts in counter mode (NIST SP 800-38D, 7.1); OpenSSL's is over twice as fast as its plain CTR.
        encryptor = Cipher(self._cipher, modes.GCM(chunk.to_bytes(12, "big"))).encryptor()
        encryptor.update_into(_ZEROS[: (width + 4) * pairs], self._bytes)
        radius, angle = self._radius[:pairs], self._angle[:pairs]
        np.copyto(radius, np.frombuffer(self._bytes, self._radius_type, pairs), casting="unsafe")
        np.copyto(angle, np.frombuffer(self._bytes, np.int32, pairs, offset=width * pairs), casting="unsafe")
        np.abs(radius, out=radius)
        radius += 0.5
        radius *= 2.0 ** (1 - 8 * width)
        np.log(radius, out=radius)
        radius *= -2 * deviation**2
        np.sqrt(radius, out=radius)
        angle *= math.pi * 2.0**-31
        cosines, sines = self._noise[:pairs], self._noise[pairs : 2 * pairs]
        np.cos(angle, out=cosines)
        np.sin(angle, out=sines)
        cosines *= radius
        sines *= radius
        return self._noise[:n]

    def add_to(self, total: Floats, start: int, deviation: float) -> None:
        """total += noise; with `secure` rounded to the grid: IEEE addition rounds the exact sum, as that does."""
        grid = 2.0 ** (math.floor(math.log2(deviation)) - _GRID_BITS) if self._secure else 1.0
        for i in range(math.ceil(len(total) / _CHUNK)):
            chunk = total[i * _CHUNK : (i + 1) * _CHUNK]
            noise = self.draw(start + i, len(chunk), deviation / grid)
            if not self._secure:
                chunk += noise
                continue
            chunk *= 1 / grid
            chunk += noise
            np.rint(chunk, out=chunk)
            chunk *= grid


class NoiseSource:
    """One 32-byte secret from which the noise of every release is drawn, each under its own label.

    In deployment take `NoiseSource.fresh()` for every answer. A key that is derived must cover everything
    that decides the released values (data, model, plan, round): equal noise on two different sums gives their
    difference away. `kind`: `secure` or, in simulations, `fast`.
    """

    def __init__(self, key: bytes, kind: Literal["secure", "fast"] = "secure") -> None:
        if not isinstance(key, bytes) or len(key) != 32:
            raise NoiseError("expected a key of 32 bytes; use NoiseSource.fresh() or NoiseSource.from_seed(...)")
        if kind not in ("secure", "fast"):
            raise NoiseError(f"kind must be 'secure' or 'fast', found {kind!r}")
        self._key, self.kind = key, kind
        self._used: set[str] = set()

    def __repr__(self) -> str:
        return f"NoiseSource(kind={self.kind!r}, key=<hidden>)"

    @classmethod
    def fresh(cls) -> Self:
        """A key from the operating system, never seen before."""
        return cls(os.urandom(32))

    @classmethod
    def from_seed(cls, seed: int, *context: str, kind: Literal["secure", "fast"] = "secure") -> Self:
        """Reproducible noise for simulations: context names the merchant, the run, the round. Protects nobody."""
        return cls(_derive(_TAG_SEED, str(seed).encode(), *(c.encode() for c in context)), kind)

    def stream(self, label: str) -> NoiseStream:
        """The stream of this label, from its start. Raises NoiseError when the label was used before."""
        return NoiseStream(self._take(label), label, secure=self.kind == "secure")

    def integers(self, label: str) -> DiscreteGaussianStream:
        """The integer stream of this label; of both kinds from AES. Raises NoiseError as `stream` does."""
        return DiscreteGaussianStream(self._take(label), label)

    def _take(self, label: str) -> bytes:
        if label in self._used:
            raise NoiseError(
                f"noise {label!r} was drawn before; a second release with it would reveal the difference"
            )
        self._used.add(label)
        return _derive(_TAG_LABEL, self._key, label.encode())


def _derive(tag: bytes, *parts: bytes) -> bytes:
    digest = hashlib.sha256(tag)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def add_noise(
    clipped: ClippedUpdate,
    noise_multiplier: float,
    stream: NoiseStream,
    out: MutableMapping[str, Tensor] | None = None,
) -> NoisedUpdate:
    """Gaussian noise of deviation noise_multiplier * clipping_norm on every coordinate, touched or not.

    out: tensors of a former call to write into, by name (float32, of the parameters' shapes); they save an
    allocation per step and are what the result holds. Raises NoiseError for a multiplier that is not
    positive.
    """
    if not 0 < noise_multiplier < math.inf:
        raise NoiseError(f"noise_multiplier must be positive and finite, found {noise_multiplier}")
    deviation = noise_multiplier * clipped.clipping_norm
    values: dict[str, Tensor] = {}
    for name in clipped.names:  # sorted, so that the same stream gives the same noise
        total = clipped.tensor(name, None if out is None else out.get(name))
        _add_in_one_pass(total, deviation, stream)
        values[name] = total
        if out is not None:
            out[name] = total
    return NoisedUpdate(values, (NoiseReceipt(noise_multiplier, clipped.clipping_norm, stream.label),))


def add_noise_to_array(values: npt.NDArray[Any], deviation: float, stream: NoiseStream) -> npt.NDArray[np.float32]:
    """float32 copy of `values` with Gaussian noise of `deviation`: for sums that were clipped elsewhere."""
    total = torch.from_numpy(np.array(values, np.float32, order="C"))
    _add_in_one_pass(total, deviation, stream)
    return np.asarray(total.numpy())


def _add_in_one_pass(total: Tensor, deviation: float, stream: NoiseStream) -> None:
    """total += noise; total is float32 and contiguous, on any device (noise is always drawn on the CPU)."""
    held = total.cpu().view(-1)
    stream.add_to(held, deviation)
    if total.device.type != "cpu":
        total.copy_(held.view(total.shape))
