# SPDX-License-Identifier: Apache-2.0
"""Commitments to secrets and to the shares that a holder gets (specification [A6], [U5]).

A hash tree over a holder's shares lets it prove the few shares that it opens, against a root that the author
signed. Nodes are 16 bytes: a holder that wants to pass a wrong share needs a second preimage; an author that
makes collisions only loses its own claim, as the secret itself is committed to with 32 bytes.

Guarantees:
- a share that differs from what its author dealt does not prove
"""

from collections.abc import Collection, Sequence
from hashlib import sha256

from privacy.secagg import tags, wire
from privacy.secagg.errors import PeerRefused


def commit_secret(ctx: bytes, low: int, high: int, secret: bytes) -> bytes:
    """Commitment to a pair's seed (low < high) or to a merchant's own (low = high), 32 bytes."""
    return tags.digest(tags.SECRET, ctx, wire.u8(low), wire.u8(high), secret)


def commit_shares(
    ctx: bytes, author: int, holder: int, shares: Sequence[bytes], positions: Sequence[int]
) -> bytes:
    """Root over a holder's shares; share k stands for the merchant positions[k]. 16 bytes."""
    levels = _levels([_leaf(share, position) for share, position in zip(shares, positions, strict=True)])
    return _root(ctx, author, holder, levels[-1][0])


def prove(shares: Sequence[bytes], positions: Sequence[int], opened: Collection[int]) -> list[bytes]:
    """The nodes that a verifier of the opened leaves (indices into `shares`) lacks, bottom level first."""
    levels = _levels([_leaf(share, position) for share, position in zip(shares, positions, strict=True)])
    nodes = []
    known = set(opened)
    for level in levels[:-1]:
        nodes += [level[index] for index in _missing(known, len(level))]
        known = {index // 2 for index in known}
    return nodes


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
    known = {index: _leaf(share, position) for index, (position, share) in opened.items()}
    given = iter(nodes)
    while leaves > 1:
        for index in _missing(known.keys(), leaves):
            known[index] = next(given, b"")
        known = {
            parent: _node(known[2 * parent], known[2 * parent + 1])
            if 2 * parent + 1 < leaves
            else known[2 * parent]
            for parent in {index // 2 for index in known}
        }
        leaves = (leaves + 1) // 2
    if _root(ctx, author, holder, known[0]) != root:
        raise PeerRefused(f"merchant {holder}'s share of merchant {author}'s secret is not what was dealt")


def _missing(known: Collection[int], width: int) -> list[int]:
    """Siblings of the known nodes of a level that are not known themselves, left to right."""
    return sorted(index ^ 1 for index in known if index ^ 1 not in known and index ^ 1 < width)


def _levels(leaves: list[bytes]) -> list[list[bytes]]:
    levels = [leaves]
    while len(level := levels[-1]) > 1:
        above = [_node(level[k], level[k + 1]) for k in range(0, len(level) - 1, 2)]
        levels.append(above + level[2 * len(above) :])
    return levels


def _leaf(share: bytes, position: int) -> bytes:
    return sha256(b"\x00" + share + position.to_bytes(1, "little")).digest()[: tags.NODE_SIZE]


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()[: tags.NODE_SIZE]


def _root(ctx: bytes, author: int, holder: int, top: bytes) -> bytes:
    return tags.digest(tags.SHARES, ctx, wire.u8(author), wire.u8(holder), top)[: tags.NODE_SIZE]
