# SPDX-License-Identifier: Apache-2.0
"""A platform that equivocates, opens twice or subtracts sums.

Labels as in docs/secure-aggregation.md §13; each test fails if the attack works.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from privacy.secagg import keys
from privacy.secagg.errors import (
    Malformed,
    PeerRefused,
    Replayed,
    RequestRefused,
    SecAggError,
    StateRefused,
)
from privacy.secagg.masks import Vector, apply_masks
from privacy.secagg.merchant import MerchantSession
from privacy.secagg.round_messages import Certificate, Report, SignedHeader, Survivors, survivors_digest

Make = Callable[..., Any]


# --- S3, A1: both secrets of one merchant --------------------------------------------------------------------


def test_s3_a1_overlapping_lists_of_survivors_and_dropped(bench: Make) -> None:
    """There is one list; what is not on it is dropped. Naming fewer than were confirmed is refused."""
    made = bench(5)
    made.set_up()
    _, certificates = made.confirmed()
    for name, data in certificates.items():
        message = Certificate.decode(data)
        fewer = replace(message, survivors=message.survivors[:-1], sealed=message.sealed[:-1])
        with pytest.raises(RequestRefused, match="another survivor list"):
            made.league.merchants[name].unmask(fewer.encode())
    made.assert_nothing_opened()


def test_a_merchant_never_opens_both_secrets_of_one_merchant(bench: Make) -> None:
    """Of survivors the own seed alone, of the dropped the pair seeds alone."""
    made = bench(5)
    made.set_up()
    league, names = made.league, made.names
    seeds: dict[str, list[bytes]] = {}
    for name, merchant in league.merchants.items():
        share = merchant._share

        def spy(*args: Any, m: Any = merchant, n: str = name, inner: Any = share) -> Any:
            seeds[n] = [m._own_seed]
            return inner(*args)

        merchant._share = spy
    round_ = league.platform.open_round(1, 0, made.terms)
    for name, merchant in league.merchants.items():
        merchant.open_round(round_.opening(), made.terms)
        report = merchant.report(made.fresh()[name]())
        if name != "m004":
            round_.receive_report(report)
    ctx = round_._ctx
    roots = {name: dict(league.merchants[name]._state.epoch.roots) for name in names}
    survivors = round_.survivors()
    for merchant in league.merchants.values():
        round_.receive_confirmation(merchant.confirm(survivors))
    for name, certificate in round_.certificates().items():
        round_.receive_answer(league.merchants[name].unmask(certificate))
    added, taken = [], []
    original = apply_masks

    def record(vector: Vector, plus: list[bytes], minus: list[bytes]) -> None:
        added.extend(minus)
        taken.extend(plus)
        original(vector, plus, minus)

    import privacy.secagg.platform as module

    module.masks.apply_masks, kept = record, module.masks.apply_masks
    try:
        made.assert_exact(round_.finish())
    finally:
        module.masks.apply_masks = kept
    opened = set(added) | set(taken)
    assert seeds["m004"][0] not in opened
    for i, name in enumerate(names[:4]):
        assert seeds[name][0] in opened
        for j in range(i + 1, 4):
            assert keys.mask_seed(roots[name][j], ctx) not in opened
        assert keys.mask_seed(roots[name][4], ctx) in opened


# --- S8: equivocation -----------------------------------------------------------------------------------------


def test_s8_equivocation_on_survivors(bench: Make) -> None:
    """Two lists for two halves: neither gets t confirmations, a mixture does not verify."""
    made = bench(10)
    made.set_up()
    round_, reports = made.reported()
    headers = tuple(Report.decode(report).signed for report in reports.values())
    league, ctx, t = made.league, round_._ctx, made.league.roster.threshold
    lists = (headers, headers[:-1])
    confirmations: dict[int, list[tuple[int, bytes]]] = {0: [], 1: []}
    for index, merchant in enumerate(league.merchants.values()):
        which = index % 2
        answer = merchant.confirm(Survivors(ctx, lists[which]).encode())
        confirmations[which].append((index, answer[-64:]))
        with pytest.raises(Replayed, match="once"):
            merchant.confirm(Survivors(ctx, lists[1 - which]).encode())
    everything = tuple(sorted(confirmations[0] + confirmations[1]))[:t]
    for index, merchant in enumerate(league.merchants.values()):
        mine = lists[index % 2]
        certificate = Certificate(
            *(index, ctx, tuple(range(len(mine))), survivors_digest(ctx, mine)),
            *(tuple(confirmations[index % 2]), 10, ()),
        )
        with pytest.raises(RequestRefused, match=f"expected {t} confirmations, found 5"):
            merchant.unmask(certificate.encode())
        with pytest.raises(PeerRefused, match="confirmation of"):
            merchant.unmask(replace(certificate, signatures=everything).encode())
    made.assert_nothing_opened()


def test_a_merchant_confirms_at_most_one_survivor_list_in_an_attempt(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    round_, reports = made.reported()
    headers = tuple(Report.decode(report).signed for report in reports.values())
    merchant = made.league.merchants["m000"]
    merchant.confirm(Survivors(round_._ctx, headers).encode())
    again = MerchantSession(made.league.identities["m000"], made.league.roster, made.league.stores["m000"])
    for session in (merchant, again):
        for listed in (headers, headers[:-1]):
            with pytest.raises(Replayed):
                session.confirm(Survivors(round_._ctx, listed).encode())


def test_survivor_lists_that_do_not_verify(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    round_, reports = made.reported()
    headers = tuple(Report.decode(report).signed for report in reports.values())
    ctx = round_._ctx
    forged = SignedHeader(3, bytes(32), bytes(32), bytes(32), os.urandom(64))
    own = replace(headers[0], vector_digest=bytes(32))
    cases = {
        "survivors, found": headers[:3],
        "report of m003": (*headers[:3], forged, headers[4]),
        "did not send": (own, *headers[1:]),
        "outside": (*headers, replace(forged, index=9)),
    }
    for message, listed in cases.items():
        with pytest.raises(SecAggError, match=message):
            made.league.merchants["m000"].confirm(Survivors(ctx, listed).encode())
    with pytest.raises(Malformed, match="rise"):
        made.league.merchants["m000"].confirm(Survivors(ctx, (*headers, headers[4])).encode())
    with pytest.raises(RequestRefused, match="another round"):
        made.league.merchants["m000"].confirm(Survivors(bytes(32), headers).encode())


# --- replay, unmask twice, differencing ------------------------------------------------------------------------


def test_a_merchant_answers_at_most_once_in_a_round(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    _, certificates = made.confirmed()
    made.league.merchants["m000"].unmask(certificates["m000"])
    again = MerchantSession(made.league.identities["m000"], made.league.roster, made.league.stores["m000"])
    for session in (made.league.merchants["m000"], again):
        with pytest.raises(Replayed):
            session.unmask(certificates["m000"])


def test_differencing_by_retry(bench: Make) -> None:
    """After the round was opened with as few honest answers as possible, no second cohort of it reaches t."""
    made = bench(10)
    made.set_up()
    roster = made.league.roster
    round_, certificates = made.confirmed()
    corrupt = set(made.names[: roster.colluders])
    honest = [name for name in made.names if name not in corrupt]
    asked = honest[: roster.threshold - roster.colluders]
    for name in [*corrupt, *asked]:
        round_.receive_answer(made.league.merchants[name].unmask(certificates[name]))
    made.assert_exact(round_.finish())
    second = made.league.platform.open_round(1, 1, made.terms)
    willing = 0
    for name in honest:
        try:
            made.league.merchants[name].open_round(second.opening(), made.terms)
            willing += 1
        except Replayed:
            assert name in asked
    assert willing + roster.colluders < roster.threshold


def test_differencing_by_opening_the_first_attempt_after_the_second(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    _, certificates = made.confirmed()
    _, _ = made.reported(1, 1)
    for name, merchant in made.league.merchants.items():
        with pytest.raises(SecAggError):
            merchant.unmask(certificates[name])
    made.assert_nothing_opened()


def test_replayed_rounds_and_set_ups(bench: Make) -> None:
    made = bench(5)
    setup, bundle = made.announced()
    kems = {name: merchant.encapsulate(bundle.encode()) for name, merchant in made.league.merchants.items()}
    for kem in kems.values():
        setup.receive_kem(kem)
    deliveries = setup.deliveries()
    for name, merchant in made.league.merchants.items():
        setup.receive_ready(merchant.establish(deliveries[name]))
    opening = made.league.platform.open_round(1, 0, made.terms).opening()
    merchant = made.league.merchants["m000"]
    merchant.open_round(opening, made.terms)
    for call in (
        lambda: merchant.announce(setup.opening()),
        lambda: merchant.encapsulate(bundle.encode()),
        lambda: merchant.establish(deliveries["m000"]),
        lambda: merchant.open_round(opening, made.terms),
    ):
        with pytest.raises(StateRefused):
            call()


def test_a_certificate_of_an_earlier_round(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    _, certificates = made.confirmed()
    round_, _ = made.reported(2)
    survivors = round_.survivors()
    for name, merchant in made.league.merchants.items():
        merchant.confirm(survivors)
        with pytest.raises(RequestRefused, match="another round"):
            merchant.unmask(certificates[name])


def test_a_certificate_needs_t_distinct_members(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    _, certificates = made.confirmed()
    message = Certificate.decode(certificates["m000"])
    merchant = made.league.merchants["m000"]
    one = message.signatures[0]
    with pytest.raises(Malformed, match="rise"):
        merchant.unmask(replace(message, signatures=(one,) * 4).encode())
    with pytest.raises(RequestRefused, match="confirmations, found 3"):
        merchant.unmask(replace(message, signatures=message.signatures[:3]).encode())
    stranger = (*message.signatures[:3], (77, os.urandom(64)))
    with pytest.raises(RequestRefused, match="no member"):
        merchant.unmask(replace(message, signatures=stranger).encode())
    with pytest.raises(RequestRefused, match="is for merchant"):
        merchant.unmask(replace(message, index=1).encode())
    with pytest.raises(RequestRefused, match="sealed shares"):
        merchant.unmask(replace(message, sealed=message.sealed[:-1]).encode())
    made.assert_nothing_opened()
