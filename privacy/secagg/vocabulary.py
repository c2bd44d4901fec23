# SPDX-License-Identifier: Apache-2.0
"""What a sum still tells: an item that one merchant carries is disclosed by its row.

So the league trains on what at least m merchants carry, counted in a round of its own: each merchant answers 1 for
a candidate that it carries and 0 otherwise, and the platform opens the counts alone: how many carry it, never who.

Guarantees:
- an entry carried by fewer than m merchants is not shared
- counts that no sum of zeros and ones can give are refused

Assumes that all merchants hold the same candidates in the same order: their digest is the question
(docs/secure-aggregation.md, §16).
"""

import numpy as np
import numpy.typing as npt

from privacy.secagg.errors import ValueRefused

QUESTION, CARRIED = "vocabulary", "carried"
DEFAULT_CARRIERS = 3


def shared(
    counts: npt.NDArray[np.int64], survivors: int, carriers: int = DEFAULT_CARRIERS
) -> npt.NDArray[np.bool_]:
    """Which of V candidates at least `carriers` merchants carry, bool [V].

    `counts` int64 [V] is the opened sum over `survivors` merchants. Raises ValueRefused when it cannot be such a
    count, or when `carriers` is not within 1 … survivors.
    """
    if not 1 <= carriers <= survivors:
        raise ValueRefused(
            f"expected 1 to {survivors} carriers, found {carriers}: no item can be carried by more merchants than "
            "answered"
        )
    return (carriers <= counts) & (counts <= survivors)
