# SPDX-License-Identifier: Apache-2.0
"""What a sum still tells: an item that one merchant carries is disclosed by its row.

So the shared vocabulary holds only what at least m merchants carry, counted in a secure round of its own: each
merchant's vector is 1 where it carries an entry, and only the counts are opened. The platform learns how many
merchants carry an entry, never which.

Guarantees:
- an entry carried by fewer than m merchants is not shared
- a merchant's vector holds zeros and ones and nothing else

Assumes that every merchant holds the same list of candidates (the public catalogue), in the same order.
"""

from collections.abc import Collection, Sequence

import numpy as np

from privacy.secagg import tags, wire
from privacy.secagg.errors import ValueRefused
from privacy.secagg.masks import Vector

DEFAULT_CARRIERS = 3


def presence(candidates: Sequence[str], carried: Collection[str]) -> Vector:
    """This merchant's vector: body [len(candidates)] of 0 and 1, no tail."""
    mine = frozenset(carried)
    return Vector(np.fromiter((name in mine for name in candidates), "<u4", len(candidates)), np.zeros(0, "<u8"))


def presence_digest(candidates: Sequence[str]) -> bytes:
    """The plan's digest for the counting round: the same for all that hold the same candidates, 32 bytes."""
    parts = [tags.PLAN, b"presence", wire.u32(len(candidates))]
    for name in candidates:
        raw = name.encode()
        parts += [wire.u32(len(raw)), raw]
    return tags.digest(*parts)


def shared(
    candidates: Sequence[str], counts: Vector, survivors: int, carriers: int = DEFAULT_CARRIERS
) -> tuple[str, ...]:
    """The candidates that at least `carriers` merchants carry, in the given order.

    `counts` is the opened sum over `survivors` merchants. Raises ValueRefused when it cannot be such a count, or
    when `carriers` is below 2 or above the survivors.
    """
    if not 2 <= carriers <= survivors:
        raise ValueRefused(f"expected 2 to {survivors} carriers, found {carriers}")
    if counts.body.size != len(candidates):
        raise ValueRefused(f"expected {len(candidates)} counts, found {counts.body.size}")
    if counts.body.size and int(counts.body.max()) > survivors:
        raise ValueRefused(f"a count above {survivors}: a merchant sent more than zeros and ones")
    return tuple(name for name, count in zip(candidates, counts.body, strict=True) if count >= carriers)
