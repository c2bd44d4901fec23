# SPDX-License-Identifier: Apache-2.0
"""Runs merchants' work in this process or on a pool of processes, with a deadline and without pickled data.

A `Job` names a merchant and a request; an `Outcome` is its reply or the reason why there is none. The model of
a round goes once to each process, not once to each merchant. A merchant goes to the process that it went to
before, unless that one is behind: what a process keeps of its merchants is kept once.

Nobody can tell a slow merchant from one that hangs, so one rule holds everywhere: when jobs wait and no answer
came for half of the time that is left, the longest running job is left behind and the rest go on without it, at
most `LEFT_BEHIND` times a round. In one process a job left behind may still answer before the deadline.

Guarantees:
- One process and N processes give the same replies.
- A merchant that raises, hangs or takes its process down costs one outcome, not the round.
- A process that ended while idle costs no outcome.
"""

import multiprocessing
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol

from client.errors import ClientError
from client.wire import (
    Array,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode_refusal,
    encode_reply,
    encode_request,
)

WAITING_OUTCOMES = 4
LEFT_BEHIND = 4
LONGEST_S = 1e6  # what clocks and locks can wait for
TOO_LATE = "no answer before the round's deadline"
LEFT = "no answer for half of the time left, while others waited"
ENDED = "its process ended without an answer"

Answerer = Callable[[str, Request], Reply]
Factory = Callable[[], Answerer]


@dataclass(frozen=True, slots=True)
class Job:
    """One request to one merchant."""

    merchant: str
    request: Request


@dataclass(frozen=True, slots=True)
class Outcome:
    """A merchant's reply, or why there is none."""

    merchant: str
    reply: Reply | None
    reason: str = ""


class Executor(Protocol):
    """Runs jobs and yields outcomes as they come, in any order."""

    def run(self, jobs: Iterable[Job], timeout_s: float) -> Iterator[Outcome]: ...

    def close(self) -> None: ...


def executor(factory: Factory, workers: int) -> Executor:
    """In this process for one worker, else a pool."""
    return InProcess(factory) if workers == 1 else Pool(factory, workers)


class _Clock:
    """A round's deadline, and how long to wait for the next answer."""

    def __init__(self, timeout_s: float) -> None:
        self._deadline = time.monotonic() + min(timeout_s, LONGEST_S)
        self._left_behind = 0

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._deadline

    def patience_s(self, *, others_wait: bool) -> float:
        left_s = max(self._deadline - time.monotonic(), 0.0)
        return left_s / 2 if others_wait and self._left_behind < LEFT_BEHIND else left_s

    def leaves_behind(self, *, others_wait: bool) -> bool:
        """After an impatient wait: whether one job is left behind, or else the round is given up."""
        if self.is_over or not others_wait or self._left_behind == LEFT_BEHIND:
            return False
        self._left_behind += 1
        return True


class InProcess:
    """Runs jobs one after another on one thread a round; a thread that hangs is left behind for a fresh one."""

    def __init__(self, factory: Factory) -> None:
        self._factory = factory
        self._answer: Answerer | None = None

    def run(self, jobs: Iterable[Job], timeout_s: float) -> Iterator[Outcome]:
        clock = _Clock(timeout_s)
        line = _Line(jobs)
        open_jobs = dict(line.waiting)
        left = self._start(line)
        try:
            while open_jobs:
                try:
                    number, outcome = line.done.get(timeout=clock.patience_s(others_wait=bool(line.waiting)))
                except queue.Empty:
                    left.set()
                    self._answer = None
                    if not clock.leaves_behind(others_wait=bool(line.waiting)):
                        break
                    left = self._start(line)
                    continue
                del open_jobs[number]
                yield outcome
        finally:
            left.set()
            line.close()
        for job in open_jobs.values():
            yield Outcome(job.merchant, None, TOO_LATE)

    def close(self) -> None:
        self._answer = None

    def _start(self, line: "_Line") -> threading.Event:
        """A thread that takes jobs off the line until it is left behind."""
        answer = self._answer = self._answer or self._factory()
        left = threading.Event()
        threading.Thread(target=line.work, args=(answer, left), daemon=True).start()
        return left


class _Line:
    """A round's jobs by number, and the outcomes on their way out."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.waiting = deque(enumerate(jobs))
        self.done: queue.Queue[tuple[int, Outcome]] = queue.Queue(WAITING_OUTCOMES)
        self._closed = threading.Event()

    def work(self, answer: Answerer, left: threading.Event) -> None:
        while not left.is_set():
            try:
                number, job = self.waiting.popleft()
            except IndexError:
                return
            outcome = _outcome(answer, job)
            if self._closed.is_set():
                return
            self.done.put((number, outcome))

    def close(self) -> None:
        """Nobody takes outcomes any more; whoever waits to hand one in is freed."""
        self._closed.set()
        while not self.done.empty():
            self.done.get_nowait()


def _outcome(answer: Answerer, job: Job) -> Outcome:
    try:
        return Outcome(job.merchant, answer(job.merchant, job.request))
    except ClientError as refused:
        return Outcome(job.merchant, None, str(refused))
    except Exception as broken:
        return Outcome(job.merchant, None, f"{type(broken).__name__}: {broken}")


@dataclass(slots=True)
class _Seat:
    process: BaseProcess
    connection: Connection
    merchant: str | None = None
    began: float = 0.0
    model: object = None


class Pool:
    """Runs jobs on processes that each hold one model and open any merchant's home."""

    def __init__(self, factory: Factory, workers: int) -> None:
        self._factory = factory
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["simulation.preload"])
        self._seats = [self._seat() for _ in range(workers)]
        self._seat_of: dict[str, _Seat] = {}

    def run(self, jobs: Iterable[Job], timeout_s: float) -> Iterator[Outcome]:
        clock = _Clock(timeout_s)
        waiting = list(jobs)
        while waiting or self._busy():
            for seat in list(self._seats):
                if waiting and seat.merchant is None:
                    yield from self._hand_out(seat, waiting.pop(self._next(seat, waiting)))
            busy = {seat.connection: seat for seat in self._busy()}
            if not busy:
                continue
            ready = wait(list(busy), timeout=clock.patience_s(others_wait=bool(waiting)))
            for connection in ready:
                yield self._collect(busy[connection])  # type: ignore[index]
            if not ready and not clock.leaves_behind(others_wait=bool(waiting)):
                yield from self._give_up(waiting)
                return
            if not ready:
                yield self._leave(min(busy.values(), key=lambda seat: seat.began), LEFT)

    def close(self) -> None:
        for seat in self._seats:
            seat.process.kill()
            seat.process.join()
            seat.connection.close()
        self._seats = []

    def _seat(self) -> _Seat:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._factory), daemon=True)
        process.start()
        theirs.close()
        return _Seat(process, ours)

    def _busy(self) -> list[_Seat]:
        return [seat for seat in self._seats if seat.merchant is not None]

    def _next(self, seat: _Seat, waiting: list[Job]) -> int:
        """The place of the first job that is not another seat's, else of the first."""
        own = (place for place, job in enumerate(waiting) if self._seat_of.get(job.merchant, seat) is seat)
        return next(own, 0)

    def _hand_out(self, seat: _Seat, job: Job) -> Iterator[Outcome]:
        """Send a job to a seat; to a fresh one when its process ended while idle."""
        try:
            self._send(seat, job)
        except OSError:
            try:
                self._send(self._replace(seat), job)
            except OSError:
                yield Outcome(job.merchant, None, ENDED)

    def _send(self, seat: _Seat, job: Job) -> None:
        request = job.request if seat.model is not job.request.arrays else replace(job.request, arrays={})
        seat.connection.send_bytes(_job_bytes(job.merchant, request, keeps_model=request is not job.request))
        seat.model, seat.merchant, seat.began = job.request.arrays, job.merchant, time.monotonic()
        self._seat_of.setdefault(job.merchant, seat)

    def _collect(self, seat: _Seat) -> Outcome:
        merchant, seat.merchant = seat.merchant or "", None
        try:
            return Outcome(merchant, decode_reply(seat.connection.recv_bytes()))
        except ClientError as refused:
            return Outcome(merchant, None, str(refused))
        except (EOFError, OSError):
            self._replace(seat)
            return Outcome(merchant, None, ENDED)

    def _leave(self, seat: _Seat, reason: str) -> Outcome:
        self._replace(seat)
        return Outcome(seat.merchant or "", None, reason)

    def _give_up(self, waiting: list[Job]) -> Iterator[Outcome]:
        for seat in self._busy():
            yield self._leave(seat, TOO_LATE)
        for job in waiting:
            yield Outcome(job.merchant, None, TOO_LATE)

    def _replace(self, seat: _Seat) -> _Seat:
        seat.process.kill()
        seat.process.join()
        seat.connection.close()
        fresh = self._seat()
        self._seats[self._seats.index(seat)] = fresh
        self._seat_of = {merchant: other for merchant, other in self._seat_of.items() if other is not seat}
        return fresh


def _job_bytes(merchant: str, request: Request, *, keeps_model: bool) -> bytes:
    name = merchant.encode()
    return bytes([keeps_model]) + len(name).to_bytes(2, "big") + name + encode_request(request)


def _serve(connection: Connection, factory: Factory) -> None:
    """The loop of one process; ends when the pool's end of the pipe is gone."""
    answer = factory()
    model: Mapping[str, Array] = {}
    while True:
        try:
            data = connection.recv_bytes()
        except EOFError:
            return
        keeps_model, size = bool(data[0]), int.from_bytes(data[1:3], "big")
        merchant, request = data[3 : 3 + size].decode(), decode_request(data[3 + size :])
        model = model if keeps_model else request.arrays
        outcome = _outcome(answer, Job(merchant, replace(request, arrays=model)))
        reply = encode_refusal(outcome.reason) if outcome.reply is None else encode_reply(outcome.reply)
        connection.send_bytes(reply)
