# SPDX-License-Identifier: Apache-2.0
"""An average of the models of all rounds in which later ones count more: noise cancels, progress stays.

Polynomial-decay averaging (Shamir & Zhang 2013, "Stochastic gradient descent for non-smooth optimization", §4): it
needs neither the number of rounds beforehand nor their models, and it is post-processing: it costs no privacy.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[np.float32]]


def averaged(before: Arrays, newest: Arrays, number: int, power: float) -> dict[str, npt.NDArray[np.float32]]:
    """The average after round `number`, from 1; a model of round i weighs about (i / number) ** power."""
    share = (power + 1.0) / (number + power)
    return {
        name: np.asarray((1.0 - share) * before.get(name, 0.0) + share * array, np.float32)
        for name, array in newest.items()
    }
