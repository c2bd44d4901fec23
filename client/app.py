# SPDX-License-Identifier: Apache-2.0
"""The merchant's Flower ClientApp: a thin relay between Flower's messages and the merchant's own worker.

Flower starts one process per message, with code that came from the platform. So this app holds no data, no key
and no model: it passes the message over the worker's UNIX socket (`--node-config 'socket="/path"'`) and the
answer back.

Guarantees:
- The relay imports neither torch nor data.
- Of a failure at the merchant the platform reads a reason that was meant for it, or that there was none.

In Flower's simulation runtime, where nodes have a `partition-id` and no socket, the same worker is opened in this
process, on the home of that number below `homes` in the run config.
"""

import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.errors import Refused, WireError
from client.wire import Reply, Request, Scalar, decode_reply, encode_request, receive_frame, send_frame

if TYPE_CHECKING:
    from client.runtime import Runtime
    from client.worker import Worker

ARRAYS, FIXED, CONFIG = "arrays", "fixed", "config"
METRICS, STATISTICS, WEIGHT = "metrics", "statistics", "num-examples"
SECAGG = "secagg"
REFUSED = 100
WORKER_TIMEOUT_S = 3600.0

app = ClientApp()


def request_of(message: Message) -> Request:
    """The worker's request in a Flower message: `train`, or the action of a query such as `query.popularity`.

    Raises:
        WireError: the message holds something else.
    """
    settings = dict(message.content.config_records.get(CONFIG, ConfigRecord()))
    records = (message.content.array_records.get(name, ArrayRecord()) for name in (ARRAYS, FIXED))
    try:
        return Request(
            kind=message.metadata.message_type.split(".")[-1],
            run=str(settings.pop("run", "")),
            round=int(cast(int, settings.pop("server-round", 0))),
            arrays={name: array.numpy() for record in records for name, array in record.items()},
            secagg=_bytes(settings.pop(SECAGG, b"")),
            settings=cast(dict[str, Scalar], settings),
        )
    except (TypeError, ValueError, OverflowError, EOFError) as wrong:
        raise WireError(f"the message is no request of this version: {type(wrong).__name__}") from None


def reply_to(message: Message, reply: Reply) -> Message:
    """The Flower message that carries a worker's reply; of a secure exchange, the protocol's bytes alone."""
    if reply.secagg is not None:
        return Message(RecordDict({CONFIG: ConfigRecord({SECAGG: reply.secagg})}), reply_to=message)
    records = RecordDict(
        {
            ARRAYS: ArrayRecord({k: Array(np.asarray(v)) for k, v in reply.arrays.items()}),
            STATISTICS: ArrayRecord({k: Array(np.asarray(v)) for k, v in reply.statistics.items()}),
            METRICS: MetricRecord({WEIGHT: reply.weight}),
        }
    )
    return Message(records, reply_to=message)


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("expected bytes")
    return value


def refusal_to(message: Message, reason: str) -> Message:
    """The Flower message that says why a merchant does not answer."""
    return Message(Error(REFUSED, reason), reply_to=message)


def relay(message: Message, ask: Callable[[Request], Reply]) -> Message:
    """Answer a Flower message through `ask`; whatever goes wrong becomes an error message with a reason."""
    try:
        return reply_to(message, ask(request_of(message)))
    except (Refused, WireError) as refused:
        return refusal_to(message, str(refused))
    except OSError as unreachable:
        return refusal_to(message, f"this merchant's worker does not answer ({type(unreachable).__name__})")


def ask_worker(path: str, request: Request) -> Reply:
    """Send a request over the worker's UNIX socket; raises `Refused`, `WireError` or `OSError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(WORKER_TIMEOUT_S)
        connection.connect(path)
        send_frame(connection, encode_request(request))
        return decode_reply(receive_frame(connection, WORKER_TIMEOUT_S))


def answer(message: Message, context: Context) -> Message:
    """Answer one Flower message for this node."""
    path, partition = context.node_config.get("socket"), context.node_config.get("partition-id")
    homes = str(context.run_config.get("homes", ""))
    if isinstance(path, str):
        return relay(message, lambda request: ask_worker(path, request))
    if partition is not None and homes:
        return relay(message, lambda request: _worker(homes, int(partition)).answer(request))
    return refusal_to(message, "no worker: start the node with --node-config 'socket=\"PATH\"'")


@cache
def _worker(homes: str, partition: int) -> "Worker":
    from client.home import open_home
    from client.worker import Worker

    return Worker(open_home(Path(homes) / f"{partition:05d}"), _runtime(homes))


@cache
def _runtime(homes: str) -> "Runtime":
    from client.runtime import open_runtime, read_runtime

    return open_runtime(read_runtime(Path(homes) / "runtime.json"))


app.train()(answer)
app.query("popularity")(answer)
app.query("gate")(answer)
app.query("vocabulary")(answer)
app.query("secagg")(answer)
