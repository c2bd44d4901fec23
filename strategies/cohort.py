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
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from strategies.errors import BadUpdate, CohortFailed, NeedsSingleUpdates
from strategies.exact_sum import Arrays, ExactSum, Shapes

ARRAYS, CONFIG, METRICS, WEIGHT = "arrays", "config", "metrics", "num-examples"
STATISTICS, FIXED = "statistics", "fixed"


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
    """What every answer of an exchange must hold: array names with shapes, all float32."""

    arrays: Shapes
    statistics: Shapes


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
            try:
                answer = read_answer(reply)
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


def read_answer(reply: Message) -> Answer:
    """The update, statistics and weight that a reply carries.

    Raises:
        BadUpdate: the reply is an error, or lacks one of its records.
    """
    if reply.has_error():
        raise BadUpdate(reply.error.reason or f"error {reply.error.code}")
    try:
        weight = int(cast(int, reply.content.metric_records[METRICS][WEIGHT]))
        arrays = {k: v.numpy() for k, v in reply.content.array_records[ARRAYS].items()}
        statistics = {k: v.numpy() for k, v in reply.content.array_records[STATISTICS].items()}
    except (KeyError, TypeError, ValueError) as broken:
        raise BadUpdate(f"the reply is not readable: {broken!r}") from None
    return Answer(arrays, statistics, weight)


class CohortGrid(Grid):
    """A Grid that answers a train exchange with one message: the mean model of the cohort.

    Merchants send updates (local minus global); Flower's strategies average models, so the mean update is
    added to the model that was sent. `fixed` is what the model needs and nobody trains: it travels beside it.
    `last` keeps the newest sum for metrics and logs.
    """

    def __init__(self, inner: Grid, cohort: Cohort, statistics: Shapes, fixed: Arrays) -> None:
        self._inner = inner
        self._cohort = cohort
        self._statistics = statistics
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
        model = {k: v.numpy() for k, v in asked[0].content.array_records[ARRAYS].items()}
        expected = Expected({k: v.shape for k, v in model.items()}, self._statistics)
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

    def get_node_ids(self) -> Iterable[int]:
        return self._inner.get_node_ids()

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
