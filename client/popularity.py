# SPDX-License-Identifier: Apache-2.0
"""The merchant's share of the league's popularity: how many users bought each item, once per run.

A user's row is a 0/1 vector over items, scaled down to L2 norm 1 when they bought more than one item kind:
so that a user's contribution is bounded whatever their history. In mode `local` Gaussian noise is added to the
sum (one-shot Gaussian mechanism with sensitivity `popularity_clipping_norm`).
"""

import numpy as np
import numpy.typing as npt
from privacy.noise import NoiseSource, add_noise_to_array

from client.trainer import Draws
from client.wire import Reply
from data.samples import UserHistories
from privacy.plan import PrivacyPlan

HISTOGRAM = "buyers"


def buyers(own: UserHistories, n_items: int, user_norm: float | None) -> npt.NDArray[np.float32]:
    """Distinct buyers per item, float32 [V+1]; each user's row clipped to L2 norm `user_norm` unless None."""
    user_of = np.repeat(np.arange(len(own)), own.lengths())
    pairs = np.unique(user_of * np.int64(n_items + 1) + own.items)
    user, item = pairs // (n_items + 1), pairs % (n_items + 1)
    kinds = np.bincount(user, minlength=len(own))
    scale = np.ones(len(own)) if user_norm is None else np.minimum(1.0, user_norm / np.sqrt(np.maximum(kinds, 1)))
    return np.bincount(item, weights=scale[user], minlength=n_items + 1).astype(np.float32)


def noisy_histogram(own: UserHistories, n_items: int, plan: PrivacyPlan, draws: Draws) -> Reply:
    """The reply to a popularity request: exact in mode `none`, clipped and noised otherwise."""
    if not plan.private:
        return Reply({HISTOGRAM: buyers(own, n_items, None)}, {}, weight=1)
    clipped = buyers(own, n_items, plan.popularity_clipping_norm)
    deviation = plan.popularity_noise_multiplier * plan.popularity_clipping_norm
    noised = add_noise_to_array(clipped, deviation, NoiseSource(draws.noise).stream("popularity"))
    return Reply({HISTOGRAM: noised}, {}, weight=1)
