# SPDX-License-Identifier: Apache-2.0
"""Poisson sampling of users: the sampling that the accountant assumes.

Guarantees:
- each user is drawn independently with the same probability
- the number drawn is random and may be zero
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["poisson_sample"]


def poisson_sample(n_users: int, rate: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """The drawn users' rows, ascending, int64; each of 0 … n_users-1 is in it with probability `rate`.

    The size is a random variable: divide by `rate * n_users`, never by the drawn size. Raises ValueError when
    `rate` is outside [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"a sampling rate is a probability in [0, 1], found {rate}")
    return np.flatnonzero(rng.random(n_users) < rate).astype(np.int64, copy=False)
