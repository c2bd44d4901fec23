# SPDX-License-Identifier: Apache-2.0
"""A league in one process: real seats on real homes, made-up answers, a grid that may lose messages."""

from datetime import UTC, datetime

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import refusal_to, reply_to, request_of
from client.errors import ClientError, Refused
from client.home import MerchantSettings, create_home, open_home
from client.secure import SecureSeat
from client.wire import Reply
from privacy.secagg.errors import SecAggError
from privacy.secagg.roster import SignedRoster
from privacy.secure_exchange import Exchange
from simulation.rosters import write_rosters
from strategies.cohort import ARRAYS, CONFIG, Expected
from strategies.divided_cohort import DividedCohort
from strategies.secure_cohort import SecureCohort

NAMES = tuple(f"merchant-{number}" for number in range(6))
SHAPES = {"tower": (3, 4), "mix": ()}
STATISTICS = {"loss": (), "users": ()}
POLICY = 'modes = ["none"]\n'


class Counting:
    """Numbers that rise in memory."""

    def __init__(self):
        self.epoch, self.round = 0, 0

    def next_epoch(self):
        self.epoch += 1
        return self.epoch, self.round + 1

    def next_round(self):
        self.round += 1
        return self.round


class Merchants:
    """The merchants' side: `answers` maps a name to its plain reply; seats are opened anew for every message."""

    def __init__(self, folder, answers, *, policy=POLICY, exchange=None, sharing=None, most=255):
        self.answers = dict(answers)
        self.exchange = exchange or Exchange("train", shapes_of(answers), STATISTICS, max_weight=1 << 10)
        moments = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)
        self.homes = {name: folder / f"{number:05d}" for number, name in enumerate(sorted(answers))}
        for name, home in self.homes.items():
            create_home(home, MerchantSettings(name, "events.parquet", *moments, 8), policy, bytes(32))
        signed = write_rosters(self.homes, "test league", 0, sharing, most)
        self.rosters = [SignedRoster.decode(each).roster() for each in signed]
        self.roster = self.rosters[0]
        self.trained = dict.fromkeys(self.homes, 0)

    def answer(self, name, request):
        seat = SecureSeat(open_home(self.homes[name]), durable=False)
        try:
            if request.kind == "secagg":
                return seat.follow(request.secagg)
            return (
                seat.report(request, self.exchange, lambda roster: self._vector(name, roster))
                if request.secagg
                else self.plain(name)
            )
        except SecAggError as refused:
            raise Refused(str(refused)) from None

    def plain(self, name):
        return self.answers[name]

    def _vector(self, name, roster):
        self.trained[name] += 1
        reply, dither = self.answers[name], name.encode().ljust(32, b".")
        return self.exchange.vector(roster, reply.arrays, reply.statistics, reply.weight, dither)


class Wire:
    """A grid that keeps every message's bytes; `faults(step, name, reply)` may lose or change one."""

    def __init__(self, merchants, faults=None):
        self.merchants = merchants
        self.names = dict(enumerate(sorted(merchants.homes), start=1))
        self.faults = faults or (lambda step, name, reply: reply)
        self.sent = []
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1

    def get_node_ids(self):
        return list(self.names)

    def send_and_receive(self, messages, *, timeout=None):
        for message in list(messages):
            name = self.names[message.metadata.dst_node_id]
            request = request_of(message)
            step = request.secagg[4] if request.secagg else 0
            try:
                reply = self.merchants.answer(name, request)
            except ClientError as refused:
                self.sent.append((step, name, str(refused).encode()))
                yield refusal_to(message, str(refused))
                continue
            reply = self.faults(step, name, reply)
            if reply is not None:
                self.sent.append((step, name, request.secagg))
                self.sent.append((step, name, payload(reply)))
                yield reply_to(message, reply)


def payload(reply):
    """Everything that a reply carries, as bytes."""
    arrays = [*reply.arrays.values(), *reply.statistics.values()]
    return b"".join(np.asarray(a).tobytes() for a in arrays) + (reply.secagg or str(reply.weight).encode())


def shapes_of(answers):
    reply = next(iter(answers.values()))
    return {name: array.shape for name, array in reply.arrays.items()}


def answer(seed, *, grid_bits=None, weight=1, size=None):
    """A made-up reply; with `grid_bits` its numbers lie on the grid of 2^-grid_bits."""
    rng = np.random.default_rng(seed)
    shapes = SHAPES if size is None else {"tower": (size,)}
    arrays = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    if grid_bits is not None:
        arrays = {k: (np.rint(v * 2.0**grid_bits) / 2.0**grid_bits).astype(np.float32) for k, v in arrays.items()}
    loss, users = np.float32(rng.uniform(1, 90)), np.float32(rng.integers(5, 90))
    return Reply(arrays, {"loss": np.array(loss), "users": np.array(users)}, weight)


def answers(names=NAMES, **options):
    return {name: answer(number, **options) for number, name in enumerate(names)}


def question(wire, *, nodes=None, model=None, round=1, kind="train", run="test", **settings):
    """Messages as Flower's strategies make them: one content for all."""
    model = {"tower": np.zeros(3, np.float32)} if model is None else model
    record = ArrayRecord({name: Array(np.asarray(array)) for name, array in model.items()})
    config = ConfigRecord({"run": run, "server-round": round, "max-weight": 1 << 10, **settings})
    content = RecordDict({ARRAYS: record, CONFIG: config})
    return [Message(content, node, kind) for node in nodes or wire.get_node_ids()]


def cohort_of(merchants, run="test", numbers=None):
    return SecureCohort(merchants.roster, run, numbers or Counting())


def divided_of(merchants, run="test"):
    return DividedCohort([SecureCohort(roster, run, Counting()) for roster in merchants.rosters])


def expected_of(merchants):
    return Expected(merchants.exchange.arrays, merchants.exchange.statistics, merchants.exchange.max_weight)
