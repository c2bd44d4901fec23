# SPDX-License-Identifier: Apache-2.0
"""The plain cohort: adds updates in clear, as they come, in constant memory.

Guarantees:
- A merchant whose answer is missing, late, an error or not fit to be added is dropped with a reason.
- With fewer survivors than required nothing is released: `CohortFailed`.
"""

import math
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid
from numpy.lib import format as npy

from strategies.cohort import ARRAYS, METRICS, STATISTICS, WEIGHT, CohortSum, Expected
from strategies.errors import BadUpdate, CohortFailed
from strategies.exact_sum import ExactSum, Shapes


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
