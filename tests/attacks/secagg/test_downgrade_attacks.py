# SPDX-License-Identifier: Apache-2.0
"""A platform that changes parameters, models or contexts, or reads the wire.

Labels as in docs/secure-aggregation.md §13; each test fails if the attack works.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from privacy.secagg import keys
from privacy.secagg.errors import (
    BelowThreshold,
    PeerRefused,
    RequestRefused,
    RosterRefused,
    StateRefused,
)
from privacy.secagg.exchange import Step
from privacy.secagg.identity import Identity
from privacy.secagg.keystore import MemoryKeyStore
from privacy.secagg.masks import Vector, apply_masks
from privacy.secagg.merchant import MerchantSession
from privacy.secagg.roster import open_roster, sign_roster
from privacy.secagg.round_messages import Report, RoundOpen, Survivors

Make = Callable[..., Any]


# --- S5, S6, S7, A3, A4: downgrades ---------------------------------------------------------------------------


def openings(made: Any) -> Iterator[tuple[str, RoundOpen]]:
    honest = RoundOpen.decode(made.league.platform.open_round(1, 0, made.terms).opening())
    yield "cohort of one", replace(honest, cohort=(0,))
    yield "cohort below n_min", replace(honest, cohort=(0, 1))
    yield "too few members", replace(honest, members=(0, 1, 2), cohort=(0, 1, 2))
    yield "no members", replace(honest, members=(), cohort=())
    yield "cohort outside the members", replace(honest, members=(0, 1, 2, 3), cohort=(0, 1, 2, 3, 4))
    yield "member outside the roster", replace(honest, members=(0, 1, 2, 3, 4, 5))
    yield "not a member", replace(honest, members=(1, 2, 3, 4), cohort=(1, 2, 3, 4))
    yield "another model", replace(honest, model_digest=b"x" * 32)
    yield "another plan: scale, clip, weights, purpose", replace(honest, plan_digest=b"x" * 32)
    yield "fewer words", replace(honest, d=honest.d - 1)
    yield "more words", replace(honest, e=honest.e + 1)
    yield "another epoch", replace(honest, epoch_digest=bytes(32))


@pytest.mark.parametrize("which", range(12))
def test_s5_s6_a3_a4_threshold_cohort_and_parameter_downgrade(bench: Make, which: int) -> None:
    made = bench(5)
    made.set_up()
    _, opening = list(openings(made))[which]
    merchant = made.league.merchants["m000"]
    before = made.league.stores["m000"].load()
    with pytest.raises((RequestRefused, StateRefused)):
        merchant.open_round(opening.encode(), made.terms)
    assert made.league.stores["m000"].load() == before
    with pytest.raises(StateRefused, match="no round"):
        merchant.report(made.fresh()["m000"]())


def test_s6_a4_the_ring_is_fixed(bench: Make) -> None:
    roster = bench(5).league.roster
    council = Identity.generate()
    signed = sign_roster(roster, [council])
    at = signed.index(bytes((roster.threshold, roster.colluders, roster.min_survivors, 32)))
    for place, value in ((3, 2), (0, 1), (2, 2)):
        altered = bytearray(signed)
        altered[at + place] = value
        with pytest.raises((RosterRefused, PeerRefused)):
            open_roster(bytes(altered), council={council.public}, signatures_needed=1, pin=roster.digest)


def test_a_vector_of_another_size_is_refused(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    made.league.merchants["m000"].open_round(
        made.league.platform.open_round(1, 0, made.terms).opening(), made.terms
    )
    with pytest.raises(RequestRefused, match="words"):
        made.league.merchants["m000"].report(Vector.zeros(36, 2))


# --- different models, mix and match --------------------------------------------------------------------------


def test_different_models_to_different_merchants(bench: Make) -> None:
    """Each gets a consistent opening for its own model: contexts differ, nobody confirms the mixture."""
    made = bench(5)
    made.set_up()
    league = made.league
    reports, contexts = {}, {}
    for index, (name, merchant) in enumerate(league.merchants.items()):
        terms = replace(made.terms, model_digest=bytes([index % 2]) * 32)
        opening = league.platform.open_round(1, 0, terms)
        merchant.open_round(opening.opening(), terms)
        reports[name] = Report.decode(merchant.report(made.fresh()[name]()))
        contexts[name] = opening._ctx
    headers = tuple(report.signed for report in reports.values())
    for name, merchant in league.merchants.items():
        with pytest.raises(PeerRefused, match="report of"):
            merchant.confirm(Survivors(contexts[name], headers).encode())
    made.assert_nothing_opened()


def test_s11_every_part_of_the_context_changes_every_seed(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    honest = RoundOpen.decode(made.league.platform.open_round(1, 0, made.terms).opening())
    digest = made.league.roster.digest
    changed = [
        honest,
        replace(honest, epoch_digest=bytes(32)),
        replace(honest, round=2),
        replace(honest, attempt=1),
        replace(honest, members=(0, 1, 2, 3)),
        replace(honest, cohort=(0, 1, 2, 3)),
        replace(honest, model_digest=bytes(32)),
        replace(honest, plan_digest=bytes(32)),
        replace(honest, d=1),
        replace(honest, e=1),
    ]
    contexts = [opening.ctx(digest) for opening in changed] + [honest.ctx(bytes(32))]
    seeds = {keys.mask_seed(b"r" * 32, ctx) for ctx in contexts}
    assert len(seeds) == len(contexts)


def test_s10_every_pair_of_the_cohort_is_masked(bench: Make) -> None:
    """Without any one pair root the report is another: no neighbour can be left out by the platform."""
    made = bench(5)
    made.set_up()
    merchant = made.league.merchants["m002"]
    opening = made.league.platform.open_round(1, 0, made.terms)
    merchant.open_round(opening.opening(), made.terms)
    round_, epoch = merchant._round(1)
    plus, minus = merchant._mask_seeds(round_, epoch)
    expected = {keys.mask_seed(epoch.roots[peer], round_.ctx) for peer in (0, 1, 3, 4)}
    assert set(plus[1:]) | set(minus) == expected


# --- S9, S13: what is on the wire and on the disk -------------------------------------------------------------


def test_s9_nothing_of_one_merchant_is_on_the_wire_in_clear(bench: Make) -> None:
    made = bench(5, d=64, e=4)
    wire: list[bytes] = []

    for vector in made.vectors.values():
        vector.body[:] = 0x11223344
        vector.tail[:] = 0x55667788_99AABBCC
    made.set_up()
    league = made.league
    round_, reports = made.reported()
    wire += reports.values()
    survivors = round_.survivors()
    wire.append(survivors)
    for merchant in league.merchants.values():
        wire.append(merchant.confirm(survivors))
        round_.receive_confirmation(wire[-1])
    for name, certificate in round_.certificates().items():
        wire += [certificate, league.merchants[name].unmask(certificate)]
        round_.receive_answer(wire[-1])
    made.assert_exact(round_.finish())
    dump = b"".join(wire)
    for word in (0x11223344, 0x11223345, 0x11223343):
        assert word.to_bytes(4, "little") not in dump
    assert (0x55667788_99AABBCC).to_bytes(8, "little") not in dump


def test_s13_secrets_of_a_round_are_gone_after_it(bench: Make) -> None:
    made = bench(3)
    made.set_up()
    league = made.league
    round_, _ = made.reported()
    roots = {name: dict(m._state.epoch.roots) for name, m in league.merchants.items()}
    survivors = round_.survivors()
    for merchant in league.merchants.values():
        round_.receive_confirmation(merchant.confirm(survivors))
    for name, certificate in round_.certificates().items():
        league.merchants[name].unmask(certificate)
        stored = league.stores[name].load()
        assert all(root not in stored for root in roots[name].values())
        assert all(root not in roots[name].values() for root in league.merchants[name]._state.epoch.roots.values())


def test_a_late_report_of_a_dropped_merchant_stays_masked(bench: Make) -> None:
    """The platform keeps a victim's report back, calls it dropped, learns its pair seeds: its own seed is left."""
    made = bench(5, d=4096)
    made.set_up()
    league = made.league
    round_ = league.platform.open_round(1, 0, made.terms)
    reports = {}
    for name, merchant in league.merchants.items():
        merchant.open_round(round_.opening(), made.terms)
        reports[name] = merchant.report(made.fresh()[name]())
        if name != "m004":
            round_.receive_report(reports[name])
    survivors = round_.survivors()
    for merchant in league.merchants.values():
        round_.receive_confirmation(merchant.confirm(survivors))
    answers = {name: league.merchants[name].unmask(c) for name, c in round_.certificates().items()}
    for answer in answers.values():
        round_.receive_answer(answer)
    made.assert_exact(round_.finish())
    late = Report.decode(reports["m004"])
    residue = Vector.from_bytes(bytearray(late.vector[0]), 4096, 2)
    residue = Vector(residue.body.copy(), residue.tail.copy())
    told = [keys for name in made.names[:4] for keys in [round_._answers[made.names.index(name)].own[0]]]
    apply_masks(residue, plus=told, minus=[])  # m004 took these away, as its number is the highest
    off = residue.body - made.vectors["m004"].body
    counts = np.bincount((off >> 24).astype(np.int64), minlength=256)
    assert ((counts - 16) ** 2 / 16).sum() < 400


def test_a_lost_store_cannot_be_replaced_by_another_merchants(bench: Make) -> None:
    made = bench(3)
    made.set_up()
    session = MerchantSession(made.league.identities["m000"], made.league.roster, MemoryKeyStore())
    opening = made.league.platform.open_round(1, 0, made.terms).opening()
    with pytest.raises(StateRefused, match="set up anew"):
        session.open_round(opening, made.terms)


def test_below_the_threshold_nothing_leaks(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    with pytest.raises(BelowThreshold):
        made.round(drops={Step.REPORT: {"m000", "m001"}})
    made.assert_nothing_opened()
