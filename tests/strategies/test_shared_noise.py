# SPDX-License-Identifier: Apache-2.0
"""Mode `distributed` over the secure cohort: the mean of noised words, or a failed round, never under-noised."""

import json

import numpy as np
import pytest

from client.wire import Reply
from privacy.noised_exchange import NoisedExchange
from strategies.cohort import Expected
from strategies.errors import CohortFailed
from tests.server.plans import shared
from tests.strategies.league import NAMES, SHAPES, Merchants, Wire, cohort_of, question

REPORT = 7
PLAN = shared(cohort=len(NAMES), dropouts=1)
SIZE = 13  # words of SHAPES
DIVISOR = PLAN.sampling_rate * 70.0
PRIVATE = 'modes = ["distributed"]\n'


class Sharing(Merchants):
    """Merchants that answer with words."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        self.words = {name: rng.integers(-(2**18), 2**18, SIZE).astype(np.int32) for name in NAMES}
        replies = {name: Reply({}, {}, 1, words=words.tobytes()) for name, words in self.words.items()}
        exchange = NoisedExchange(PLAN, "training", SHAPES)
        super().__init__(folder, replies, policy=PRIVATE, exchange=exchange, sharing=PLAN.sharing)

    def _vector(self, name, roster):
        self.trained[name] += 1
        return self.exchange.vector(self.answers[name].words)


def asked_sum(merchants, faults=None):
    wire = Wire(merchants, faults)
    settings = {"plan": json.dumps(PLAN.to_dict()), "training": json.dumps({"expected_users": 70.0})}
    expected = Expected(SHAPES, {}, 1)
    return wire, cohort_of(merchants).sum(wire, question(wire, **settings), expected, 5.0)


def mean_of(words):
    total = np.sum(list(words), axis=0) / 2.0**PLAN.scale_log2 / (DIVISOR * len(words))
    mix, tower = total[:1], total[1:]  # in the order of the sorted names
    return {"mix": mix.reshape(()), "tower": tower.reshape(3, 4)}


def test_the_mean_is_the_sum_of_words_over_public_numbers(tmp_path):
    merchants = Sharing(tmp_path)
    _, found = asked_sum(merchants)
    assert (found.survivors, found.weight, found.statistics, found.dropped) == (6, 6, {}, {})
    for name, array in mean_of(list(merchants.words.values())).items():
        np.testing.assert_allclose(found.mean[name], array, rtol=1e-6)


def test_the_tolerated_number_may_drop_out(tmp_path):
    merchants = Sharing(tmp_path)
    _, found = asked_sum(
        merchants, lambda step, name, reply: None if step == REPORT and name == NAMES[2] else reply
    )
    assert found.survivors == 5
    for name, array in mean_of([words for who, words in merchants.words.items() if who != NAMES[2]]).items():
        np.testing.assert_allclose(found.mean[name], array, rtol=1e-6)


def test_with_one_more_the_round_fails_and_nothing_is_opened(tmp_path):
    merchants = Sharing(tmp_path)
    with pytest.raises(CohortFailed):
        asked_sum(merchants, lambda step, name, reply: None if step == REPORT and name in NAMES[2:4] else reply)


def test_no_message_holds_a_merchants_words_in_clear(tmp_path):
    merchants = Sharing(tmp_path)
    wire, _ = asked_sum(merchants)
    sent = b"".join(data for _, _, data in wire.sent)
    assert all(words.tobytes()[:8] not in sent for words in merchants.words.values())
