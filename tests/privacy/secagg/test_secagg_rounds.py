# SPDX-License-Identifier: Apache-2.0
"""Whole rounds: exact sums, every drop-out, retries, witnesses, epochs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.secagg import exchange
from privacy.secagg.errors import BelowThreshold, Malformed, Replayed, RequestRefused, StateRefused
from privacy.secagg.exchange import Log, Step
from privacy.secagg.masks import Vector

Make = Callable[..., Any]


def dropped_at(step: Step, names: list[str]) -> dict[Step, set[str]]:
    return {step: set(names)}


COUNTS = ("nobody", "one", "all tolerated", "one too many")
FAST_OF_30 = ("all tolerated", "one too many")
MATRIX = [
    pytest.param(n, step, count, marks=[pytest.mark.slow] if n == 30 and count not in FAST_OF_30 else [])
    for n in (3, 10, 30)
    for step in Step
    for count in COUNTS
]


@pytest.mark.parametrize(("n", "step", "count"), MATRIX)
def test_the_sum_is_exact_for_every_pattern_of_drop_outs_within_the_threshold_and_none_beyond(
    bench: Make, n: int, step: Step, count: str
) -> None:
    case = bench(n, seed=n, min_survivors=max(3, n // 3 + 2))
    tolerated = case.league.roster.drops_tolerated
    missing = {"nobody": 0, "one": 1, "all tolerated": tolerated, "one too many": tolerated + 1}[count]
    gone = case.names[:: max(1, n // max(missing, 1))][:missing]
    assert len(gone) == missing
    drops = dropped_at(step, gone)
    if missing > tolerated:
        with pytest.raises(BelowThreshold):
            case.whole(drops)
        return
    ready = case.set_up(drops)
    result = case.round(drops=drops)
    case.assert_exact(result)
    early = step in (Step.KEYS, Step.KEM, Step.READY)
    assert set(ready) == set(case.names) - (set(gone) if early else set())
    lost = set(gone) if early or step is Step.REPORT else set()
    assert set(result.survivors) == set(case.names) - lost


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_exact_for_random_sizes_and_combined_drops(bench: Make, data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 12))
    made = bench(
        n, d=data.draw(st.sampled_from([0, 1, 5, 64, 333])), e=data.draw(st.integers(0, 3)), min_survivors=None
    )
    names = data.draw(st.permutations(made.names))[: made.league.roster.drops_tolerated]
    drops: dict[Step, set[str]] = {}
    for name in names:
        drops.setdefault(data.draw(st.sampled_from(list(Step))), set()).add(name)
    made.set_up(drops)
    result = made.round(drops=drops)
    made.assert_exact(result)


def test_a_merchant_that_drops_out_during_set_up_does_not_stop_the_others(bench: Make) -> None:
    made = bench(10)
    drops = {Step.KEYS: {"m000"}, Step.KEM: {"m004"}, Step.READY: {"m009"}}
    assert len(made.set_up(drops)) == 7
    made.assert_exact(made.round())


def test_below_the_threshold_nothing_is_opened_and_the_next_attempt_works(bench: Make) -> None:
    made = bench(10)
    made.set_up()
    league = made.league
    few = dropped_at(Step.CONFIRM, made.names[:4])
    with pytest.raises(BelowThreshold, match="confirmations"):
        made.round(drops=few)
    answered = [merchant._state.answered_round for merchant in league.merchants.values()]
    assert answered == [-1] * 10
    round_ = league.platform.open_round(1, 1, made.terms)
    terms = dict.fromkeys(made.names, made.terms)
    made.assert_exact(exchange.run_attempt(league.merchants, made.fresh(), round_, terms))


def test_a_retry_uses_fresh_masks(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    seen: list[bytes] = []
    for attempt in (0, 1):
        round_ = made.league.platform.open_round(1, attempt, made.terms)
        merchant = made.league.merchants["m000"]
        merchant.open_round(round_.opening(), made.terms)
        seen.append(merchant.report(made.fresh()["m000"]()))
    one, two = (np.frombuffer(report[-4 * 37 - 16 : -16], "<u4") for report in seen)
    assert not np.any(one == two)


def test_too_few_answers_lose_the_round_and_the_next_round_works(bench: Make) -> None:
    made = bench(10)
    made.set_up()
    with pytest.raises(BelowThreshold, match="next"):
        made.round(1, dropped_at(Step.UNMASK, made.names[:4]), attempts=1)
    made.assert_exact(made.round(2))


def test_many_rounds_in_one_epoch_with_gaps(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    for number in (1, 2, 7, 8, 200):
        drops = dropped_at(Step.REPORT, ["m003"]) if number == 7 else None
        made.assert_exact(made.round(number, drops))


def test_an_epoch_ends_and_another_follows(bench: Make) -> None:
    made = bench(5)
    made.set_up(base=1)
    made.round(256)
    assert made.league.platform.needs_epoch(257)
    with pytest.raises(StateRefused, match="set-up first"):
        made.round(257)
    made.set_up(epoch=2, base=257)
    made.assert_exact(made.round(257))


def test_a_cohort_with_witnesses(bench: Make) -> None:
    made = bench(10, min_survivors=5)
    made.set_up()
    cohort = made.names[2:8]
    result = exchange.run_round(
        *(made.league.merchants, made.fresh(), made.league.platform),
        number=3,
        terms=dict.fromkeys(made.names, made.terms),
        platform_terms=made.terms,
        cohort=cohort,
        carry=lambda step, name, answer: None if step is Step.UNMASK and name == "m001" else answer(),
    )
    assert list(result.survivors) == cohort
    made.assert_exact(result)
    witness = made.league.merchants["m000"]
    cohort = made.names[2:8]
    witness.open_round(made.league.platform.open_round(4, 0, made.terms, cohort).opening(), made.terms)
    with pytest.raises(StateRefused, match="witness"):
        witness.report(Vector.zeros(37, 2))
    with pytest.raises(StateRefused, match="witness"):
        witness.expand_masks()


def test_a_merchant_that_missed_a_round_takes_part_in_the_next(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    made.round(1, dropped_at(Step.REPORT, ["m004"]))
    result = made.round(2)
    assert "m004" in result.survivors
    made.assert_exact(result)


def test_masks_expanded_during_training_give_the_same_sum(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    round_ = made.league.platform.open_round(1, 0, made.terms)
    for name, merchant in made.league.merchants.items():
        merchant.open_round(round_.opening(), made.terms)
        merchant.expand_masks()
        round_.receive_report(merchant.report(made.fresh()[name]()))
    survivors = round_.survivors()
    for merchant in made.league.merchants.values():
        round_.receive_confirmation(merchant.confirm(survivors))
    for name, certificate in round_.certificates().items():
        round_.receive_answer(made.league.merchants[name].unmask(certificate))
    made.assert_exact(round_.finish())


def test_a_merchant_that_raises_counts_as_dropped_and_the_others_go_on(bench: Make) -> None:
    made = bench(10)
    made.set_up()
    log = Log()
    terms = dict.fromkeys(made.names, made.terms)
    terms["m003"] = dataclasses.replace(made.terms, model_digest=b"x" * 32)
    league = made.league
    result = exchange.run_round(
        league.merchants, made.fresh(), league.platform, number=1, terms=terms, platform_terms=made.terms, log=log
    )
    assert "m003" in result.dropped
    made.assert_exact(result)
    assert [(step, name, type(error)) for step, name, error in log.refusals] == [
        (Step.REPORT, "m003", RequestRefused)
    ]


def test_a_late_repeated_altered_or_foreign_message_is_refused_and_changes_nothing(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    league = made.league
    round_ = league.platform.open_round(1, 0, made.terms)
    reports = {}
    for name, merchant in league.merchants.items():
        merchant.open_round(round_.opening(), made.terms)
        reports[name] = merchant.report(made.fresh()[name]())
    round_.receive_report(reports["m000"])
    with pytest.raises(Replayed, match="twice"):
        round_.receive_report(reports["m000"])
    for at in (100, 1000, len(reports["m001"]) - 1):
        altered = bytearray(reports["m001"])
        altered[at] ^= 1
        with pytest.raises(Exception, match=r"signed|verify|another round|size"):
            round_.receive_report(bytes(altered))
    for name in ("m001", "m002", "m003"):
        round_.receive_report(reports[name])
    survivors = round_.survivors()
    with pytest.raises(StateRefused, match="stands at CONFIRMATIONS"):
        round_.receive_report(reports["m004"])
    other = league.platform.open_round(1, 1, made.terms)
    with pytest.raises(Exception, match="another round"):
        other.receive_report(reports["m004"])
    for name in made.names[:4]:
        round_.receive_confirmation(league.merchants[name].confirm(survivors))
    for name, certificate in round_.certificates().items():
        round_.receive_answer(league.merchants[name].unmask(certificate))
    result = round_.finish()
    assert result.survivors == ("m000", "m001", "m002", "m003")
    made.assert_exact(result)


def test_vectors_are_added_as_they_arrive_and_not_kept(bench: Make) -> None:
    made = bench(5, d=4096)
    made.set_up()
    round_ = made.league.platform.open_round(1, 0, made.terms)
    for name, merchant in made.league.merchants.items():
        merchant.open_round(round_.opening(), made.terms)
        round_.receive_report(merchant.report(made.fresh()[name]()))
    assert all(report.vector == () for report in round_._reports.values())


def test_a_sum_is_opened_only_over_at_least_n_min_survivors(bench: Make) -> None:
    made = bench(10, min_survivors=8)
    made.set_up()
    with pytest.raises(BelowThreshold, match="expected 8 reports, found 7"):
        made.round(drops=dropped_at(Step.REPORT, made.names[:3]))


def test_retry_leaves_the_model_unchanged_and_succeeds(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    calls = {"n": 0}

    def carry(step: Step, name: str, answer: Callable[[], bytes]) -> bytes | None:
        calls["n"] += step is Step.REPORT
        return None if step is Step.REPORT and calls["n"] <= 3 else answer()

    league = made.league
    result = exchange.run_round(
        *(league.merchants, made.fresh(), league.platform),
        number=1,
        terms=dict.fromkeys(made.names, made.terms),
        platform_terms=made.terms,
        attempts=2,
        carry=carry,
    )
    assert len(result.survivors) == 5
    made.assert_exact(result)


def test_one_entry_for_relays_of_bytes(bench: Make) -> None:
    made = bench(3)
    league = made.league
    setup = league.platform.open_epoch(1, 1)
    for merchant in league.merchants.values():
        setup.receive_keys(merchant.receive(setup.opening()))
    bundle = setup.bundle()
    for merchant in league.merchants.values():
        setup.receive_kem(merchant.receive(bundle))
    for name, delivery in setup.deliveries().items():
        setup.receive_ready(league.merchants[name].receive(delivery))
    round_ = league.platform.open_round(1, 0, made.terms)
    for name, merchant in league.merchants.items():
        with pytest.raises(Malformed, match="kind 7"):
            merchant.receive(round_.opening())
        merchant.open_round(round_.opening(), made.terms)
        round_.receive_report(merchant.report(made.fresh()[name]()))
    survivors = round_.survivors()
    for merchant in league.merchants.values():
        round_.receive_confirmation(merchant.receive(survivors))
    for name, certificate in round_.certificates().items():
        round_.receive_answer(league.merchants[name].receive(certificate))
    made.assert_exact(round_.finish())


@pytest.mark.slow
def test_a_hundred_merchants_with_every_tolerated_drop(bench: Make) -> None:
    made = bench(100, min_survivors=67)
    names = made.names
    drops = {Step.KEM: set(names[:5]), Step.REPORT: set(names[10:25]), Step.UNMASK: set(names[50:63])}
    made.set_up(drops)
    result = made.round(drops=drops)
    assert len(result.survivors) == 80
    made.assert_exact(result)
