# SPDX-License-Identifier: Apache-2.0
"""A platform that sends whatever it likes. Honest merchants refuse and open nothing.

The labels S1–S14 and A1–A4 are those of the study of Flower 1.41's SecAgg+ (docs/secure-aggregation.md §8); here
each has a test that fails if the attack works.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from privacy.secagg import keys, tags
from privacy.secagg.errors import (
    BelowThreshold,
    Malformed,
    PeerRefused,
    Replayed,
    RequestRefused,
    RosterRefused,
    SecAggError,
    StateRefused,
)
from privacy.secagg.exchange import Step
from privacy.secagg.identity import Identity
from privacy.secagg.keystore import MemoryKeyStore
from privacy.secagg.masks import Vector, apply_masks
from privacy.secagg.merchant import MerchantSession
from privacy.secagg.platform import PlatformRound
from privacy.secagg.roster import Member, open_roster, sign_roster
from privacy.secagg.round_messages import Certificate, Report, RoundOpen, SignedHeader, Survivors, survivors_digest
from privacy.secagg.setup_messages import Bundle, Delivery, Keys

Make = Callable[..., Any]


def reported(made: Any, number: int = 1, attempt: int = 0) -> tuple[PlatformRound, dict[str, bytes]]:
    """A round in which everybody has reported."""
    round_ = made.league.platform.open_round(number, attempt, made.terms)
    reports = {}
    for name, merchant in made.league.merchants.items():
        merchant.open_round(round_.opening(), made.terms)
        reports[name] = merchant.report(made.fresh()[name]())
        round_.receive_report(reports[name])
    return round_, reports


def confirmed(made: Any) -> tuple[PlatformRound, dict[str, bytes]]:
    """A round in which everybody has confirmed, with the certificates."""
    round_, _ = reported(made)
    survivors = round_.survivors()
    for merchant in made.league.merchants.values():
        round_.receive_confirmation(merchant.confirm(survivors))
    return round_, round_.certificates()


def assert_nothing_opened(made: Any) -> None:
    assert {merchant._state.answered_round for merchant in made.league.merchants.values()} == {-1}


# --- S1, S2, S14: the mask generator -------------------------------------------------------------------------


def test_s1_seeds_are_not_folded_to_32_bits() -> None:
    seed = os.urandom(32)
    words = np.frombuffer(seed, "<u4").copy()
    words[0] ^= 0x5A5A5A5A
    words[1] ^= 0x5A5A5A5A
    twin = words.tobytes()
    fold = np.bitwise_xor.reduce(np.frombuffer(seed, "<u4"))
    assert fold == np.bitwise_xor.reduce(np.frombuffer(twin, "<u4"))
    one, two = Vector.zeros(8, 0), Vector.zeros(8, 0)
    apply_masks(one, [seed], [])
    apply_masks(two, [twin], [])
    assert not np.array_equal(one.body, two.body)


def linear_complexity(bits: np.ndarray) -> int:
    """Berlekamp–Massey over GF(2), polynomials and window as integers."""
    current, previous, length, gap, window = 1, 1, 0, 1, 0
    for n, bit in enumerate(bits.tolist()):
        window = window << 1 | bit
        if (current & window).bit_count() & 1:
            if 2 * length <= n:
                current, previous = current ^ previous << gap, current
                length, gap = n + 1 - length, 1
                continue
            current ^= previous << gap
        gap += 1
    return length


def test_s2_the_lowest_bits_of_a_sum_of_masks_obey_no_short_recurrence() -> None:
    size = 44_000
    ours = Vector.zeros(size, 0)
    apply_masks(ours, [os.urandom(32) for _ in range(5)], [os.urandom(32) for _ in range(4)])
    broken = np.zeros(size, np.uint32)
    for seed in range(9):
        broken += np.random.RandomState(seed).randint(0, 2**32, size, dtype=np.uint32)
    assert linear_complexity(broken & 1) == 19937  # MT19937: the attack works, whatever the number of masks
    assert linear_complexity(ours.body & 1) > size // 2 - 40


def test_s14_masks_reach_every_value_of_the_ring() -> None:
    vector = Vector.zeros(1 << 18, 0)
    apply_masks(vector, [os.urandom(32)], [])
    top = vector.body >> 24
    counts = np.bincount(top, minlength=256)
    chi_square = float((((counts - 1024) ** 2) / 1024).sum())
    assert 150 < chi_square < 385  # 255 degrees of freedom, p > 1e-6 on either side


# --- S3, A1: both secrets of one merchant --------------------------------------------------------------------


def test_s3_a1_overlapping_lists_of_survivors_and_dropped(bench: Make) -> None:
    """There is one list; what is not on it is dropped. Naming fewer than were confirmed is refused."""
    made = bench(5)
    made.set_up()
    _, certificates = confirmed(made)
    for name, data in certificates.items():
        message = Certificate.decode(data)
        fewer = replace(message, survivors=message.survivors[:-1], sealed=message.sealed[:-1])
        with pytest.raises(RequestRefused, match="another survivor list"):
            made.league.merchants[name].unmask(fewer.encode())
    assert_nothing_opened(made)


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


# --- S4, A2: keys ---------------------------------------------------------------------------------------------


def announced(made: Any) -> tuple[Any, Bundle]:
    setup = made.league.platform.open_epoch(1, 1)
    for merchant in made.league.merchants.values():
        setup.receive_keys(merchant.announce(setup.opening()))
    return setup, Bundle.decode(setup.bundle())


@pytest.mark.parametrize("field", ["x25519", "mlkem", "signature"])
def test_s4_a2_key_substitution(bench: Make, field: str) -> None:
    made = bench(5)
    _, bundle = announced(made)
    mine = keys.EpochKeys.draw(os.urandom)
    new = {"x25519": mine.public()[0], "mlkem": mine.public()[1], "signature": os.urandom(64)}[field]
    swapped = (*bundle.keys[:3], replace(bundle.keys[3], **{field: new}), bundle.keys[4])
    for index in (0, 1, 2, 4):
        with pytest.raises(PeerRefused, match="keys of m003"):
            made.league.merchants[made.names[index]].encapsulate(Bundle(swapped).encode())
    with pytest.raises((PeerRefused, RequestRefused)):
        made.league.merchants["m003"].encapsulate(Bundle(swapped).encode())


def test_keys_that_their_merchant_did_not_sign_are_refused(bench: Make) -> None:
    """Signed by another member, or for another run, epoch or first round."""
    made = bench(5)
    _, bundle = announced(made)
    other = made.league.identities["m001"]
    opening = made.league.merchants["m000"]._state.pending.opening
    victim = bundle.keys[3]
    for binding in (
        opening.binding(),
        replace(opening, epoch=7).binding(),
        replace(opening, run=b"r" * 16).binding(),
    ):
        signer = other if binding == opening.binding() else made.league.identities["m003"]
        forged = replace(victim, signature=signer.sign(tags.KEYS, binding, victim.signed()))
        with pytest.raises(PeerRefused, match="keys of m003"):
            made.league.merchants["m000"].encapsulate(Bundle((*bundle.keys[:3], forged, bundle.keys[4])).encode())


def test_swapped_ciphertexts(bench: Make) -> None:
    made = bench(5)
    setup, bundle = announced(made)
    for merchant in made.league.merchants.values():
        setup.receive_kem(merchant.encapsulate(bundle.encode()))
    delivery = Delivery.decode(setup.deliveries()["m004"])
    secret, ciphertext = keys.encapsulate(bundle.keys[4].mlkem, "m004")
    assert len(secret) == 32
    for change in ({"ciphertext": ciphertext}, {"mac": bytes(32)}, {"other": 3, "signature": bytes(64)}):
        capsules = list(delivery.capsules)
        capsules[2 if "other" not in change else 3] = replace(capsules[2], **change)
        with pytest.raises(PeerRefused, match="ciphertext of"):
            made.league.merchants["m004"].establish(replace(delivery, capsules=tuple(capsules)).encode())


def test_sybils_cannot_join(bench: Make) -> None:
    """A member outside the roster is refused in keys, members and confirmations."""
    made = bench(5)
    _, bundle = announced(made)
    sybil = Identity.generate()
    drawn = keys.EpochKeys.draw(os.urandom)
    opening = made.league.merchants["m000"]._state.pending.opening
    unsigned = Keys(5, *drawn.public(), b"")
    entry = replace(unsigned, signature=sybil.sign(tags.KEYS, opening.binding(), unsigned.signed()))
    with pytest.raises(RequestRefused, match="outside the roster"):
        made.league.merchants["m000"].encapsulate(Bundle((*bundle.keys, entry)).encode())
    roster = made.league.roster
    grown = replace(roster, members=(*roster.members, Member("m005", sybil.public)), threshold=5)
    council = Identity.generate()
    signed = sign_roster(grown, [council])
    with pytest.raises(RosterRefused, match="pinned"):
        open_roster(signed, council={council.public}, signatures_needed=1, pin=roster.digest)


def test_split_views_of_an_epoch_open_nothing(bench: Make) -> None:
    """Two groups get different bundles: their digests, roots and rounds differ and neither reaches t."""
    made = bench(10)
    setup, bundle = announced(made)
    one, two = Bundle(bundle.keys[:8]), Bundle(bundle.keys[2:])
    league = made.league
    league.merchants["m000"].encapsulate(one.encode())
    league.merchants["m009"].encapsulate(two.encode())
    with pytest.raises(Replayed, match="a step is taken once"):
        league.merchants["m000"].encapsulate(two.encode())
    made_digest = {name: league.merchants[name]._state.pending.bundle for name in ("m000", "m009")}
    assert made_digest["m000"] != made_digest["m009"]
    assert setup.announced() == tuple(made.names)


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


# --- S8: equivocation -----------------------------------------------------------------------------------------


def test_s8_equivocation_on_survivors(bench: Make) -> None:
    """Two lists for two halves: neither gets t confirmations, a mixture does not verify."""
    made = bench(10)
    made.set_up()
    round_, reports = reported(made)
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
    assert_nothing_opened(made)


def test_a_merchant_confirms_at_most_one_survivor_list_in_an_attempt(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    round_, reports = reported(made)
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
    round_, reports = reported(made)
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
    _, certificates = confirmed(made)
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
    round_, certificates = confirmed(made)
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
    _, certificates = confirmed(made)
    _, _ = reported(made, 1, 1)
    for name, merchant in made.league.merchants.items():
        with pytest.raises(SecAggError):
            merchant.unmask(certificates[name])
    assert_nothing_opened(made)


def test_replayed_rounds_and_set_ups(bench: Make) -> None:
    made = bench(5)
    setup, bundle = announced(made)
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
    _, certificates = confirmed(made)
    round_, _ = reported(made, 2)
    survivors = round_.survivors()
    for name, merchant in made.league.merchants.items():
        merchant.confirm(survivors)
        with pytest.raises(RequestRefused, match="another round"):
            merchant.unmask(certificates[name])


def test_a_certificate_needs_t_distinct_members(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    _, certificates = confirmed(made)
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
    assert_nothing_opened(made)


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
    assert_nothing_opened(made)


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
    round_, reports = reported(made)
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
    round_, _ = reported(made)
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
    assert_nothing_opened(made)
