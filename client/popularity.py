# SPDX-License-Identifier: Apache-2.0
"""The merchant's share of the league's popularity: how many users bought each item, once per run.

In private modes each user's row is scaled down to L2 norm `popularity_clipping_norm` (in mode `merchant` the whole
histogram is) and noise is added to the sum (one-shot Gaussian mechanism).

Guarantees:
- One unit changes a private histogram by at most the clipping norm before noise.
"""

import numpy as np
import numpy.typing as npt

from client.protection import protected
from client.trainer import Draws
from client.wire import Reply
from data.samples import UserHistories
from models.popularity import popularity_counts
from privacy.merchant_clipping import clipped_values
from privacy.plan import Mode, PrivacyPlan

HISTOGRAM = "buyers"


def noisy_histogram(own: UserHistories, n_items: int, plan: PrivacyPlan, draws: Draws) -> Reply:
    """The reply to a popularity request: exact in mode `none`, clipped and noised otherwise."""
    if not plan.private:
        return Reply({HISTOGRAM: popularity_counts(own, n_items)}, {}, weight=1)
    clipped = _clipped(own, n_items, plan)
    return protected(HISTOGRAM, clipped, plan, "popularity", draws)


def _clipped(own: UserHistories, n_items: int, plan: PrivacyPlan) -> npt.NDArray[np.float32]:
    if plan.mode is Mode.MERCHANT:
        return clipped_values(popularity_counts(own, n_items), plan.popularity_clipping_norm)
    return popularity_counts(own, n_items, clipping_norm=plan.popularity_clipping_norm)
