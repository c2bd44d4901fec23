# SPDX-License-Identifier: Apache-2.0
"""Key derivation: an epoch's hybrid pair roots, the ratchet, and a round's seeds (specification §4, [A3], [A7]).

A root is HKDF-SHA-256 (RFC 5869) of X25519 (RFC 7748) and ML-KEM-768 (FIPS 203) together: it stays secret while
one of the two holds. It is bound to the epoch's transcript, both numbers and the ciphertext.

Guarantees:
- both ends derive the same root and anybody else's keys give another
- a ratcheted root does not give back the one before it
- two reports of one context never share a seal key, also from a key store that was rolled back

Assumes that the public keys' signatures were verified.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.secagg import tags, wire
from privacy.secagg.errors import PeerRefused

MLKEM_SEED_SIZE = 64
_NONCE = bytes(12)  # a seal key covers the root of the shares that it encrypts: other shares, another key


@dataclass(frozen=True, slots=True)
class EpochKeys:
    """A merchant's private keys of one epoch: X25519 32 bytes, ML-KEM-768 seed 64 bytes."""

    x25519: bytes
    mlkem_seed: bytes

    @classmethod
    def draw(cls, entropy: Callable[[int], bytes]) -> "EpochKeys":
        return cls(entropy(tags.X25519_SIZE), entropy(MLKEM_SEED_SIZE))

    def public(self) -> tuple[bytes, bytes]:
        """X25519 public key (32 bytes) and ML-KEM-768 encapsulation key (1184 bytes)."""
        mlkem = MLKEM768PrivateKey.from_seed_bytes(self.mlkem_seed).public_key().public_bytes_raw()
        return X25519PrivateKey.from_private_bytes(self.x25519).public_key().public_bytes_raw(), mlkem

    def exchange(self, peer_x25519: bytes, peer: str) -> bytes:
        """The X25519 secret, 32 bytes; PeerRefused for a key of low order."""
        try:
            key = X25519PublicKey.from_public_bytes(peer_x25519)
            return X25519PrivateKey.from_private_bytes(self.x25519).exchange(key)
        except ValueError:
            raise PeerRefused(f"{peer} announced an unusable X25519 key") from None

    def decapsulate(self, ciphertext: bytes, peer: str) -> bytes:
        """The ML-KEM-768 secret, 32 bytes."""
        try:
            return MLKEM768PrivateKey.from_seed_bytes(self.mlkem_seed).decapsulate(ciphertext)
        except ValueError:
            raise PeerRefused(f"{peer} sent an unusable ML-KEM ciphertext") from None

    def __repr__(self) -> str:
        return "EpochKeys(hidden)"


def encapsulate(peer_mlkem: bytes, peer: str) -> tuple[bytes, bytes]:
    """A fresh ML-KEM-768 secret (32 bytes) and its ciphertext (1088 bytes) for the peer."""
    try:
        secret, ciphertext = MLKEM768PublicKey.from_public_bytes(peer_mlkem).encapsulate()
    except ValueError:
        raise PeerRefused(f"{peer} announced an unusable ML-KEM key") from None
    return secret, ciphertext


def pair_root(ecdh: bytes, kem: bytes, ciphertext: bytes, epoch_digest: bytes, low: int, high: int) -> bytes:
    """[E3] The root of the pair (low, high), 32 bytes."""
    info = tags.PAIR + wire.u8(low) + wire.u8(high) + tags.digest(ciphertext)
    return HKDF(algorithm=SHA256(), length=tags.KEY_SIZE, salt=epoch_digest, info=info).derive(ecdh + kem)


def confirmation_mac(root: bytes, low: int, high: int) -> bytes:
    """[E3] Proof that the sender knows the root, 32 bytes."""
    return tags.mac(root, tags.KEY_CONFIRMATION, wire.u8(low), wire.u8(high))


def ratchet(root: bytes, steps: int) -> bytes:
    """[E6] The root `steps` rounds later, 32 bytes."""
    for _ in range(steps):
        root = tags.mac(root, tags.NEXT)
    return root


def mask_seed(root: bytes, ctx: bytes) -> bytes:
    """[A3] The pair's seed k_ij of this attempt, 32 bytes."""
    return tags.mac(root, tags.MASK, ctx)


def seal(root: bytes, ctx: bytes, author: int, holder: int, tree_root: bytes, shares: bytes) -> bytes:
    """[A7] The holder's shares, encrypted: 16 bytes longer than `shares`."""
    binding = _binding(ctx, author, holder, tree_root)
    return _cipher(root, binding).encrypt(_NONCE, shares, binding)


def unseal(root: bytes, ctx: bytes, author: int, holder: int, tree_root: bytes, sealed: bytes) -> bytes:
    """[U4] The shares again; PeerRefused when they were altered or meant for another round, author or holder."""
    binding = _binding(ctx, author, holder, tree_root)
    try:
        return _cipher(root, binding).decrypt(_NONCE, sealed, binding)
    except InvalidTag:
        raise PeerRefused(f"the shares that merchant {author} sealed for merchant {holder} do not open") from None


def _cipher(root: bytes, binding: bytes) -> AESGCM:
    return AESGCM(tags.mac(root, tags.SEAL, binding))


def _binding(ctx: bytes, author: int, holder: int, tree_root: bytes) -> bytes:
    return ctx + wire.u8(author) + wire.u8(holder) + tree_root
