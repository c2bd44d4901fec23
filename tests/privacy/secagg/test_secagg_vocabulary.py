# SPDX-License-Identifier: Apache-2.0
"""Which entries a league shares: the sum of masked presence decides, and one question is one question for ever."""

import numpy as np
import pytest

from privacy.secagg.errors import ValueRefused
from privacy.secagg.vocabulary import CARRIED, QUESTION, shared
from privacy.secure_exchange import Exchange, request_digest

ITEMS = 9


def test_an_entry_carried_by_fewer_than_m_merchants_is_not_shared(bench) -> None:
    made = bench(5)
    roster, asked = made.league.platform.roster, Exchange(QUESTION, {CARRIED: (ITEMS,)}, {})
    for number, name in enumerate(made.names):  # item k is carried by 5 - k merchants
        carried = (np.arange(ITEMS) <= number).astype(np.float32)
        made.vectors[name] = asked.vector(roster, {CARRIED: carried}, {}, 1, bytes(32))
    made.terms = asked.terms(roster, bytes(32))
    made.set_up()
    opened = asked.opened(roster, made.round().vector, 5)
    counts = np.rint(opened.mean[CARRIED].astype(np.float64) * opened.weight).astype(np.int64)
    assert counts.tolist() == [5, 4, 3, 2, 1, 0, 0, 0, 0]
    assert np.flatnonzero(shared(counts, 5)).tolist() == [0, 1, 2]
    assert np.flatnonzero(shared(counts, 5, carriers=5)).tolist() == [0]


@pytest.mark.parametrize(
    ("counts", "survivors", "carriers"),
    [([3, 3], 5, 0), ([3, 3], 5, 6), ([2, 2], 2, 3)],
)
def test_more_carriers_than_answered_are_refused(counts, survivors, carriers) -> None:
    with pytest.raises(ValueRefused):
        shared(np.array(counts), survivors, carriers)


def test_a_count_that_no_sum_of_zeros_and_ones_can_give_costs_its_item_alone() -> None:
    assert shared(np.array([3, 6, -1, 5, 2]), survivors=5, carriers=3).tolist() == [
        True,
        False,
        False,
        True,
        False,
    ]


def test_the_question_is_its_candidates_alone_whatever_the_run() -> None:
    asked = {"vocabulary": "one", "run": "first", "cohort-size": 5, "server-round": 0}
    again = {"vocabulary": "one", "run": "second", "cohort-size": 4, "server-round": 3, "plan": "{}"}
    other = {**asked, "vocabulary": "another"}
    arrays = {"w": np.zeros(2, np.float32)}
    digest = request_digest(QUESTION, asked, {})
    assert request_digest(QUESTION, again, arrays) == digest
    assert request_digest(QUESTION, other, {}) != digest
    assert request_digest("train", asked, {}) != request_digest("train", again, {})
