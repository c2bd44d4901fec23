# SPDX-License-Identifier: Apache-2.0
"""What a merchant can do to its cohort with one reply: be dropped with a reason, and nothing else."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from client.wire import Reply
from simulation.grid import InProcessGrid
from simulation.pool import executor
from strategies.cohort import ARRAYS, COHORT_SIZE, CONFIG, METRICS, STATISTICS, WEIGHT, Expected
from strategies.cohort_grid import CohortGrid
from strategies.errors import CohortFailed, NeedsSingleUpdates
from strategies.plain_cohort import PlainCohort

NAMES = ["ada", "ben", "cem", "dua"]
SENT = {"w": np.zeros((2, 3), np.float32)}
EXPECTED = Expected({"w": (2, 3)}, {}, max_weight=1)


def answer_one(merchant, request):
    return Reply({"w": np.ones((2, 3), np.float32)}, {}, weight=1)


class Tampered(InProcessGrid):
    """A league in which the first merchant's reply is replaced."""

    def __init__(self, tamper):
        super().__init__(NAMES, executor(lambda: answer_one, 1))
        self.tamper = tamper

    def send_and_receive(self, messages, *, timeout=None):
        for number, reply in enumerate(super().send_and_receive(messages, timeout=timeout)):
            yield from self.tamper(reply) if number == 0 else [reply]


def asked(grid, kind="train"):
    content = RecordDict({ARRAYS: ArrayRecord({k: Array(v) for k, v in SENT.items()}), CONFIG: ConfigRecord({})})
    return [Message(content, node, kind) for node in grid.get_node_ids()]


def total(tamper, expected=EXPECTED):
    grid = Tampered(tamper)
    return PlainCohort(0.5).sum(grid, asked(grid), expected, 5.0)


def with_weight(weight):
    def tamper(reply):
        reply.content[METRICS] = MetricRecord({WEIGHT: weight})
        return [reply]

    return tamper


def with_bytes(data):
    def tamper(reply):
        good = reply.content.array_records[ARRAYS]["w"]
        reply.content[ARRAYS] = ArrayRecord({"w": Array(good.dtype, good.shape, good.stype, data)})
        return [reply]

    return tamper


def huge_header():
    return (
        np.lib.format.magic(1, 0)
        + b"v\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000000,), }".ljust(117)
        + b"\n"
    )


@pytest.mark.parametrize("weight", [0, -1, 2, 2**40, 1e300, float("inf"), float("nan"), 1.0])
def test_a_weight_outside_what_was_asked_drops_the_merchant(weight):
    result = total(with_weight(weight))
    assert result.survivors == 3
    assert "weight" in next(iter(result.dropped.values()))
    assert np.array_equal(result.mean["w"], np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x10\x00{'descr': ", huge_header(), b"\x93NUMPY\x02\x00"]
)
def test_bytes_that_are_no_array_drop_the_merchant(data):
    result = total(with_bytes(data))
    assert result.survivors == 3
    assert len(result.dropped) == 1


@given(st.binary(max_size=300))
def test_no_bytes_of_a_merchant_end_the_round(data):
    assert total(with_bytes(data)).survivors == 3


def test_a_reply_without_its_records_drops_the_merchant():
    def tamper(reply):
        del reply.content[STATISTICS]
        return [reply]

    assert total(tamper).survivors == 3


def test_a_second_reply_of_one_merchant_counts_for_nothing():
    assert total(lambda reply: [reply, reply]).survivors == 4


def test_no_answer_is_a_drop_with_a_reason():
    result = total(lambda reply: [])
    assert result.survivors == 3
    assert "no answer within 5 s" in next(iter(result.dropped.values()))


def test_too_few_survivors_release_nothing():
    grid = Tampered(lambda reply: [])
    with pytest.raises(CohortFailed, match="3 merchants answered, 4 are required"):
        PlainCohort(1.0).sum(grid, asked(grid), EXPECTED, 5.0)


def test_every_message_states_how_many_merchants_are_asked():
    seen = []

    class Listening(InProcessGrid):
        def send_and_receive(self, messages, *, timeout=None):
            listed = list(messages)
            seen.extend(message.content.config_records[CONFIG][COHORT_SIZE] for message in listed)
            return super().send_and_receive(listed, timeout=timeout)

    league = Listening(NAMES, executor(lambda: answer_one, 1))
    grid = CohortGrid(league, PlainCohort(0.5), {}, 1, {})
    grid.send_and_receive(asked(league)[:3], timeout=5.0)
    assert seen == [3, 3, 3]


def test_a_cohort_shows_sums_only():
    league = InProcessGrid(NAMES, executor(lambda: answer_one, 1))
    grid = CohortGrid(league, PlainCohort(0.5), {}, 1, {})
    with pytest.raises(NeedsSingleUpdates):
        grid.push_messages([])
    with pytest.raises(NeedsSingleUpdates):
        grid.send_and_receive(asked(league, "evaluate"), timeout=5.0)
