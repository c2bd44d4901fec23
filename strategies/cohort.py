# SPDX-License-Identifier: Apache-2.0
"""The cohort: asks merchants for their terms and gives the platform the sum.

Strategies of Flower that average run over a `CohortGrid`: it sends the round's messages on, adds the answers
as they come (constant memory), and hands the strategy one reply that carries the exact mean. `Cohort` is the
seam: `PlainCohort` adds updates in clear, a secure cohort adds masked ones; the strategy can't tell.

Guarantees:
- A merchant whose answer is missing, late, an error or not fit to be added is dropped with a reason.
- With fewer survivors than required nothing is released: `CohortFailed`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from numpy.lib import format as npy

from strategies.errors import BadUpdate, CohortFailed, NeedsSingleUpdates
from strategies.exact_sum import Arrays, ExactSum, Shapes

ARRAYS, CONFIG, METRICS, WEIGHT = "arrays", "config", "metrics", "num-examples"
STATISTICS, FIXED, COHORT_SIZE = "statistics", "fixed", "cohort-size"


@dataclass(frozen=True, slots=True)
class CohortSum:
    """The sum over the survivors of one exchange.

    Attributes:
        mean: weighted mean of the arrays, float32.
        statistics: summed (not weighted) statistics, float64.
        weight: the sum of the survivors' weights.
        survivors: how many merchants are in the sum.
        dropped: node id to reason.
    """

    mean: Mapping[str, npt.NDArray[np.float32]]
    statistics: Mapping[str, npt.NDArray[np.float64]]
    weight: int
    survivors: int
    dropped: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Expected:
    """What every answer of an exchange must hold: array names with shapes, all float32, and a bounded weight.

    Attributes:
        max_weight: 1 where every merchant counts alike; else what a merchant may claim of examples.
    """

    arrays: Shapes
    statistics: Shapes
    max_weight: int


class Cohort(Protocol):
    """Turns messages to merchants into the sum of their answers."""

    def sum(self, grid: Grid, messages: list[Message], expected: Expected, timeout_s: float) -> CohortSum: ...


@dataclass(frozen=True, slots=True)
class PlainCohort:
    """Adds updates in clear: for research and for leagues that trust their platform.

    Attributes:
        min_survivors: smallest share of the asked merchants that must answer well, in (0, 1].
    """

    min_survivors: float

    def sum(self, grid: Grid, messages: list[Message], expected: Expected, timeout_s: float) -> CohortSum:
        """Ask all, add each answer as it comes.

        Raises:
            CohortFailed: fewer than `min_survivors` of the merchants answered well.
        """
        dropped = {m.metadata.dst_node_id: f"no answer within {timeout_s:g} s" for m in messages}
        arrays = ExactSum(expected.arrays, len(messages))
        statistics = ExactSum(expected.statistics, len(messages))
        survivors = 0
        for reply in grid.send_and_receive(messages, timeout=timeout_s):
            node = reply.metadata.src_node_id
            if node not in dropped:
                continue
            try:
                answer = read_answer(reply, expected)
                terms = arrays.terms(answer.arrays, answer.weight)
                extra = statistics.terms(answer.statistics, 1)
            except BadUpdate as refused:
                dropped[node] = str(refused)
                continue
            arrays.add(terms)
            statistics.add(extra)
            survivors += 1
            del dropped[node]
        required = max(1, math.ceil(self.min_survivors * len(messages)))
        if survivors < required:
            raise CohortFailed(survivors, required, dropped)
        return CohortSum(arrays.mean(), statistics.total(), arrays.weight, survivors, dropped)


@dataclass(frozen=True, slots=True)
class Answer:
    """A merchant's reply, read off the message."""

    arrays: dict[str, npt.NDArray[np.float32]]
    statistics: dict[str, npt.NDArray[np.float32]]
    weight: int


def read_answer(reply: Message, expected: Expected) -> Answer:
    """The update, statistics and weight that a reply carries.

    A merchant's reply is a stranger's bytes: whatever goes wrong in reading it is that merchant's fault alone.

    Raises:
        BadUpdate: the reply is an error, lacks a record, or holds another thing than what was asked.
    """
    if reply.has_error():
        raise BadUpdate(reply.error.reason or f"error {reply.error.code}")
    try:
        weight = reply.content.metric_records[METRICS][WEIGHT]
        arrays = _arrays(reply.content.array_records[ARRAYS], expected.arrays)
        statistics = _arrays(reply.content.array_records[STATISTICS], expected.statistics)
    except BadUpdate:
        raise
    except Exception as broken:
        raise BadUpdate(f"the reply is not readable: {type(broken).__name__}") from None
    if type(weight) is not int or not 1 <= weight <= expected.max_weight:
        raise BadUpdate(f"weight must be a whole number in 1..{expected.max_weight}, found {weight!r}")
    return Answer(arrays, statistics, weight)


def _arrays(record: ArrayRecord, expected: Shapes) -> dict[str, npt.NDArray[np.float32]]:
    if set(record) != set(expected):
        missing, extra = sorted(set(expected) - set(record)), sorted(set(record) - set(expected))
        raise BadUpdate(f"wrong array names: missing {missing}, unexpected {extra}")
    return {name: _array(name, record[name].data, expected[name]) for name in sorted(expected)}


def _array(name: str, data: bytes, expected: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Read npy 1.0 bytes; shape, dtype and length are judged before anything is allocated."""
    stream = BytesIO(data)
    if npy.read_magic(stream) != (1, 0):
        raise BadUpdate(f"{name}: expected npy version 1.0")
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
    if shape != expected or dtype != np.float32 or (fortran and len(shape) > 1):
        raise BadUpdate(f"{name}: expected float32 {expected} in C order, found {dtype} {shape}")
    if len(data) - stream.tell() != 4 * math.prod(shape):
        raise BadUpdate(f"{name}: {len(data) - stream.tell()} bytes do not fill float32 {shape}")
    return np.frombuffer(data, np.float32, offset=stream.tell()).reshape(shape)


class CohortGrid(Grid):
    """A Grid that answers a train exchange with one message: the mean model of the cohort.

    Merchants send updates (local minus global); Flower's strategies average models, so the mean update is
    added to the model that was sent. `fixed` is what the model needs and nobody trains: it travels beside it.
    `last` keeps the newest sum for metrics and logs. Every message states how many merchants are asked.
    """

    def __init__(self, inner: Grid, cohort: Cohort, statistics: Shapes, max_weight: int, fixed: Arrays) -> None:
        self._inner = inner
        self._cohort = cohort
        self._statistics = statistics
        self._max_weight = max_weight
        self._gathered: list[int] = []
        self._fixed = ArrayRecord({name: Array(np.asarray(fixed[name])) for name in sorted(fixed)})
        self.last: CohortSum | None = None

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """One reply with the mean model; raises `CohortFailed` with too few survivors."""
        asked = list(messages)
        if any(message.metadata.message_type != MessageType.TRAIN for message in asked):
            raise NeedsSingleUpdates("only train messages run over a cohort; ask `Cohort.sum` for anything else")
        if timeout is None:
            raise ValueError("a cohort needs a deadline: pass timeout in seconds")
        for message in asked:
            message.content[FIXED] = self._fixed
            message.content.config_records[CONFIG][COHORT_SIZE] = len(asked)
        model = {k: v.numpy() for k, v in asked[0].content.array_records[ARRAYS].items()}
        expected = Expected({k: v.shape for k, v in model.items()}, self._statistics, self._max_weight)
        self.last = self._cohort.sum(self._inner, asked, expected, timeout)
        return [_mean_model(asked[0], model, self.last)]

    def set_run(self, run: Run) -> None:
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        return self._inner.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def gather(self, nodes: list[int]) -> None:
        """Fix who is there for the next round: Flower's strategies draw from these and never wait for more."""
        self._gathered = nodes

    def get_node_ids(self) -> Iterable[int]:
        return self._gathered

    def get_nodes(self) -> Iterable[NodeInfo]:
        return self._inner.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NeedsSingleUpdates("a cohort shows sums only: use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NeedsSingleUpdates("a cohort shows sums only: use send_and_receive")


def _mean_model(asked: Message, model: Mapping[str, npt.NDArray[np.float32]], result: CohortSum) -> Message:
    arrays = ArrayRecord({name: Array(np.asarray(model[name] + result.mean[name])) for name in sorted(model)})
    metrics = MetricRecord({WEIGHT: result.weight})
    return Message(RecordDict({ARRAYS: arrays, METRICS: metrics}), reply_to=asked)
