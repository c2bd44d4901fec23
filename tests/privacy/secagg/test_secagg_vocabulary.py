# SPDX-License-Identifier: Apache-2.0
"""Only what enough merchants carry is shared, and the count tells nobody's stock."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from privacy.secagg import exchange
from privacy.secagg.errors import ValueRefused
from privacy.secagg.masks import Vector
from privacy.secagg.merchant import RoundTerms
from privacy.secagg.vocabulary import presence, presence_digest, shared

ITEMS = [f"item{k}" for k in range(9)]


def test_an_entry_carried_by_fewer_than_m_merchants_is_not_shared(bench: Callable[..., Any]) -> None:
    made = bench(5)
    made.set_up()
    carried = {
        name: set(ITEMS[: k + 1]) for k, name in enumerate(made.names)
    }  # item k is carried by 5 - k merchants
    terms = RoundTerms(bytes(32), presence_digest(ITEMS), len(ITEMS), 0)
    result = exchange.run_round(
        *(made.league.merchants, {name: lambda n=name: presence(ITEMS, carried[n]) for name in made.names}),
        made.league.platform,
        number=1,
        terms=dict.fromkeys(made.names, terms),
        platform_terms=terms,
    )
    assert result.vector.body.tolist() == [5, 4, 3, 2, 1, 0, 0, 0, 0]
    assert shared(ITEMS, result.vector, len(result.survivors)) == ("item0", "item1", "item2")
    assert shared(ITEMS, result.vector, 5, carriers=5) == ("item0",)


def test_a_merchants_vector_holds_zeros_and_ones_and_nothing_else() -> None:
    vector = presence(ITEMS, {"item2", "item8", "of my own"})
    assert vector.body.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert vector.tail.size == 0


def test_counts_that_cannot_be_are_refused() -> None:
    counts = Vector(np.array([3] * 9, "<u4"), np.zeros(0, "<u8"))
    for call in (
        lambda: shared(ITEMS, counts, 5, carriers=1),
        lambda: shared(ITEMS, counts, 5, carriers=6),
        lambda: shared(ITEMS[:-1], counts, 5),
        lambda: shared(ITEMS, Vector(np.array([6] * 9, "<u4"), counts.tail), 5),
    ):
        with pytest.raises(ValueRefused):
            call()


def test_other_candidates_have_another_digest() -> None:
    lists = [ITEMS, ITEMS[:-1], ITEMS[::-1], ["item0item1", *ITEMS[2:]]]
    assert len({presence_digest(items) for items in lists}) == 4
