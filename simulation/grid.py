# SPDX-License-Identifier: Apache-2.0
"""The in-process engine: a Flower Grid whose nodes are merchants' workers on this machine.

No SuperLink, no Ray, no start-up: messages become the worker's requests, answers come back as they arrive.
"""

from collections.abc import Iterable, Iterator, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.app import refusal_to, reply_to, request_of
from client.wire import Request
from simulation.pool import Executor, Job


class InProcessGrid(Grid):
    """Merchants as Flower nodes; node ids count from 1 in the order of `merchants`."""

    def __init__(self, merchants: Sequence[str], executor: Executor) -> None:
        self._merchants = dict(enumerate(merchants, start=1))
        self._executor = executor
        self._run = Run.create_empty(run_id=1)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1

    def merchant(self, node_id: int) -> str:
        """The merchant behind a node id."""
        return self._merchants[node_id]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield replies as they come; a merchant without an answer gets an error message with the reason."""
        asked = {self._merchants[m.metadata.dst_node_id]: m for m in messages}
        for outcome in self._executor.run(_jobs(asked), timeout if timeout is not None else float("inf")):
            message = asked[outcome.merchant]
            if outcome.reply is None:
                yield refusal_to(message, outcome.reason)
            else:
                yield reply_to(message, outcome.reply)

    def get_node_ids(self) -> list[int]:
        return list(self._merchants)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError("the in-process engine answers at once: use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError("the in-process engine answers at once: use send_and_receive")


def _jobs(asked: dict[str, Message]) -> Iterator[Job]:
    """One job a message; messages that share their content share the decoded request."""
    decoded: dict[int, Request] = {}
    for merchant, message in asked.items():
        key = id(message.content)
        decoded[key] = decoded.get(key) or request_of(message)
        yield Job(merchant, decoded[key])
