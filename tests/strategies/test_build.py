# SPDX-License-Identifier: Apache-2.0
import pytest
from flwr.serverapp.strategy import Strategy

from strategies.build import AVERAGING, SINGLE_UPDATES, StrategyConfig, build
from strategies.errors import NeedsSingleUpdates, UnknownStrategy


@pytest.mark.parametrize("name", sorted(AVERAGING))
def test_every_averaging_strategy_of_flower_is_built_by_name(name):
    assert isinstance(build(StrategyConfig(name)), Strategy)


@pytest.mark.parametrize("name", sorted(SINGLE_UPDATES))
def test_a_strategy_that_needs_single_updates_is_refused_by_name(name):
    with pytest.raises(NeedsSingleUpdates, match=name):
        build(StrategyConfig(name))


def test_an_unknown_strategy_or_option_is_named():
    with pytest.raises(UnknownStrategy, match="fedmagic"):
        build(StrategyConfig("fedmagic"))
    with pytest.raises(UnknownStrategy, match="warp"):
        build(StrategyConfig("fedadam", options={"warp": 9.0}))
