# SPDX-License-Identifier: Apache-2.0
"""Commitments to secrets and to the shares that a holder gets (specification [A6], [U5]).

A hash tree over a holder's shares lets it prove the few shares that it opens, against a root that the author
signed. Nodes are 16 bytes: a holder that wants to pass a wrong share needs a second preimage; an author that
makes collisions only loses its own claim, as the secret itself is committed to with 32 bytes. A node has up to
eight children: half the hashes of a binary tree, for a proof of a few nodes more.

Guarantees:
- a share that differs from what its author dealt does not prove
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from privacy.secagg import tags, wire
from privacy.secagg.errors import PeerRefused

CHILDREN: Final = 8
_PLACE: Final = tuple(bytes((place,)) for place in range(256))


def commit_secret(ctx: bytes, low: int, high: int, secret: bytes) -> bytes:
    """Commitment to a pair's seed (low < high) or to a merchant's own (low = high), 32 bytes."""
    return tags.digest(tags.SECRET, ctx, wire.u8(low), wire.u8(high), secret)


@dataclass(frozen=True, slots=True)
class ShareTree:
    """The hash tree over one holder's shares of one author's secrets, leaves first."""

    levels: tuple[tuple[bytes, ...], ...]

    @classmethod
    def over(cls, shares: Sequence[bytes], positions: Sequence[int]) -> "ShareTree":
        """Share k stands for the merchant positions[k]."""
        size = tags.NODE_SIZE
        level = [
            sha256(b"\x00" + share + _PLACE[place]).digest()[:size]
            for share, place in zip(shares, positions, strict=True)
        ]
        levels = [tuple(level)]
        while len(level) > 1:
            level = [_node(level[start : start + CHILDREN]) for start in range(0, len(level), CHILDREN)]
            levels.append(tuple(level))
        return cls(tuple(levels))

    def root(self, ctx: bytes, author: int, holder: int) -> bytes:
        """What the author commits to for this holder, 16 bytes."""
        return _root(ctx, author, holder, self.levels[-1][0])

    def prove(self, opened: Collection[int]) -> tuple[bytes, ...]:
        """The nodes that a verifier of the opened leaves lacks, bottom level first, left to right."""
        nodes: list[bytes] = []
        known = set(opened)
        for level in self.levels[:-1]:
            nodes += [level[index] for index in _missing(known, len(level))]
            known = {index // CHILDREN for index in known}
        return tuple(nodes)


def check_proof(
    root: bytes,
    ctx: bytes,
    author: int,
    holder: int,
    opened: dict[int, tuple[int, bytes]],
    leaves: int,
    nodes: Sequence[bytes],
) -> None:
    """Return if the opened shares (leaf index → (merchant's number, share)) prove; else raise PeerRefused."""
    size = tags.NODE_SIZE
    known = {
        leaf: sha256(b"\x00" + share + _PLACE[place]).digest()[:size] for leaf, (place, share) in opened.items()
    }
    given = iter(nodes)
    width = leaves
    while width > 1:
        for index in _missing(known.keys(), width):
            known[index] = next(given, b"")
        parents = {index // CHILDREN for index in known}
        known = {parent: _node([known[child] for child in _children(parent, width)]) for parent in parents}
        width = -(-width // CHILDREN)
    if _root(ctx, author, holder, known[0]) != root:
        raise PeerRefused(f"merchant {holder}'s share of merchant {author}'s secret is not what was dealt")


def _children(parent: int, width: int) -> range:
    return range(CHILDREN * parent, min(CHILDREN * parent + CHILDREN, width))


def _missing(known: Collection[int], width: int) -> list[int]:
    """Siblings of the known nodes of a level that are not known themselves, left to right."""
    parents = sorted({index // CHILDREN for index in known})
    return [child for parent in parents for child in _children(parent, width) if child not in known]


def _node(children: Sequence[bytes]) -> bytes:
    return sha256(b"\x01" + b"".join(children)).digest()[: tags.NODE_SIZE]


def _root(ctx: bytes, author: int, holder: int, top: bytes) -> bytes:
    return tags.digest(tags.SHARES, ctx, wire.u8(author), wire.u8(holder), top)[: tags.NODE_SIZE]
