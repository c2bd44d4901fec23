# SPDX-License-Identifier: Apache-2.0
"""The merchant's Flower ClientApp: a thin relay between Flower's messages and the merchant's own worker.

Flower starts one process per message, with code that came from the platform. So this app holds no data, no key
and no model: it passes the message over the worker's UNIX socket (`--node-config 'socket="/path"'`) and the
answer back. It imports neither torch nor data.
"""

import socket
from collections.abc import Callable
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.errors import ClientError
from client.wire import Reply, Request, Scalar, decode_reply, encode_request, receive_frame, send_frame

ARRAYS, FIXED, CONFIG = "arrays", "fixed", "config"
METRICS, STATISTICS, WEIGHT = "metrics", "statistics", "num-examples"
REFUSED = 100
WORKER_TIMEOUT_S = 3600.0

app = ClientApp()


def request_of(message: Message) -> Request:
    """The worker's request in a Flower message: `train`, or the action of a query such as `query.popularity`."""
    settings = dict(message.content.config_records.get(CONFIG, ConfigRecord()))
    records = (message.content.array_records.get(name, ArrayRecord()) for name in (ARRAYS, FIXED))
    return Request(
        kind=message.metadata.message_type.split(".")[-1],
        run=str(settings.pop("run", "")),
        round=int(cast(int, settings.pop("server-round", 0))),
        arrays={name: array.numpy() for record in records for name, array in record.items()},
        settings=cast(dict[str, Scalar], settings),
    )


def reply_to(message: Message, reply: Reply) -> Message:
    """The Flower message that carries a worker's reply."""
    records = RecordDict(
        {
            ARRAYS: ArrayRecord({k: Array(np.asarray(v)) for k, v in reply.arrays.items()}),
            STATISTICS: ArrayRecord({k: Array(np.asarray(v)) for k, v in reply.statistics.items()}),
            METRICS: MetricRecord({WEIGHT: reply.weight}),
        }
    )
    return Message(records, reply_to=message)


def refusal_to(message: Message, reason: str) -> Message:
    """The Flower message that says why a merchant does not answer."""
    return Message(Error(REFUSED, reason), reply_to=message)


def relay(message: Message, ask: Callable[[Request], Reply]) -> Message:
    """Answer a Flower message through `ask`; a refusal becomes an error message with its reason."""
    try:
        return reply_to(message, ask(request_of(message)))
    except ClientError as refused:
        return refusal_to(message, str(refused))


def ask_worker(path: str, request: Request) -> Reply:
    """Send a request over the worker's UNIX socket; raises `Refused`, `WireError` or `OSError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(WORKER_TIMEOUT_S)
        connection.connect(path)
        send_frame(connection, encode_request(request))
        return decode_reply(receive_frame(connection))


def _relay_over_socket(message: Message, context: Context) -> Message:
    path = context.node_config.get("socket")
    if not isinstance(path, str):
        return refusal_to(message, "node_config lacks socket: start the node with --node-config 'socket=\"PATH\"'")
    return relay(message, lambda request: ask_worker(path, request))


app.train()(_relay_over_socket)
app.query("popularity")(_relay_over_socket)
app.query("gate")(_relay_over_socket)
