# SPDX-License-Identifier: Apache-2.0
"""The attacks on mask generators that recover updates elsewhere, and that they fail here.

Labels as in docs/secure-aggregation.md §13; each test fails if the attack works.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from privacy.secagg.masks import Vector, apply_masks

Make = Callable[..., Any]


# --- S1, S2, S14: the mask generator -------------------------------------------------------------------------


def test_s1_seeds_are_not_folded_to_32_bits() -> None:
    seed = os.urandom(32)
    words = np.frombuffer(seed, "<u4").copy()
    words[0] ^= 0x5A5A5A5A
    words[1] ^= 0x5A5A5A5A
    twin = words.tobytes()
    fold = np.bitwise_xor.reduce(np.frombuffer(seed, "<u4"))
    assert fold == np.bitwise_xor.reduce(np.frombuffer(twin, "<u4"))
    one, two = Vector.zeros(8, 0), Vector.zeros(8, 0)
    apply_masks(one, [seed], [])
    apply_masks(two, [twin], [])
    assert not np.array_equal(one.body, two.body)


def linear_complexity(bits: np.ndarray) -> int:
    """Berlekamp–Massey over GF(2), polynomials and window as integers."""
    current, previous, length, gap, window = 1, 1, 0, 1, 0
    for n, bit in enumerate(bits.tolist()):
        window = window << 1 | bit
        if (current & window).bit_count() & 1:
            if 2 * length <= n:
                current, previous = current ^ previous << gap, current
                length, gap = n + 1 - length, 1
                continue
            current ^= previous << gap
        gap += 1
    return length


def test_s2_the_lowest_bits_of_a_sum_of_masks_obey_no_short_recurrence() -> None:
    size = 44_000
    ours = Vector.zeros(size, 0)
    apply_masks(ours, [os.urandom(32) for _ in range(5)], [os.urandom(32) for _ in range(4)])
    broken = np.zeros(size, np.uint32)
    for seed in range(9):
        broken += np.random.RandomState(seed).randint(0, 2**32, size, dtype=np.uint32)
    assert linear_complexity(broken & 1) == 19937  # MT19937: the attack works, whatever the number of masks
    assert linear_complexity(ours.body & 1) > size // 2 - 40


def test_s14_masks_reach_every_value_of_the_ring() -> None:
    vector = Vector.zeros(1 << 18, 0)
    apply_masks(vector, [os.urandom(32)], [])
    top = vector.body >> 24
    counts = np.bincount(top, minlength=256)
    chi_square = float((((counts - 1024) ** 2) / 1024).sum())
    assert 150 < chi_square < 385  # 255 degrees of freedom, p > 1e-6 on either side
