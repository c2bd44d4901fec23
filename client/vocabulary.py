# SPDX-License-Identifier: Apache-2.0
"""The merchant's share of the league's vocabulary: which candidates it carries.

It carries an item when one of the histories that it trains on holds it: what it does not carry, its updates can't
be about. A bit may stem from one user's one purchase and carries no noise; masked sums alone keep it from the
platform (docs/secure-aggregation.md, §16).

Guarantees:
- The answer holds zeros and ones and nothing else.
"""

import numpy as np

from client.wire import Reply
from data.samples import UserHistories
from privacy.secagg.vocabulary import CARRIED


def carried(own: UserHistories, n_items: int) -> Reply:
    """The reply to a vocabulary request: float32 [V], 1 where this merchant carries item 1 … V."""
    found = np.bincount(own.items, minlength=n_items + 1)[1:] > 0
    return Reply({CARRIED: found.astype(np.float32)}, {}, weight=1)
