# SPDX-License-Identifier: Apache-2.0
"""Runs merchants' work in this process or on a pool of processes, with a deadline and without pickled data.

A `Job` names a merchant and a request; an `Outcome` is its reply or the reason why there is none. The model of
a round goes once to each process, not once to each merchant.

Guarantees:
- One process and N processes give the same replies.
- A merchant that raises, hangs past the deadline or takes its process down costs one outcome, not the round.
"""

import multiprocessing
import queue
import threading
import time
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
TOO_LATE = "no answer before the round's deadline"

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


class InProcess:
    """Runs jobs one after another on one thread a round, which is left behind when a merchant hangs."""

    def __init__(self, factory: Factory) -> None:
        self._factory = factory
        self._answer: Answerer | None = None

    def run(self, jobs: Iterable[Job], timeout_s: float) -> Iterator[Outcome]:
        deadline = time.monotonic() + timeout_s
        waiting = list(jobs)
        answer = self._answer = self._answer or self._factory()
        done: queue.Queue[Outcome] = queue.Queue(WAITING_OUTCOMES)
        given_up = threading.Event()
        arguments = (answer, waiting, done, given_up)
        threading.Thread(target=_work, args=arguments, daemon=True).start()
        for number in range(len(waiting)):
            try:
                yield done.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                given_up.set()
                self._answer = None
                yield from (Outcome(job.merchant, None, TOO_LATE) for job in waiting[number:])
                return

    def close(self) -> None:
        self._answer = None


def _work(answer: Answerer, jobs: list[Job], done: "queue.Queue[Outcome]", given_up: threading.Event) -> None:
    for job in jobs:
        outcome = _outcome(answer, job)
        if given_up.is_set():
            return
        done.put(outcome)


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
    model: object = None


class Pool:
    """Runs jobs on processes that each hold one model and open any merchant's home."""

    def __init__(self, factory: Factory, workers: int) -> None:
        self._factory = factory
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["simulation.preload"])
        self._seats = [self._seat() for _ in range(workers)]

    def run(self, jobs: Iterable[Job], timeout_s: float) -> Iterator[Outcome]:
        deadline = time.monotonic() + timeout_s
        waiting = list(jobs)[::-1]
        while waiting or any(seat.merchant for seat in self._seats):
            for seat in self._seats:
                if waiting and seat.merchant is None:
                    self._hand_out(seat, waiting.pop())
            busy = {seat.connection: seat for seat in self._seats if seat.merchant}
            ready = wait(list(busy), timeout=max(deadline - time.monotonic(), 0.0))
            for connection in ready:
                yield self._collect(busy[connection])  # type: ignore[index]
            if not ready and time.monotonic() >= deadline:
                yield from self._give_up(waiting)
                return

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

    def _hand_out(self, seat: _Seat, job: Job) -> None:
        request = job.request if seat.model is not job.request.arrays else replace(job.request, arrays={})
        seat.connection.send_bytes(_job_bytes(job.merchant, request, keeps_model=request is not job.request))
        seat.model, seat.merchant = job.request.arrays, job.merchant

    def _collect(self, seat: _Seat) -> Outcome:
        merchant, seat.merchant = seat.merchant or "", None
        try:
            return Outcome(merchant, decode_reply(seat.connection.recv_bytes()))
        except ClientError as refused:
            return Outcome(merchant, None, str(refused))
        except (EOFError, OSError):
            self._replace(seat)
            return Outcome(merchant, None, "its process ended without an answer")

    def _give_up(self, waiting: list[Job]) -> Iterator[Outcome]:
        for seat in list(self._seats):
            if seat.merchant:
                yield Outcome(seat.merchant, None, TOO_LATE)
                self._replace(seat)
        for job in waiting:
            yield Outcome(job.merchant, None, TOO_LATE)

    def _replace(self, seat: _Seat) -> None:
        seat.process.kill()
        seat.process.join()
        seat.connection.close()
        self._seats[self._seats.index(seat)] = self._seat()


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
