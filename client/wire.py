# SPDX-License-Identifier: Apache-2.0
"""Messages between the relay and the merchant's worker: typed, versioned, length-prefixed msgpack.

A frame is 4 bytes magic and version, 8 bytes length (big endian), then the body. Nothing is unpickled; every
field is checked against its type, every array against its dtype, shape and length.

Guarantees:
- Truncated, oversized, foreign or mistyped bytes raise `WireError` and nothing else.
- A peer that sends too slowly is given up at the deadline.
"""

import math
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from client.errors import NothingSent, Refused, WireError

MAGIC = b"HSW\x03"
HEADER_BYTES = len(MAGIC) + 8
MAX_FRAME_BYTES = 2**30
Scalar = str | int | float
Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Request:
    """What the platform proposes to one merchant.

    Attributes:
        kind: `train`, `popularity`, `gate`, `vocabulary`, or `secagg` for the steps of secure
            aggregation that hold no question.
        run: the run's name; with `round` it is the unit of the ledger's reservations.
        round: the round, from 1; 0 before training.
        arrays: the shared model.
        settings: training and privacy settings, checked by the worker against its own policy.
        secagg: a message of the secure aggregation protocol; empty in plain exchanges.
    """

    kind: str
    run: str
    round: int
    arrays: Mapping[str, Array]
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    secagg: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a merchant lets out: an update or a histogram, summed statistics, its weight in the mean.

    In secure exchanges all three are empty, and `secagg` is the protocol's answer; in plain ones it is None.
    `words` (little-endian uint32) are what mode `distributed` answers before the mask: they stay in the worker.
    """

    arrays: Mapping[str, Array]
    statistics: Mapping[str, Array]
    weight: int
    secagg: bytes | None = None
    words: bytes = b""


class _Tensor(msgspec.Struct, array_like=True, frozen=True):
    dtype: Literal["<f4"]
    shape: tuple[int, ...]
    data: bytes


class _Request(msgspec.Struct, tag="request", frozen=True):
    kind: str
    run: str
    round: int
    arrays: dict[str, _Tensor]
    settings: dict[str, Scalar]
    secagg: bytes


class _Reply(msgspec.Struct, tag="reply", frozen=True):
    arrays: dict[str, _Tensor]
    statistics: dict[str, _Tensor]
    weight: int
    secagg: bytes | None
    words: bytes


class _Refusal(msgspec.Struct, tag="refusal", frozen=True):
    reason: str


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Request | _Reply | _Refusal)


def encode_request(request: Request) -> bytes:
    """The request as the body of a frame; raises `WireError` for an array that is not float32."""
    arrays = _pack(request.arrays)
    settings = {**request.settings}
    return _encoder.encode(_Request(request.kind, request.run, request.round, arrays, settings, request.secagg))


def encode_reply(reply: Reply) -> bytes:
    """The reply as the body of a frame; raises `WireError` for an array that is not float32."""
    arrays, statistics = _pack(reply.arrays), _pack(reply.statistics)
    return _encoder.encode(_Reply(arrays, statistics, reply.weight, reply.secagg, reply.words))


def encode_refusal(reason: str) -> bytes:
    """A refusal as the body of a frame."""
    return _encoder.encode(_Refusal(reason))


def decode_request(body: bytes) -> Request:
    """Read a request; raises `WireError`."""
    message = _decode(body)
    if not isinstance(message, _Request):
        raise WireError(f"expected a request, found a {type(message).__name__.strip('_').lower()}")
    arrays = _unpack(message.arrays)
    return Request(message.kind, message.run, message.round, arrays, message.settings, message.secagg)


def decode_reply(body: bytes) -> Reply:
    """Read a reply; raises `WireError`, or `Refused` with the worker's reason."""
    message = _decode(body)
    if isinstance(message, _Refusal):
        raise Refused(message.reason)
    if not isinstance(message, _Reply):
        raise WireError("expected a reply, found a request")
    arrays, statistics = _unpack(message.arrays), _unpack(message.statistics)
    return Reply(arrays, statistics, message.weight, message.secagg, message.words)


def send_frame(connection: socket.socket, body: bytes) -> None:
    """Send one frame, within the connection's timeout as a whole."""
    connection.sendall(MAGIC + len(body).to_bytes(8, "big") + body)


def receive_frame(connection: socket.socket, timeout_s: float) -> bytes:
    """Receive one whole frame.

    Raises `WireError`, its kind `NothingSent` where no byte came, and `TimeoutError` when it is not whole after
    `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    connection.settimeout(timeout_s)
    if not connection.recv(1, socket.MSG_PEEK):
        raise NothingSent("connection closed before its first byte")
    header = _receive(connection, HEADER_BYTES, deadline)
    if header[: len(MAGIC)] != MAGIC:
        raise WireError(f"expected {MAGIC!r}, found {header[: len(MAGIC)]!r}: another version or program")
    size_bytes = int.from_bytes(header[len(MAGIC) :], "big")
    if size_bytes > MAX_FRAME_BYTES:
        raise WireError(f"frame of {size_bytes} bytes, at most {MAX_FRAME_BYTES} are taken")
    return _receive(connection, size_bytes, deadline)


def _receive(connection: socket.socket, size_bytes: int, deadline: float) -> bytes:
    parts = bytearray()
    while len(parts) < size_bytes:
        connection.settimeout(max(deadline - time.monotonic(), 1e-3))
        part = connection.recv(min(size_bytes - len(parts), 2**20))
        if not part:
            raise WireError(f"connection closed after {len(parts)} of {size_bytes} bytes")
        parts += part
    return bytes(parts)


def _decode(body: bytes) -> _Request | _Reply | _Refusal:
    try:
        message: _Request | _Reply | _Refusal = _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as broken:
        raise WireError(f"not a message of this version: {broken}") from None
    return message


def _pack(arrays: Mapping[str, Array]) -> dict[str, _Tensor]:
    return {name: _tensor(name, np.asarray(array, order="C")) for name, array in sorted(arrays.items())}


def _tensor(name: str, array: Array) -> _Tensor:
    if array.dtype.str != "<f4":
        raise WireError(f"array {name}: expected little-endian float32, found {array.dtype.str}")
    return _Tensor("<f4", array.shape, array.tobytes())


def _unpack(tensors: Mapping[str, _Tensor]) -> dict[str, Array]:
    return {name: _array(name, tensor) for name, tensor in tensors.items()}


def _array(name: str, tensor: _Tensor) -> Array:
    dtype = np.dtype(tensor.dtype)
    if any(n < 0 for n in tensor.shape) or math.prod(tensor.shape) * dtype.itemsize != len(tensor.data):
        raise WireError(f"array {name}: {len(tensor.data)} bytes do not fill {tensor.dtype} {tensor.shape}")
    try:
        return np.frombuffer(tensor.data, dtype=dtype).reshape(tensor.shape)
    except (ValueError, OverflowError):
        raise WireError(f"array {name}: no array has {len(tensor.shape)} axes of this size") from None
