# SPDX-License-Identifier: Apache-2.0
"""The benches of the secure rounds' tests, with rounds stopped where an attack sets in."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privacy.secagg.platform import PlatformRound
from privacy.secagg.setup_messages import Bundle

SHARED = Path(__file__).parents[2] / "privacy" / "secagg" / "conftest.py"
SPEC = importlib.util.spec_from_file_location("secagg_bench", SHARED)
assert SPEC is not None
assert SPEC.loader is not None
shared: Any = importlib.util.module_from_spec(SPEC)
sys.modules["secagg_bench"] = shared
SPEC.loader.exec_module(shared)


class AttackBench(shared.Bench):  # type: ignore[misc]
    """A league that an adversary plays with."""

    def announced(self) -> tuple[Any, Bundle]:
        """A set-up in which everybody has announced keys."""
        setup = self.league.platform.open_epoch(1, 1)
        for merchant in self.league.merchants.values():
            setup.receive_keys(merchant.announce(setup.opening()))
        return setup, Bundle.decode(setup.bundle())

    def reported(self, number: int = 1, attempt: int = 0) -> tuple[PlatformRound, dict[str, bytes]]:
        """A round in which everybody has reported."""
        round_ = self.league.platform.open_round(number, attempt, self.terms)
        reports = {}
        for name, merchant in self.league.merchants.items():
            merchant.open_round(round_.opening(), self.terms)
            reports[name] = merchant.report(self.fresh()[name]())
            round_.receive_report(reports[name])
        return round_, reports

    def confirmed(self) -> tuple[PlatformRound, dict[str, bytes]]:
        """A round in which everybody has confirmed, with the certificates."""
        round_, _ = self.reported()
        survivors = round_.survivors()
        for merchant in self.league.merchants.values():
            round_.receive_confirmation(merchant.confirm(survivors))
        return round_, round_.certificates()

    def assert_nothing_opened(self) -> None:
        assert {merchant._state.answered_round for merchant in self.league.merchants.values()} == {-1}


@pytest.fixture
def bench() -> Callable[..., AttackBench]:
    def make(n: int, **changes: Any) -> AttackBench:
        made = shared.make_bench(n, **changes)
        return AttackBench(made.league, made.terms, made.vectors)

    return make
