# SPDX-License-Identifier: Apache-2.0
"""Masks: AES-256-CTR, whole words, reversible; and the vector they are for."""

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secagg import masks
from privacy.secagg.errors import ValueRefused
from privacy.secagg.masks import Vector, apply_masks


def keystream(seed: bytes, size: int) -> bytes:
    """Counter mode by hand: AES of 0, 1, 2, … as 128-bit big-endian integers (NIST SP 800-38A, 6.5)."""
    counters = b"".join(k.to_bytes(16, "big") for k in range(-(-size // 16)))
    return Cipher(AES(seed), ECB()).encryptor().update(counters)[:size]


@pytest.fixture(params=[True, False], ids=["GCM", "CTR"])
def stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks by either of the two ways to the key stream, whichever this processor would choose."""
    monkeypatch.setattr(masks, "_gcm_is_faster", lambda: request.param)


@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize(
    ("d", "e"),
    [
        *[(0, 0), (0, 3), (1, 0), (1, 1), (5, 2), (masks.WORDS, 1), (masks.WORDS + 3, 9)],
        *[(masks.GCM_HEAD - 1, 7), (masks.GCM_HEAD, 0), (masks.GCM_HEAD, 3), (masks.GCM_HEAD + 1, masks.WORDS)],
        *[(3 * masks.WORDS + 13, masks.WORDS + 1), (0, masks.WORDS)],
    ],
)
def test_every_word_of_a_mask_is_a_whole_word_of_the_key_stream(d: int, e: int) -> None:
    seed = os.urandom(32)
    vector = Vector.zeros(d, e)
    apply_masks(vector, [seed], [])
    stream = keystream(seed, 4 * d + 8 * e)
    body, tail = vector.views()
    assert bytes(body) + bytes(tail) == stream


def near(*borders: int) -> st.SearchStrategy[int]:
    """Sizes within three cipher blocks of a border."""
    return st.sampled_from(borders).flatmap(lambda border: st.integers(max(0, border - 12), border + 12))


@settings(max_examples=60, deadline=None)
@given(
    d=near(0, masks.GCM_HEAD, masks.WORDS, masks.WORDS + masks.GCM_HEAD, 2 * masks.WORDS + masks.GCM_HEAD),
    e=near(0, masks.WORDS // 2, masks.WORDS),
    before=st.integers(0, 5),
    plus=st.integers(0, 3),
    minus=st.integers(0, 2),
    threads=st.sampled_from([1, 2, 5]),
)
def test_both_ways_to_the_key_stream_give_the_same_bytes_for_any_size_and_place(
    d: int, e: int, before: int, plus: int, minus: int, threads: int
) -> None:
    """Masks are laid over a part of a longer buffer, which stays as it was around them."""
    seeds = [bytes([number + 1]) * 32 for number in range(plus + minus)]
    start = np.random.default_rng(d + e).integers(0, 256, 4 * (d + 2 * e + 2 * before), dtype=np.uint8)
    results = []
    for is_faster in (True, False):
        buffer = start.copy()
        inner = memoryview(buffer)[4 * before : buffer.size - 4 * before]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(masks, "_gcm_is_faster", lambda found=is_faster: found)
            apply_masks(Vector.from_bytes(inner, d, e), seeds[:plus], seeds[plus:], threads)
        results.append(buffer.tobytes())
    streams = [np.frombuffer(keystream(seed, 4 * d + 8 * e), "<u4") for seed in seeds]
    body = start[4 * before :][: 4 * d].view("<u4")
    for number, stream in enumerate(streams):
        body = body + stream[:d] if number < plus else body - stream[:d]
    assert results[0] == results[1]
    assert results[0][4 * before :][: 4 * d] == body.tobytes()
    outside = 4 * before
    assert results[0][:outside] == start.tobytes()[:outside]
    assert results[0][len(start) - outside :] == start.tobytes()[len(start) - outside :]


def test_a_mask_taken_away_leaves_what_was_there_before_it_was_added() -> None:
    rng = np.random.default_rng(1)
    body, tail = rng.integers(0, 2**32, 70_001, dtype=np.uint32), rng.integers(0, 2**63, 5, dtype=np.uint64)
    vector = Vector(body.copy(), tail.copy())
    seeds = [os.urandom(32) for _ in range(4)]
    apply_masks(vector, seeds[:2], seeds[2:])
    assert not np.array_equal(vector.body, body)
    apply_masks(vector, seeds[2:], seeds[:2])
    assert np.array_equal(vector.body, body)
    assert np.array_equal(vector.tail, tail)


@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize("d", [1, masks.WORDS, 3 * masks.WORDS + 5, 7 * masks.WORDS])
def test_any_number_of_threads_gives_the_same_masks(d: int) -> None:
    plus, minus = [os.urandom(32) for _ in range(3)], [os.urandom(32)]
    results = []
    for threads in (1, 2, 3, 5, None):
        vector = Vector.zeros(d, 3)
        apply_masks(vector, plus, minus, threads)
        results.append(b"".join(bytes(view) for view in vector.views()))
    assert len(set(results)) == 1


def test_a_seed_has_256_bits() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        apply_masks(Vector.zeros(1, 0), [bytes(16)], [])


def test_vector_refuses_other_words() -> None:
    with pytest.raises(ValueRefused, match="uint32"):
        Vector(np.zeros(3, np.int64), np.zeros(1, np.uint64))
    with pytest.raises(ValueRefused, match="flat"):
        Vector(np.zeros((3, 1), np.uint32), np.zeros(1, np.uint64))
    with pytest.raises(ValueRefused, match="bytes"):
        Vector.from_bytes(memoryview(bytes(11)), 1, 1)


def test_vector_never_prints_its_words() -> None:
    assert "305419896" not in repr(Vector(np.full(3, 305419896, np.uint32), np.zeros(1, np.uint64)))
