# SPDX-License-Identifier: Apache-2.0
"""The secure cohort: the same seam as the plain one, and the platform sees sums alone.

Each sum is one round of secure aggregation over the Grid: the question travels with ROUND_OPEN, the answers are
masked vectors that hold updates, statistics, counts and weights; two short exchanges open their sum. A set-up
comes first where there is no epoch, where new merchants are asked, after a sum that failed, and every `PATIENCE`
rounds while somebody who is asked missed the last one.

Guarantees:
- Nothing is released below the roster's n_min and threshold: `CohortFailed`.
- A merchant that drops out, lies or answers late at any step is left out with a reason; the sum stays exact.
- Every round's number is on disk before the round opens.

Assumes that all messages of a sum ask the same.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Protocol

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from privacy.secagg.errors import BelowThreshold, Misbehaviour, SecAggError
from privacy.secagg.platform import PlatformRound, PlatformSession, Sum
from privacy.secagg.roster import Roster
from privacy.secagg.unmasking import Blame
from privacy.secure_exchange import Opened
from strategies.cohort import CONFIG, CohortSum, Expected
from strategies.errors import BadUpdate, CohortFailed
from strategies.question import SECAGG, Question, protocol_bytes

PROTOCOL = f"{MessageType.QUERY}.{SECAGG}"
PATIENCE = 8  # rounds
LEFT_OUT = "it was left out of the last attempt"


class Numbers(Protocol):
    """Hands out numbers that rise for a roster's whole life."""

    def next_epoch(self) -> tuple[int, int]: ...

    def next_round(self) -> int: ...


@dataclass(frozen=True, slots=True)
class RosterSum:
    """One roster's sum, which nodes are in it, and why others are not."""

    opened: Opened
    survivors: frozenset[int]
    dropped: Mapping[int, str]


class SecureCohort:
    """Adds masked updates; how many must survive stands in the roster and in no other setting.

    Attributes:
        blames: who misbehaved in the newest sum, for the council.
    """

    def __init__(self, roster: Roster, run: str, numbers: Numbers) -> None:
        self.blames: tuple[Blame, ...] = ()
        self._roster = roster
        self._run = run
        self._numbers = numbers
        self._session = PlatformSession(roster, hashlib.sha256(run.encode()).digest()[:16])
        self._nodes: dict[str, int] = {}
        self._tried: frozenset[int] = frozenset()
        self._missed: dict[int, str] = {}
        self._set_up_at = 0

    def sum(self, grid: Grid, messages: list[Message], expected: Expected, timeout_s: float) -> CohortSum:
        """Ask all, open the sum of their answers; a set-up that is due has the same time beside it.

        Raises:
            CohortFailed: too few merchants for the roster's thresholds; nothing was released.
        """
        asked = {message.metadata.dst_node_id for message in messages}
        found = self.open(grid, Question.of(messages, expected), asked, frozenset(), timeout_s)
        opened = found.opened
        return CohortSum(opened.mean, opened.statistics, opened.weight, len(found.survivors), found.dropped)

    @property
    def roster(self) -> str:
        """The roster's digest, hex."""
        return self._roster.digest.hex()

    @property
    def required(self) -> int:
        """How many merchants must survive."""
        return self._roster.min_survivors

    @property
    def seated(self) -> frozenset[int]:
        """The nodes that proved in the newest set-up to be merchants of the roster."""
        return frozenset(self._nodes.values())

    def open(
        self, grid: Grid, question: Question, asked: Set[int], elsewhere: Set[int], timeout_s: float
    ) -> RosterSum:
        """As `sum`, before anything is divided; a set-up asks all nodes but those `elsewhere`."""
        reasons: dict[int, str] = {}
        try:
            number = self._prepared(grid, asked, elsewhere, timeout_s, reasons)
            names = {name for name, node in self._nodes.items() if node in asked}
            opened = self._round(grid, question, names, number, time.monotonic() + timeout_s, reasons)
            found = question.exchange.opened(self._roster, opened.vector, len(opened.survivors))
        except SecAggError as failed:
            self._session.epoch = None
            dropped = {node: why for node, why in reasons.items() if node in asked}
            dropped = dropped or dict.fromkeys(asked, str(failed))
            raise CohortFailed(len(asked) - len(dropped), self.required, dropped) from failed
        self.blames = opened.blames
        survivors = frozenset(self._nodes[name] for name in opened.survivors)
        left_out = {node: reasons.get(node) or self._missed.get(node, LEFT_OUT) for node in asked - survivors}
        return RosterSum(found, survivors, left_out)

    def _prepared(
        self, grid: Grid, asked: Set[int], elsewhere: Set[int], timeout_s: float, reasons: dict[int, str]
    ) -> int:
        """The round's number, after a set-up where one is due."""
        number = self._numbers.next_round()
        waited = bool(asked & self._missed.keys()) and number - self._set_up_at >= PATIENCE
        if waited or self._session.needs_epoch(number) or not asked <= self._tried:
            online = sorted(set(grid.get_node_ids()) - elsewhere)
            self._set_up(grid, online, time.monotonic() + timeout_s, reasons)
            self._set_up_at = number = self._numbers.next_round()
        return number

    def _set_up(self, grid: Grid, online: list[int], deadline: float, reasons: dict[int, str]) -> None:
        """[E0]–[E5] with everybody who is online: who is not asked for a vector may hold shares."""
        setup = self._session.open_epoch(*self._numbers.next_epoch())
        self._tried = frozenset(online)
        opening = self._messages(dict.fromkeys(online, setup.opening()))
        self._nodes = _ask(grid, opening, _share(deadline, 3), setup.receive_keys, reasons)
        bundle = setup.bundle()
        for_announced = self._messages({self._nodes[name]: bundle for name in setup.announced()})
        _ask(grid, for_announced, _share(deadline, 2), setup.receive_kem, reasons)
        deliveries = self._messages({self._nodes[name]: data for name, data in setup.deliveries().items()})
        _ask(grid, deliveries, _share(deadline, 1), setup.receive_ready, reasons)
        ready = {self._nodes[name] for name in setup.established()}
        self._missed = {
            node: f"it missed the set-up of this epoch: {reasons.get(node, 'no answer')}"
            for node in self._tried - ready
        }

    def _round(
        self,
        grid: Grid,
        question: Question,
        names: set[str],
        number: int,
        deadline: float,
        reasons: dict[int, str],
    ) -> Sum:
        """Attempts until the survivors' list is certified [T1]; what was certified is opened or lost [T2]."""
        terms = question.exchange.terms(self._roster, question.digest)
        for last in (False, True):
            round_ = self._session.open_round(number, int(last), terms, names)
            try:
                certificates = self._certified(grid, question, round_, _share(deadline, 1 if last else 2), reasons)
                break
            except (BelowThreshold, Misbehaviour) as error:
                if last or time.monotonic() > deadline:
                    raise
                names = names - set(error.merchants if isinstance(error, Misbehaviour) else ())
        outgoing = self._messages({self._nodes[name]: data for name, data in certificates.items()})
        _ask(grid, outgoing, _share(deadline, 1), round_.receive_answer, reasons)
        return round_.finish()

    def _certified(
        self, grid: Grid, question: Question, round_: PlatformRound, timeout_s: float, reasons: dict[int, str]
    ) -> dict[str, bytes]:
        """REPORT and CONFIRM of one attempt; the certificates for UNMASK."""
        deadline = time.monotonic() + timeout_s
        content = question.opening(round_.opening())
        members = [self._nodes[name] for name in round_.members]
        asking = [Message(content, node, question.message_type) for node in members]
        here: list[int] = []
        _ask(grid, asking, _share(deadline, 1.5), round_.receive_report, reasons, here)
        survivors = self._messages(dict.fromkeys(here, round_.survivors()))
        _ask(grid, survivors, _share(deadline, 1), round_.receive_confirmation, reasons)
        return round_.certificates()

    def _messages(self, data: Mapping[int, bytes]) -> list[Message]:
        return [
            Message(RecordDict({CONFIG: ConfigRecord({"run": self._run, SECAGG: part})}), node, PROTOCOL)
            for node, part in sorted(data.items())
        ]


def _share(deadline: float, parts: float) -> float:
    """An equal part of the time that is left, in seconds."""
    return max(deadline - time.monotonic(), 0.0) / parts


def _ask(
    grid: Grid,
    messages: list[Message],
    timeout_s: float,
    receive: Callable[[bytes], str],
    reasons: dict[int, str],
    here: list[int] | None = None,
) -> dict[str, int]:
    """One exchange: who sent something that was received, name to node. Why others did not stands in `reasons`.

    A witness answers a question with nothing; `here` takes all that answered, witnesses too.
    """
    received: dict[str, int] = {}
    waiting = {m.metadata.dst_node_id for m in messages}
    reasons |= {m.metadata.dst_node_id: f"no answer within {timeout_s:.3g} s" for m in messages}
    for reply in grid.send_and_receive(messages, timeout=timeout_s):
        node = reply.metadata.src_node_id
        if node not in waiting:
            continue
        waiting.discard(node)
        try:
            data = protocol_bytes(reply)
            if data:
                received[receive(data)] = node
        except (BadUpdate, SecAggError) as refused:
            reasons[node] = str(refused)
            continue
        reasons.pop(node, None)
        if here is not None:
            here.append(node)
    return received
