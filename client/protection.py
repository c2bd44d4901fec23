# SPDX-License-Identifier: Apache-2.0
"""The noise of a one-shot sum: all of it in mode `local`, this merchant's share in the modes that share it.

Assumes that one unit changes the sum by at most the clipping norm that the plan names for it.
"""

from typing import Any

import numpy.typing as npt

from client.trainer import Draws
from client.wire import Reply
from privacy.integer_update import integer_sums
from privacy.noise import NoiseSource, add_noise_to_array
from privacy.plan import PrivacyPlan
from privacy.units import SHARED_NOISE


def protected(name: str, sums: npt.NDArray[Any], plan: PrivacyPlan, family: str, draws: Draws) -> Reply:
    """The reply that holds clipped `sums`, float [d], with noise: `name` as float32, or words for a mask."""
    source = NoiseSource(draws.noise)
    if plan.mode in SHARED_NOISE:
        words = integer_sums(sums, plan, family, source.integers(family)).words
        return Reply({}, {}, weight=1, words=words.tobytes())
    noised = add_noise_to_array(sums, plan.merchant_noise(family), source.stream(family))
    return Reply({name: noised}, {}, weight=1)
