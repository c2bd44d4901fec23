# SPDX-License-Identifier: Apache-2.0
"""The executors: the same replies from one process and from several, and what one bad merchant costs."""

import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import numpy as np
import pytest

from client.errors import Refused
from client.wire import Reply, Request
from simulation import pool
from simulation.pool import ENDED, LEFT, TOO_LATE, Executor, Job, Outcome, Pool, executor

NAMES = [f"merchant-{number}" for number in range(6)]
REQUEST = Request("train", "run", 1, {"w": np.arange(4, dtype=np.float32)}, {})
Faults = Mapping[str, str]


def _answer(faults: Faults, merchant: str, request: Request) -> Reply:
    fault = faults.get(merchant, "")
    if fault == "raises":
        raise ValueError("out of memory")
    if fault == "refuses":
        raise Refused("epsilon is spent")
    if fault == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.startswith("sleeps"):
        time.sleep(float(fault.split()[1]))
    return Reply({"w": request.arrays["w"] * len(merchant) + int(merchant[-1])}, {}, weight=1)


def _answerer(faults: Faults) -> Callable[[str, Request], Reply]:
    return functools.partial(_answer, faults)


@pytest.fixture
def opened() -> Iterator[Callable[..., Executor]]:
    made: list[Executor] = []

    def make(workers: int, faults: Faults | None = None) -> Executor:
        made.append(executor(functools.partial(_answerer, faults or {}), workers))
        return made[-1]

    yield make
    for each in made:
        each.close()


def asked(executor: Executor, timeout_s: float = 30.0) -> dict[str, Outcome]:
    found = list(executor.run([Job(name, REQUEST) for name in NAMES], timeout_s))
    assert sorted(outcome.merchant for outcome in found) == NAMES
    return {outcome.merchant: outcome for outcome in found}


def unanswered(found: Mapping[str, Outcome]) -> dict[str, str]:
    return {name: outcome.reason for name, outcome in found.items() if outcome.reply is None}


def test_one_process_and_n_processes_give_the_same_replies(opened: Callable[..., Executor]) -> None:
    one, three = asked(opened(1)), asked(opened(3))
    assert not unanswered(one)
    assert not unanswered(three)
    for name in NAMES:
        ours, theirs = one[name].reply, three[name].reply
        assert ours is not None
        assert theirs is not None
        np.testing.assert_array_equal(ours.arrays["w"], theirs.arrays["w"])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("fault", "reason"), [("raises", "out of memory"), ("refuses", "epsilon is spent")])
def test_a_merchant_that_raises_costs_one_outcome(
    opened: Callable[..., Executor], workers: int, fault: str, reason: str
) -> None:
    found = unanswered(asked(opened(workers, {"merchant-2": fault})))
    assert list(found) == ["merchant-2"]
    assert reason in found["merchant-2"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_merchant_that_hangs_costs_one_outcome(opened: Callable[..., Executor], workers: int) -> None:
    opened_pool = opened(workers, {"merchant-0": "sleeps 60"})
    began = time.monotonic()
    assert unanswered(asked(opened_pool, timeout_s=4.0)) == {"merchant-0": TOO_LATE}
    assert time.monotonic() - began < 6.0
    # The next round finds everybody else at their post again.
    assert list(unanswered(asked(opened_pool, timeout_s=4.0))) == ["merchant-0"]


def test_several_that_hang_on_one_worker_cost_one_outcome_each(opened: Callable[..., Executor]) -> None:
    faults = {"merchant-0": "sleeps 60", "merchant-3": "sleeps 60", "merchant-5": "sleeps 60"}
    assert unanswered(asked(opened(1, faults), timeout_s=4.0)) == dict.fromkeys(faults, TOO_LATE)


def test_processes_that_all_hang_leave_the_waiting_jobs_their_share(opened: Callable[..., Executor]) -> None:
    found = unanswered(asked(opened(2, {"merchant-0": "sleeps 60", "merchant-1": "sleeps 60"}), timeout_s=12.0))
    assert set(found) == {"merchant-0", "merchant-1"}
    assert found["merchant-0"] == LEFT
    assert found["merchant-1"] in (LEFT, TOO_LATE)


def test_no_more_threads_are_left_behind_than_the_limit(
    opened: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "LEFT_BEHIND", 1)
    before = threading.active_count()
    found = unanswered(asked(opened(1, dict.fromkeys(NAMES, "sleeps 20")), timeout_s=1.0))
    assert found == dict.fromkeys(NAMES, TOO_LATE)
    assert threading.active_count() <= before + 2


def test_a_merchant_that_is_slow_but_in_time_is_answered(opened: Callable[..., Executor]) -> None:
    """It is left behind at half time; the others go on, and its answer counts when it comes."""
    assert not unanswered(asked(opened(1, {"merchant-1": "sleeps 2.4"}), timeout_s=4.0))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_round_without_a_deadline_ends_with_its_last_answer(
    opened: Callable[..., Executor], workers: int
) -> None:
    assert not unanswered(asked(opened(workers), timeout_s=float("inf")))


def test_a_merchant_that_takes_its_process_down_costs_one_outcome(opened: Callable[..., Executor]) -> None:
    assert unanswered(asked(opened(2, {"merchant-4": "dies"}))) == {"merchant-4": ENDED}


def test_a_process_that_ended_while_idle_costs_no_outcome(opened: Callable[..., Executor]) -> None:
    both = cast(Pool, opened(2))
    assert not unanswered(asked(both))
    for seat in both._seats:
        seat.process.kill()
        seat.process.join()
    assert not unanswered(asked(both))


def test_a_reader_that_stops_early_leaves_no_thread_waiting(opened: Callable[..., Executor]) -> None:
    before = threading.active_count()
    outcomes = cast("Iterator[Outcome]", opened(1).run([Job(f"{n}", REQUEST) for n in range(50)], 30.0))
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5.0
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_merchant_goes_to_the_process_that_it_went_to_before(opened: Callable[..., Executor]) -> None:
    two = cast(Pool, opened(2))
    asked(two)
    first = dict(two._seat_of)
    assert set(first) == set(NAMES)
    mine, theirs = two._seats
    waiting = [Job(name, REQUEST) for name in NAMES]
    for seat in (mine, theirs):
        own = [name for name in NAMES if first[name] is seat]
        assert NAMES[two._next(seat, waiting)] == (own or NAMES)[0]
    left = [job for job in waiting if first[job.merchant] is theirs]
    assert two._next(mine, left) == 0, "who has nothing to do helps whoever is behind"
    fresh = two._replace(mine)
    assert all(seat is theirs for seat in two._seat_of.values())
    assert not unanswered(asked(two))
    assert fresh in two._seats
