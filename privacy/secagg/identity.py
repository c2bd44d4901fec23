# SPDX-License-Identifier: Apache-2.0
"""A merchant's or council member's Ed25519 identity, and the one way to check a signature.

Guarantees:
- an identity never prints its secret
- a signature that verifies was made with a secret: keys of low order, for which anybody can sign, are refused
"""

from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.secagg.errors import PeerRefused
from privacy.secagg.tags import KEY_SIZE

REMEMBERED: Final = 1024
_PRIME: Final = 2**255 - 19
_ORDER_8: Final = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_LOW_ORDER: Final = frozenset({0, 1, _PRIME - 1, _PRIME, _PRIME + 1, _ORDER_8, _PRIME - _ORDER_8})
"""y of the curve's eight points of order 1, 2, 4 and 8, two also as numbers beyond the prime."""


class Identity:
    """An Ed25519 signing key. `secret` is 32 bytes; keep it in a file that only the merchant's user reads."""

    __slots__ = ("_key", "public")

    def __init__(self, secret: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public: bytes = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> "Identity":
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    def secret_bytes(self) -> bytes:
        """The 32 secret bytes, for the merchant's own key file."""
        return self._key.private_bytes_raw()

    def sign(self, *parts: bytes) -> bytes:
        """Ed25519 signature over the parts in a row, 64 bytes."""
        return self._key.sign(b"".join(parts))

    def __repr__(self) -> str:
        return f"Identity(public={self.public.hex()[:16]}…, secret=hidden)"


def verify(public: bytes, signature: bytes, what: str, *parts: bytes) -> None:
    """Return if `signature` is `public`'s over the parts in a row; raise PeerRefused, naming `what`, if not."""
    if len(public) != KEY_SIZE:
        raise PeerRefused(f"{what}: expected a key of {KEY_SIZE} bytes, found {len(public)}")
    try:
        _check(public, signature, b"".join(parts))
    except (InvalidSignature, ValueError):
        raise PeerRefused(
            f"{what}: the signature does not verify; the sender is not who the roster names"
        ) from None


@lru_cache(maxsize=REMEMBERED)
def _check(public: bytes, signature: bytes, signed: bytes) -> None:
    """Verify; raises InvalidSignature or ValueError. What was good once is good: only successes are remembered,
    which spares a process that plays many merchants the same check for each of them."""
    if int.from_bytes(public, "little") % 2**255 in _LOW_ORDER:  # the highest bit is the sign of x
        raise ValueError("a key of low order")
    Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)
