# SPDX-License-Identifier: Apache-2.0
"""Gaussian noise from a keyed stream, added to a clipped sum in one streaming pass.

`secure`: AES-256 in counter mode under a key for this stream alone; Box-Muller in float32 with a radius from 63
bits (largest value 9.4) and an angle from 32 bits. `fast`: torch's Mersenne twister, for simulations.

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
import math
import os
from abc import ABC, abstractmethod
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal, Self

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
_CHUNK: Final = 1 << 15  # draws at a time: all buffers of the pass stay in a core's cache
_GRID_BITS: Final = 20
_ZEROS: Final = bytes(6 * _CHUNK)


class NoiseStream(ABC):
    """Standard normals in a fixed order, each drawn once. `label` says what they are for."""

    def __init__(self, label: str) -> None:
        self.label = label

    @abstractmethod
    def standard_normal(self, out: Tensor) -> None:
        """Fill a contiguous float32 CPU tensor [n] with the next n independent standard normals."""

    @abstractmethod
    def add_to(self, total: Tensor, deviation: float) -> None:
        """total += noise of `deviation`, in chunks that stay in cache; total is float32 [n] on the CPU."""


class _SecureStream(NoiseStream):
    """Chunk i is made from the i-th stretch of the key stream, so threads change nothing in the result."""

    def __init__(self, key: bytes, label: str) -> None:
        super().__init__(label)
        self._key, self._chunks = key, 0

    def standard_normal(self, out: Tensor) -> None:
        drawer = _Drawer(self._key, self._take(out))
        for part in torch.split(out, _CHUNK):
            part.copy_(drawer.draw()[: part.numel()])

    def add_to(self, total: Tensor, deviation: float) -> None:
        threads = torch.get_num_threads()
        share = _CHUNK * math.ceil(total.numel() / _CHUNK / threads)
        begin, parts = self._take(total), torch.split(total, max(share, _CHUNK))
        if len(parts) == 1:
            _Drawer(self._key, begin).add_to(total, deviation)
            return
        with ThreadPoolExecutor(threads) as pool:
            drawers = [_Drawer(self._key, begin + i * share // _CHUNK) for i in range(len(parts))]
            done = [pool.submit(d.add_to, part, deviation) for d, part in zip(drawers, parts, strict=True)]
            for each in done:
                each.result()

    def _take(self, out: Tensor) -> int:
        begin = self._chunks
        self._chunks += math.ceil(out.numel() / _CHUNK)
        return begin


class _Drawer:
    """Normals from one key stream, chunk by chunk from `chunk` on."""

    def __init__(self, key: bytes, chunk: int) -> None:
        counter = (chunk * len(_ZEROS) // 16).to_bytes(16, "big")
        self._stream = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
        self._bytes = bytearray(len(_ZEROS) + 15)
        half = _CHUNK // 2
        self._radius_bits = torch.frombuffer(self._bytes, dtype=torch.int64, count=half)
        self._angle_bits = torch.frombuffer(self._bytes, dtype=torch.int32, count=half, offset=8 * half)
        self._radius, self._angle = torch.empty(2, half)
        self._noise = torch.empty(_CHUNK)

    def draw(self, deviation: float = 1.0) -> Tensor:
        """float32 [_CHUNK], overwritten by the next call.

        Box & Muller 1958: radius sqrt(-2 log u) with u in (0, 1], angle even in [-pi, pi].
        """
        self._stream.update_into(_ZEROS, self._bytes)
        radius, angle = self._radius, self._angle
        radius.copy_(self._radius_bits.bitwise_and_((1 << 63) - 1)).add_(0.5).mul_(2.0**-63)
        angle.copy_(self._angle_bits).mul_(math.pi * 2.0**-31)
        # numpy's logarithm, sine and cosine of float32 take a third of torch's time on one thread.
        np.log(radius.numpy(), out=radius.numpy())
        radius.mul_(-2 * deviation**2).sqrt_()
        cosines, sines = self._noise[: len(angle)], self._noise[len(angle) :]
        np.cos(angle.numpy(), out=cosines.numpy())
        np.sin(angle.numpy(), out=sines.numpy())
        cosines.mul_(radius)
        sines.mul_(radius)
        return self._noise

    def add_to(self, total: Tensor, deviation: float) -> None:
        """total += noise, rounded to the grid: IEEE addition rounds the exact sum, and so does rounding it on."""
        grid = 2.0 ** (math.floor(math.log2(deviation)) - _GRID_BITS)
        for chunk in torch.split(total, _CHUNK):
            noise = self.draw(deviation / grid)[: chunk.numel()]
            chunk.mul_(1 / grid).add_(noise).round_().mul_(grid)


class _FastStream(NoiseStream):
    def __init__(self, key: bytes, label: str) -> None:
        super().__init__(label)
        self._generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)

    def standard_normal(self, out: Tensor) -> None:
        for part in torch.split(out, _CHUNK):
            part.normal_(generator=self._generator)

    def add_to(self, total: Tensor, deviation: float) -> None:
        noise = torch.empty(min(_CHUNK, total.numel()))
        for chunk in torch.split(total, _CHUNK):
            chunk.add_(noise[: chunk.numel()].normal_(generator=self._generator), alpha=deviation)


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
        key = self._take(label)
        return _SecureStream(key, label) if self.kind == "secure" else _FastStream(key, label)

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
    if not 0 < deviation < math.inf:
        raise NoiseError(f"deviation must be positive and finite, found {deviation}")
    total = torch.from_numpy(np.array(values, np.float32, order="C"))
    _add_in_one_pass(total, deviation, stream)
    return np.asarray(total.numpy())


def _add_in_one_pass(total: Tensor, deviation: float, stream: NoiseStream) -> None:
    """total += noise; total is float32 and contiguous, on any device (noise is always drawn on the CPU)."""
    held = total.cpu().view(-1)
    stream.add_to(held, deviation)
    if total.device.type != "cpu":
        total.copy_(held.view(total.shape))
