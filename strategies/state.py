# SPDX-License-Identifier: Apache-2.0
"""What a strategy carries from round to round, as plain arrays: momentum and second moments.

Flower keeps them in attributes of the strategy object and offers no way to save them. These are all that its
averaging strategies keep apart from the model itself, which they take anew from each round's message; a test
stops and restores every strategy between rounds and finds the same models.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from flwr.serverapp.strategy import Strategy

NAMED = ("m_t", "v_t")
LISTED = "momentum_vector"

State = dict[str, npt.NDArray[np.generic]]


def state_of(strategy: Strategy) -> State:
    """The strategy's arrays under flat names such as `m_t/tower.weight`; empty before the first round."""
    named = {a: getattr(strategy, a, None) or {} for a in NAMED}
    listed = getattr(strategy, LISTED, None) or []
    return {f"{a}/{k}": v for a, arrays in named.items() for k, v in arrays.items()} | {
        f"{LISTED}/{i:05d}": v for i, v in enumerate(listed)
    }


def restore(strategy: Strategy, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Put back what `state_of` took from a strategy of the same configuration."""
    for attribute in NAMED:
        if arrays := _under(attribute, state):
            setattr(strategy, attribute, arrays)
    if vector := _under(LISTED, state):
        setattr(strategy, LISTED, [vector[i] for i in sorted(vector)])


def _under(attribute: str, state: Mapping[str, npt.NDArray[np.generic]]) -> State:
    prefix = f"{attribute}/"
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
