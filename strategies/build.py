# SPDX-License-Identifier: Apache-2.0
"""Flower's own strategies, configured: a name and options in, a `flwr` strategy out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from strategies.errors import NeedsSingleUpdates, UnknownStrategy

AVERAGING: Mapping[str, type[Strategy]] = {
    "fedadam": flower.FedAdam,
    "fedavg": flower.FedAvg,
    "fedavgm": flower.FedAvgM,
    "fedprox": flower.FedProx,
    "fedyogi": flower.FedYogi,
}
SINGLE_UPDATES = frozenset({"bulyan", "fedmedian", "fedtrimmedavg", "krum", "multikrum", "qfedavg"})


@dataclass(frozen=True, slots=True)
class StrategyConfig:
    """Which strategy turns the cohort's mean into the next model.

    Attributes:
        name: one of `AVERAGING`.
        fraction_train: share of the merchants asked per round, in (0, 1].
        options: keyword arguments of Flower's class, such as `eta` of FedAdam.
        averaging: publish the average of all rounds' models, weighted by this power of the round (see
            `strategies.averaging`); 0 publishes the last one.
    """

    name: str = "fedavg"
    fraction_train: float = 1.0
    options: Mapping[str, float] = field(default_factory=dict)
    averaging: float = 0.0


def build(config: StrategyConfig) -> Strategy:
    """The strategy that `config` names.

    Raises:
        UnknownStrategy: no such name, an option that the class does not take, or an impossible average.
        NeedsSingleUpdates: the strategy exists but can't run over sums.
    """
    if not 0 <= config.averaging < math.inf:
        raise UnknownStrategy(f"strategy.averaging must be finite and not negative, found {config.averaging}")
    if config.name in SINGLE_UPDATES:
        raise NeedsSingleUpdates(
            f"strategy.name={config.name} must see every merchant's update and a cohort shows sums only; "
            f"choose one of {', '.join(sorted(AVERAGING))}"
        )
    if config.name not in AVERAGING:
        raise UnknownStrategy(f"strategy.name={config.name!r}; choose one of {', '.join(sorted(AVERAGING))}")
    try:
        return AVERAGING[config.name](  # type: ignore[call-arg]
            fraction_train=config.fraction_train,
            fraction_evaluate=1.0,
            min_train_nodes=1,
            min_evaluate_nodes=1,
            min_available_nodes=1,
            **config.options,
        )
    except TypeError as unknown:
        raise UnknownStrategy(f"strategy.options of {config.name}: {unknown}") from None
