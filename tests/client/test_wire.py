# SPDX-License-Identifier: Apache-2.0
"""Messages between relay and worker: what goes in comes out, and nothing else gets in."""

import contextlib
import socket
import threading
import time

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from client.errors import Refused, WireError
from client.wire import (
    MAGIC,
    MAX_FRAME_BYTES,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode_refusal,
    encode_reply,
    encode_request,
    receive_frame,
    send_frame,
)

arrays = st.dictionaries(
    st.text(max_size=12),
    npst.arrays(np.float32, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    max_size=3,
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = st.text(max_size=8) | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
requests = st.builds(
    Request, names, names, st.integers(-(2**63), 2**63 - 1), arrays, st.dictionaries(names, scalars, max_size=3)
)
replies = st.builds(Reply, arrays, arrays, st.integers(0, 2**62))
SOUND = Request("train", "run", 3, {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"plan": "{}", "n": 3})


def same(one, other):
    return one.keys() == other.keys() and all(
        one[k].shape == other[k].shape and one[k].tobytes() == other[k].tobytes() for k in one
    )


@given(requests)
def test_a_request_that_is_encoded_and_decoded_is_the_same(request):
    found = decode_request(encode_request(request))
    assert (found.kind, found.run, found.round) == (request.kind, request.run, request.round)
    assert found.settings == request.settings
    assert same(found.arrays, request.arrays)


@given(replies)
def test_a_reply_that_is_encoded_and_decoded_is_the_same(reply):
    found = decode_reply(encode_reply(reply))
    assert found.weight == reply.weight
    assert same(found.arrays, reply.arrays)
    assert same(found.statistics, reply.statistics)


def test_equal_requests_have_equal_bytes_whatever_the_order_of_their_arrays():
    a, b = np.ones(2, np.float32), np.zeros(3, np.float32)
    one, two = Request("k", "r", 1, {"a": a, "b": b}), Request("k", "r", 1, {"b": b, "a": a})
    assert encode_request(one) == encode_request(two)


def test_a_refusal_arrives_with_its_reason():
    with pytest.raises(Refused, match="budget is spent"):
        decode_reply(encode_refusal("budget is spent"))


def only_wire_errors(decode, body):
    with contextlib.suppress(WireError, Refused):
        decode(body)


def test_truncated_bytes_raise_wire_error_and_nothing_else():
    body = encode_request(SOUND)
    for size in range(len(body)):
        with pytest.raises(WireError):
            decode_request(body[:size])


def test_flipped_bits_raise_wire_error_and_nothing_else():
    body = encode_request(SOUND)
    for position in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[position // 8] ^= 1 << position % 8
        only_wire_errors(decode_request, bytes(flipped))


@settings(max_examples=300)
@given(st.binary(max_size=200), st.sampled_from([decode_request, decode_reply]))
def test_foreign_bytes_raise_wire_error_and_nothing_else(body, decode):
    only_wire_errors(decode, body)


def forged(**changes):
    message = msgspec.msgpack.decode(encode_request(SOUND))
    return msgspec.msgpack.encode({**message, **changes})


MISTYPED = {
    "other dtype": forged(arrays={"a": ["<f8", [1], bytes(8)]}),
    "object dtype": forged(arrays={"a": ["|O", [1], bytes(8)]}),
    "bytes too few": forged(arrays={"a": ["<f4", [3], bytes(8)]}),
    "bytes too many": forged(arrays={"a": ["<f4", [1], bytes(8)]}),
    "negative size": forged(arrays={"a": ["<f4", [-1, -2], bytes(8)]}),
    "size that overflows": forged(arrays={"a": ["<f4", [2**62, 2**62, 0], b""]}),
    "more axes than arrays have": forged(arrays={"a": ["<f4", [0] * 100, b""]}),
    "bytes among the settings": forged(settings={"plan": b"x"}),
    "a list among the settings": forged(settings={"plan": [1]}),
    "a round that is text": forged(round="1"),
    "nesting without end": forged(surprise=None)[:-1] + b"\x91" * 200_000,
    "another version's kind": forged(type="order"),
    "text that is not UTF-8": encode_request(SOUND).replace(b"\xa5train", b"\xa5tr\xff\xfen"),
}


@pytest.mark.parametrize("case", MISTYPED)
def test_mistyped_bytes_raise_wire_error_and_nothing_else(case):
    with pytest.raises(WireError):
        decode_request(MISTYPED[case])


def test_a_reply_is_no_request_and_a_request_no_reply():
    with pytest.raises(WireError, match="expected a request, found a reply"):
        decode_request(encode_reply(Reply({}, {}, 1)))
    with pytest.raises(WireError, match="expected a reply, found a request"):
        decode_reply(encode_request(SOUND))


@pytest.mark.parametrize("dtype", [np.float64, np.int32, ">f4", object])
def test_an_array_that_is_not_float32_is_not_sent(dtype):
    with pytest.raises(WireError, match="expected little-endian float32"):
        encode_reply(Reply({"a": np.zeros(2, dtype)}, {}, 1))


def pair():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def test_a_frame_arrives_whole():
    ours, theirs = pair()
    body = bytes(3_000_000)
    with ours, theirs:
        sender = threading.Thread(target=send_frame, args=(ours, body))
        sender.start()
        assert receive_frame(theirs, 10.0) == body
        sender.join()


@pytest.mark.parametrize(
    ("bytes_sent", "reason"),
    [
        (b"", "closed before its first byte"),
        (MAGIC, "closed after 4 of 12"),
        (b"GET / HTTP/1.1\r\n", "another version or program"),
        (b"HSW\x01" + bytes(8), "another version or program"),
        (MAGIC + (10).to_bytes(8, "big") + b"short", "closed after 5 of 10"),
        (MAGIC + (MAX_FRAME_BYTES + 1).to_bytes(8, "big"), "at most"),
        (MAGIC + b"\xff" * 8, "at most"),
    ],
)
def test_truncated_oversized_or_foreign_frames_raise_wire_error(bytes_sent, reason):
    ours, theirs = pair()
    with theirs:
        with ours:
            ours.sendall(bytes_sent)
        with pytest.raises(WireError, match=reason):
            receive_frame(theirs, 1.0)


def test_a_peer_that_sends_too_slowly_is_given_up_at_the_deadline():
    ours, theirs = pair()
    stop = threading.Event()

    def drip():
        while not stop.wait(0.05):
            try:
                ours.send(MAGIC[:1])
            except OSError:
                return

    with ours, theirs:
        ours.sendall(MAGIC + (2**20).to_bytes(8, "big"))
        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            receive_frame(theirs, 0.4)
        stop.set()
        thread.join()
        assert time.monotonic() - began < 5.0
