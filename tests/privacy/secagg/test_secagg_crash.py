# SPDX-License-Identifier: Apache-2.0
"""kill -9 of a merchant between any two messages: it goes on or refuses, and never uses a mask twice."""

from collections.abc import Callable
from typing import Any

import pytest

from privacy.secagg.errors import Replayed, StateRefused
from privacy.secagg.exchange import Step
from privacy.secagg.merchant import MerchantSession
from privacy.secagg.state import decode_state

Make = Callable[..., Any]


def restart(made: Any, name: str) -> None:
    league = made.league
    league.merchants[name] = MerchantSession(league.identities[name], league.roster, league.stores[name])


@pytest.mark.parametrize("crash", list(Step))
def test_a_crash_before_a_step_goes_on_from_the_key_store(bench: Make, crash: Step) -> None:
    made = bench(5)
    league = made.league
    setup = league.platform.open_epoch(1, 1)

    def before(step: Step) -> None:
        if step is crash:
            restart(made, "m002")

    before(Step.KEYS)
    for merchant in league.merchants.values():
        setup.receive_keys(merchant.announce(setup.opening()))
    before(Step.KEM)
    bundle = setup.bundle()
    for merchant in league.merchants.values():
        setup.receive_kem(merchant.encapsulate(bundle))
    before(Step.READY)
    for name, delivery in setup.deliveries().items():
        setup.receive_ready(league.merchants[name].establish(delivery))
    round_ = league.platform.open_round(1, 0, made.terms)
    for merchant in league.merchants.values():
        merchant.open_round(round_.opening(), made.terms)
    before(Step.REPORT)
    for name, merchant in league.merchants.items():
        round_.receive_report(merchant.report(made.fresh()[name]()))
    before(Step.CONFIRM)
    survivors = round_.survivors()
    for merchant in league.merchants.values():
        round_.receive_confirmation(merchant.confirm(survivors))
    before(Step.UNMASK)
    for name, certificate in round_.certificates().items():
        round_.receive_answer(league.merchants[name].unmask(certificate))
    result = round_.finish()
    assert len(result.survivors) == 5
    made.assert_exact(result)


def test_a_round_that_was_opened_is_never_opened_again_also_after_a_crash(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    merchant = made.league.merchants["m002"]
    opening = made.league.platform.open_round(4, 2, made.terms).opening()
    merchant.open_round(opening, made.terms)
    for _ in range(2):
        with pytest.raises(Replayed, match="not after"):
            made.league.merchants["m002"].open_round(opening, made.terms)
        restart(made, "m002")
    for number, attempt in [(4, 1), (3, 9), (4, 2)]:
        earlier = made.league.platform.open_round(number, attempt, made.terms).opening()
        with pytest.raises(Replayed):
            made.league.merchants["m002"].open_round(earlier, made.terms)


def test_a_report_is_never_made_twice_also_after_a_crash(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    opening = made.league.platform.open_round(1, 0, made.terms).opening()
    made.league.merchants["m002"].open_round(opening, made.terms)
    made.league.merchants["m002"].report(made.fresh()["m002"]())
    restart(made, "m002")
    with pytest.raises(Replayed, match="REPORTED"):
        made.league.merchants["m002"].report(made.fresh()["m002"]())


@pytest.mark.parametrize("step", ["announce", "encapsulate", "establish", "open", "report", "confirm", "unmask"])
def test_state_is_saved_before_a_message_leaves(bench: Make, step: str) -> None:
    """A store that fails stops the message and the machine stays where it was."""
    made = bench(5)
    league = made.league
    victim, store = league.merchants["m001"], league.stores["m001"]
    save = store.save

    def guarded(name: str, call: Callable[[], Any]) -> Any:
        if name != step:
            return call()
        before = store.load()

        def fail(_: bytes) -> None:
            raise OSError("disk full")

        store.save = fail
        with pytest.raises(OSError, match="disk full"):
            call()
        store.save = save
        assert store.load() == before
        return call()

    setup = league.platform.open_epoch(1, 1)
    for merchant in league.merchants.values():
        ask = lambda m=merchant: m.announce(setup.opening())  # noqa: E731
        setup.receive_keys(guarded("announce", ask) if merchant is victim else ask())
    bundle = setup.bundle()
    for merchant in league.merchants.values():
        ask = lambda m=merchant: m.encapsulate(bundle)  # noqa: E731
        setup.receive_kem(guarded("encapsulate", ask) if merchant is victim else ask())
    for name, delivery in setup.deliveries().items():
        ask = lambda m=league.merchants[name], d=delivery: m.establish(d)  # noqa: E731
        setup.receive_ready(guarded("establish", ask) if name == "m001" else ask())
    round_ = league.platform.open_round(1, 0, made.terms)
    for name, merchant in league.merchants.items():
        ask = lambda m=merchant: m.open_round(round_.opening(), made.terms)  # noqa: E731
        _ = guarded("open", ask) if merchant is victim else ask()
        report = lambda m=merchant, n=name: m.report(made.fresh()[n]())  # noqa: E731
        round_.receive_report(guarded("report", report) if merchant is victim else report())
    survivors = round_.survivors()
    for merchant in league.merchants.values():
        ask = lambda m=merchant: m.confirm(survivors)  # noqa: E731
        round_.receive_confirmation(guarded("confirm", ask) if merchant is victim else ask())
    for name, certificate in round_.certificates().items():
        ask = lambda m=league.merchants[name], c=certificate: m.unmask(c)  # noqa: E731
        round_.receive_answer(guarded("unmask", ask) if name == "m001" else ask())
    made.assert_exact(round_.finish())


def test_private_keys_of_an_epoch_are_gone_once_it_is_established(bench: Make) -> None:
    made = bench(3)
    seen: list[bytes] = []
    store = made.league.stores["m001"]
    save = store.save
    store.save = lambda state: (seen.append(state), save(state))[1]
    made.set_up()
    digest = made.league.roster.digest
    announced, encapsulated, established = (decode_state(state, digest) for state in seen)
    assert announced.pending is not None
    assert encapsulated.pending is not None
    assert established.pending is None
    keys = announced.pending.keys
    assert keys == encapsulated.pending.keys
    assert keys.x25519 in seen[1]
    assert keys.x25519 not in seen[2]
    assert keys.mlkem_seed not in seen[2]


def test_past_roots_are_gone_after_the_answer(bench: Make) -> None:
    made = bench(3)
    made.set_up()
    merchant = made.league.merchants["m001"]
    before = dict(merchant._state.epoch.roots)
    made.round(1)
    state = made.league.stores["m001"].load()
    assert all(root not in state for root in before.values())


def test_an_epoch_that_was_announced_is_never_announced_again(bench: Make) -> None:
    made = bench(3)
    opening = made.league.platform.open_epoch(5, 1).opening()
    made.league.merchants["m001"].announce(opening)
    restart(made, "m001")
    for epoch in (5, 4, 0):
        with pytest.raises(Replayed, match="not after"):
            made.league.merchants["m001"].announce(made.league.platform.open_epoch(epoch, 1).opening())


def test_steps_out_of_order_are_refused(bench: Make) -> None:
    made = bench(3)
    merchant = made.league.merchants["m000"]
    with pytest.raises(StateRefused, match="no epoch"):
        merchant.encapsulate(b"HSA\x01\x03\x00")
    with pytest.raises(StateRefused, match="no round"):
        merchant.expand_masks()
    with pytest.raises(StateRefused, match="no round"):
        merchant.report(made.fresh()["m000"]())
