# SPDX-License-Identifier: Apache-2.0
"""Fixtures: small leagues, random vectors, a carrier that drops merchants at chosen steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from privacy.secagg import exchange
from privacy.secagg.exchange import League, Log, Step
from privacy.secagg.masks import Vector
from privacy.secagg.merchant import RoundTerms
from privacy.secagg.platform import Sum


@dataclass
class Bench:
    """A league with vectors of d + e words, and one round over it."""

    league: League
    terms: RoundTerms
    vectors: dict[str, Vector]

    @property
    def names(self) -> list[str]:
        return list(self.league.merchants)

    def fresh(self) -> dict[str, Callable[[], Vector]]:
        return {
            name: (lambda v=vector: Vector(v.body.copy(), v.tail.copy())) for name, vector in self.vectors.items()
        }

    def set_up(
        self, drops: Mapping[Step, set[str]] | None = None, epoch: int = 1, base: int = 1
    ) -> tuple[str, ...]:
        carry = dropping(drops or {})
        return exchange.set_up(
            self.league.merchants, self.league.platform, epoch=epoch, base_round=base, carry=carry
        )

    def round(
        self,
        number: int = 1,
        drops: Mapping[Step, set[str]] | None = None,
        log: Log | None = None,
        attempts: int = 1,
    ) -> Sum:
        return exchange.run_round(
            *(self.league.merchants, self.fresh(), self.league.platform),
            number=number,
            terms=dict.fromkeys(self.names, self.terms),
            platform_terms=self.terms,
            attempts=attempts,
            carry=dropping(drops or {}),
            log=log,
        )

    def whole(self, drops: Mapping[Step, set[str]]) -> Sum:
        self.set_up(drops)
        return self.round(drops=drops)

    def expected(self, survivors: tuple[str, ...]) -> Vector:
        total = Vector.zeros(self.terms.d, self.terms.e)
        for name in survivors:
            total.add(self.vectors[name])
        return total

    def assert_exact(self, result: Sum) -> None:
        want = self.expected(result.survivors)
        assert np.array_equal(want.body, result.vector.body)
        assert np.array_equal(want.tail, result.vector.tail)


def dropping(drops: Mapping[Step, set[str]]) -> exchange.Carrier:
    """Merchants vanish at a step and stay away."""
    order = list(Step)

    def carry(step: Step, name: str, answer: Callable[[], bytes]) -> bytes | None:
        gone = any(name in names and order.index(at) <= order.index(step) for at, names in drops.items())
        return None if gone else answer()

    return carry


def make_bench(n: int, d: int = 37, e: int = 2, seed: int = 0, **roster: int) -> Bench:
    league = exchange.make_league([f"m{index:03d}" for index in range(n)], **roster)
    rng = np.random.default_rng(seed)
    vectors = {
        name: Vector(
            rng.integers(0, 2**32, d, dtype=np.uint32), rng.integers(0, 2**64, e, dtype=np.uint64, endpoint=False)
        )
        for name in league.merchants
    }
    return Bench(league, RoundTerms(b"m" * 32, b"p" * 32, d, e), vectors)


@pytest.fixture
def bench() -> Callable[..., Bench]:
    return make_bench
