# SPDX-License-Identifier: Apache-2.0
"""A clipping norm that follows a quantile of the users' gradient norms (Andrew et al. 2021, arXiv 1905.03871).

Beside the clipped sum each round releases how many of the drawn users were within the norm C_t, centred: +w for
one who was, -w for one who was not (Alg. 1's b - 1/2, times 2 w). Both lie in one vector under one noise. With
w = C sqrt(s / (1 - s)) the count has the share s of the round's mu² and the vector the joint norm
C / sqrt(1 - s). It is Thm 1: noise z C / sqrt(1 - s) on the sum and z / (2 sqrt(s)) on the count cost what noise
z C on the sum alone costs.

C_t travels as scale_t = C_t / C, and merchants send gradients in units of scale_t, so that grid, plan and noise
stay. It is computed from what was released, which costs nothing.

Guarantees:
- whatever scale it is asked for, one user moves sum and count together by at most the joint norm
- the scale after a round follows from the rounds' released counts alone
"""

import math
from collections.abc import Iterable
from typing import Final

__all__ = ["SCALE", "SCALES", "WITHIN", "count_weight", "joint_norm", "scale_after"]

SCALE: Final = "clipping-scale"  # the setting of a question that names scale_t
WITHIN: Final = "within_clipping_norm"  # the statistic of a round: about which share of the users was within
LEARNING_RATE: Final = 0.2  # eta_C of §3.1
SCALES: Final = (1e-3, 1e3)  # far beyond, float32 gradients lose their digits


def joint_norm(clipping_norm: float, share: float) -> float:
    """Bound of one user's gradient and count together; the clipping norm where there is no count (share 0)."""
    return clipping_norm / math.sqrt(1.0 - share)


def count_weight(clipping_norm: float, share: float) -> float:
    """What one user adds to the count: + or - this."""
    return clipping_norm * math.sqrt(share / (1.0 - share))


def scale_after(quantile: float, within: Iterable[float]) -> float:
    """C_t / C after rounds that released `within`, the noisy shares of the users within the norm.

    The count is divided by the *expected* number of users, as who was drawn is secret: exact at the median; else C
    settles at the quantile 1/2 + (expected / drawn) (quantile - 1/2).
    """
    low, high = SCALES
    log_scale = 0.0
    for share in within:
        # Alg. 1: C <- C exp(-eta_C (b - gamma))
        log_scale = min(max(log_scale - LEARNING_RATE * (share - quantile), math.log(low)), math.log(high))
    return min(max(math.exp(log_scale), low), high)
