# SPDX-License-Identifier: Apache-2.0
"""Shamir over GF(2^8)."""

import itertools
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg import shamir


def test_field_products_known_answers_fips_197() -> None:
    # FIPS 197, section 4.2: {57}·{83} = {c1}; 4.2.1: {57}·{13} = {fe}
    assert shamir._ROW[0x57][0x83] == 0xC1
    assert shamir._ROW[0x57][0x13] == 0xFE


def test_every_inverse() -> None:
    assert all(shamir._ROW[a][shamir._INVERSE[a]] == 1 for a in range(1, 256))


@given(st.data())
def test_any_t_shares_give_the_secrets_back(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    t = data.draw(st.integers(1, n))
    secrets = data.draw(st.binary(min_size=1, max_size=70))
    points = data.draw(st.lists(st.integers(1, 255), min_size=n, max_size=n, unique=True))
    shares = shamir.split(secrets, points, t, os.urandom)
    chosen = data.draw(st.permutations(range(n)))[:t]
    assert shamir.combine([shares[k] for k in chosen], [points[k] for k in chosen]) == secrets


@pytest.mark.parametrize("secret", [0, 1, 255])
def test_any_t_1_shares_are_uniform_whatever_the_secrets(secret: int) -> None:
    # t = 3: over all pairs of coefficients, every pair of shares at two points comes up exactly once.
    seen: Counter[tuple[int, int]] = Counter()
    for low, high in itertools.product(range(256), repeat=2):
        coefficients = bytes((low, high))
        one, two, _ = shamir.split(bytes([secret]), [1, 2, 7], 3, lambda size, c=coefficients: c[:size])
        seen[one[0], two[0]] += 1
    assert set(seen.values()) == {1}
    assert len(seen) == 65536


@pytest.mark.parametrize("points", [[0, 1], [1, 1], [256, 2]])
def test_points_are_checked(points: list[int]) -> None:
    with pytest.raises(ValueError, match="points"):
        shamir.split(b"x", points, 1, os.urandom)
    with pytest.raises(ValueError, match="points"):
        shamir.combine([b"x", b"y"], points)


@pytest.mark.parametrize("threshold", [0, 3])
def test_threshold_is_checked(threshold: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        shamir.split(b"x", [1, 2], threshold, os.urandom)


def test_shares_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="equal length"):
        shamir.combine([b"x", b"yy"], [1, 2])
