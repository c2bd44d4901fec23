# SPDX-License-Identifier: Apache-2.0
"""The Grid that Flower's averaging strategies run over: one reply a round, with the cohort's exact mean."""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from strategies.cohort import (
    ARRAYS,
    COHORT_SIZE,
    CONFIG,
    FIXED,
    METRICS,
    WEIGHT,
    Cohort,
    CohortSum,
    Expected,
)
from strategies.errors import NeedsSingleUpdates
from strategies.exact_sum import Arrays, Shapes


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
