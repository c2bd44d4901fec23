# SPDX-License-Identifier: Apache-2.0
"""Random schedules of drops, repeats, restarts and lies: at most one sum of a round, and every sum exact.

Vectors end on both sides of every border of the mask stream, and machines differ in how they make it.
HANSA_FUZZ multiplies the number of schedules.
"""

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from privacy.secagg import masks
from privacy.secagg.errors import SecAggError
from privacy.secagg.merchant import MerchantSession
from privacy.secagg.platform import PlatformRound

Make = Callable[..., Any]
SCHEDULES = int(os.environ.get("HANSA_FUZZ", "60")) * 20
HEAD, WORDS = masks.GCM_HEAD, masks.WORDS
SIZES = (
    *((3, 1), (HEAD - 1, 2), (HEAD, 0), (HEAD, 1), (HEAD + 1, 1), (0, 1), (HEAD + 32, 5), (1, 0)),
    *((WORDS + HEAD, 1), (5 * HEAD, WORDS // 2 + 1), (WORDS + HEAD + 1, 0)),
)


def play(made: Any, number: int, source: random.Random) -> list[Any]:
    """Up to three attempts of a round at once, their messages in random order, some lost, repeated or altered."""
    league = made.league
    attempts = [league.platform.open_round(number, attempt, made.terms) for attempt in range(3)]
    pool: list[tuple[str, PlatformRound, str, bytes]] = [
        ("open", attempts[0], name, attempts[0].opening()) for name in made.names
    ]
    sums: list[Any] = []
    begun, announced, certified = {0}, set(), set()
    for _ in range(source.randint(30, 160)):
        if pool and source.random() < 0.93:
            place = source.randrange(len(pool))
            kind, round_, name, data = pool[place] if source.random() < 0.1 else pool.pop(place)
            if source.random() < 0.04:
                continue
            if source.random() < 0.03:
                altered = bytearray(data)
                altered[source.randrange(len(altered))] ^= 1 << source.randrange(8)
                data = bytes(altered)
            if source.random() < 0.03:
                store = league.stores[name]
                league.merchants[name] = MerchantSession(league.identities[name], league.roster, store)
            try:
                step(made, pool, kind, round_, name, data)
            except SecAggError:
                continue
        which = source.randrange(3)
        round_ = attempts[which]
        try:
            if which not in begun and source.random() < 0.05:
                begun.add(which)
                pool += [("open", round_, name, round_.opening()) for name in made.names]
            elif which not in announced and source.random() < 0.1:
                survivors = round_.survivors()
                announced.add(which)
                pool += [("confirm", round_, name, survivors) for name in made.names]
            elif which in announced and which not in certified:
                certificates = round_.certificates()
                certified.add(which)
                pool += [("unmask", round_, name, certificate) for name, certificate in certificates.items()]
            elif which in certified:
                sums.append(round_.finish())
        except SecAggError:
            continue
    return sums


def step(made: Any, pool: list[Any], kind: str, round_: PlatformRound, name: str, data: bytes) -> None:
    merchant = made.league.merchants[name]
    if kind == "open":
        merchant.open_round(data, made.terms)
        pool.append(("report", round_, name, merchant.report(made.fresh()[name]())))
    elif kind == "report":
        round_.receive_report(data)
    elif kind == "confirm":
        pool.append(("confirmation", round_, name, merchant.confirm(data)))
    elif kind == "confirmation":
        round_.receive_confirmation(data)
    elif kind == "unmask":
        pool.append(("answer", round_, name, merchant.unmask(data)))
    else:
        round_.receive_answer(data)


def test_random_schedules_open_at_most_one_exact_sum_of_a_round(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, machine = random.Random(int(os.environ.get("HANSA_FUZZ_SEED", "11"))), random.Random(0)
    monkeypatch.setattr(masks, "_gcm_is_faster", lambda: machine.random() < 0.5)
    monkeypatch.setattr(masks, "THREAD_SIZE", 8 * WORDS)  # threads from two masks of a block on
    opened = 0
    for start in range(0, SCHEDULES, 25):
        d, e = SIZES[start // 25 % len(SIZES)]
        made = bench(4, d=d, e=e, seed=start)
        made.set_up()
        for number in range(1, min(25, SCHEDULES - start) + 1):
            sums = play(made, number, source)
            assert len(sums) <= 1
            opened += len(sums)
            for result in sums:
                made.assert_exact(result)
    assert opened >= SCHEDULES // 10  # the schedules reach the end often enough to mean something
