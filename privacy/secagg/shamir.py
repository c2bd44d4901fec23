# SPDX-License-Identifier: Apache-2.0
"""Shamir's secret sharing over GF(2^8), byte by byte and many secrets at once (Shamir 1979).

The polynomial is drawn in the basis of Lin, Chung & Han (2014, arXiv 1404.3458, §III): element k has degree k
and, for k > 0, is 0 at 0. So the secret in front of t - 1 uniform coefficients is a uniform polynomial of degree
below t with the secret at 0, as in the usual basis; an additive FFT evaluates all points of a subspace at once.

Shapes: S secrets, each 32 bytes; n holders at points 1 … 255; L = S · 32 bytes in a row.

Guarantees:
- any t shares give the secrets back
- any t - 1 shares are uniform, whatever the secrets

Assumes that `entropy` is a cryptographic source. Table look-ups are not constant-time.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

REDUCTION: Final = 0x11B
Bytes = npt.NDArray[np.uint8]


def _products() -> Bytes:
    """All products of the field, [256, 256]."""
    a_256x1 = np.arange(256, dtype=np.uint16)[:, None]
    b_1x256 = np.arange(256, dtype=np.uint16)[None, :]
    product = np.zeros((256, 256), np.uint16)
    for bit in range(8):
        product ^= np.where(b_1x256 >> bit & 1, a_256x1 << bit, 0).astype(np.uint16)
    for bit in range(14, 7, -1):
        product ^= np.where(product >> bit & 1, REDUCTION << (bit - 8), 0).astype(np.uint16)
    return product.astype(np.uint8)


_PRODUCT: Final = _products()
_ROW: Final = tuple(row.tobytes() for row in _PRODUCT)
_INVERSE: Final = tuple(int(np.flatnonzero(row == 1)[0]) if index else 0 for index, row in enumerate(_PRODUCT))


def split(secrets_L: bytes, points: Sequence[int], threshold: int, entropy: Callable[[int], bytes]) -> list[bytes]:
    """Share the bytes among the points; returns one string of L bytes for each point, in order.

    Raises ValueError when points repeat, are outside 1 … 255, or are fewer than the threshold.
    """
    _check_points(points)
    if not 1 <= threshold <= len(points):
        raise ValueError(f"expected a threshold of 1 to {len(points)}, found {threshold}")
    length = len(secrets_L)
    random = entropy((threshold - 1) * length)
    size = 1 << max(points).bit_length()
    values_SL = np.zeros((size, length), np.uint8)
    values_SL[:threshold] = np.frombuffer(secrets_L + random, np.uint8, threshold * length).reshape(-1, length)
    _evaluate(values_SL)
    return [values_SL[point].tobytes() for point in points]


def _evaluate(values_SL: Bytes) -> None:
    """From coefficients to values at the points 0 … S - 1, in place (Lin, Chung & Han 2014, §IV, Algorithm 1)."""
    half = len(values_SL) // 2
    while half:
        for start in range(0, len(values_SL), 2 * half):
            low_HL, high_HL = values_SL[start : start + half], values_SL[start + half : start + 2 * half]
            row = _ROW[_twiddle(half, start)]
            low_HL ^= np.frombuffer(high_HL.tobytes().translate(row), np.uint8).reshape(high_HL.shape)
            high_HL ^= low_HL
        half //= 2


@lru_cache(maxsize=512)
def _twiddle(half: int, start: int) -> int:
    """s(start) / s(half), where s(x) is the product of x - u over all u below `half`."""
    return int(_ROW[_vanishing(half, start)][_INVERSE[_vanishing(half, half)]])


def _vanishing(half: int, x: int) -> int:
    product = 1
    for u in range(half):
        product = int(_ROW[product][x ^ u])
    return product


def combine(shares: Sequence[bytes], points: Sequence[int]) -> bytes:
    """The value at 0 of the polynomials through exactly these shares (each L bytes), L bytes.

    Give t shares. Raises ValueError when points repeat or lengths differ.
    """
    _check_points(points)
    if len(shares) != len(points) or len({len(share) for share in shares}) != 1:
        raise ValueError(f"expected one share of equal length for each of {len(points)} points")
    value_L = np.zeros(len(shares[0]), np.uint8)
    for weight, share in zip(_weights_at_zero(tuple(points)), shares, strict=True):
        value_L ^= np.frombuffer(share.translate(_ROW[weight]), np.uint8)
    return value_L.tobytes()


@lru_cache(maxsize=8)
def _weights_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's coefficient of each point at 0: the product of other / (other - point)."""
    weights = []
    for point in points:
        weight = 1
        for other in points:
            if other != point:
                weight = _ROW[weight][_ROW[other][_INVERSE[other ^ point]]]
        weights.append(weight)
    return tuple(weights)


def _check_points(points: Sequence[int]) -> None:
    if len(set(points)) != len(points) or not all(1 <= point <= 255 for point in points):
        raise ValueError("expected distinct points from 1 to 255")
