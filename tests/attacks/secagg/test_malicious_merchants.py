# SPDX-License-Identifier: Apache-2.0
"""Merchants that lie: they are named, and the round completes where enough good shares exist."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from privacy.secagg import exchange, tags
from privacy.secagg.errors import BelowThreshold, Misbehaviour, PeerRefused, Replayed, RequestRefused
from privacy.secagg.exchange import Log, Step
from privacy.secagg.keystore import MemoryKeyStore
from privacy.secagg.merchant import MerchantSession
from privacy.secagg.platform import Sum
from privacy.secagg.round_messages import Answer, Opened, Report
from privacy.secagg.setup_messages import Kem, Ready

Make = Callable[..., Any]
Change = Callable[[Any], Any]


def resign_answer(made: Any, name: str, answer: Answer, digest: bytes) -> bytes:
    identity = made.league.identities[name]
    signature = identity.sign(tags.ANSWER, answer.ctx, digest, tags.digest(answer.body()))
    return replace(answer, signature=signature).encode()


def resign_report(made: Any, name: str, report: Report) -> bytes:
    signed = replace(
        report.signed,
        vector_digest=tags.digest(*report.vector),
        sealed_digest=tags.digest(*report.sealed),
        commitments_digest=tags.digest(*report.secrets, *report.roots),
    )
    signature = made.league.identities[name].sign(tags.REPORT, report.ctx, signed.header())
    return replace(report, signed=replace(signed, signature=signature)).encode()


def lying(made: Any, changes: dict[tuple[Step, str], Change], log: Log | None = None, attempts: int = 1) -> Sum:
    """A round in which some merchants change their own signed messages; those who lie at no step drop nothing."""

    def carry(step: Step, name: str, answer: Callable[[], bytes]) -> bytes | None:
        data = answer()
        change = changes.get((step, name))
        if change is None:
            return data
        if step is Step.REPORT:
            return resign_report(made, name, change(Report.decode(data)))
        message = Answer.decode(data)
        return resign_answer(made, name, change(message), message.survivors_digest)

    league = made.league
    return exchange.run_round(
        *(league.merchants, made.fresh(), league.platform),
        number=1,
        terms=dict.fromkeys(made.names, made.terms),
        platform_terms=made.terms,
        attempts=attempts,
        carry=carry,
        log=log,
    )


def bad_shares(answer: Answer) -> Answer:
    flipped = tuple(
        Opened(False, (bytes(32), *item.shares[1:]), item.nodes) if not item.complaint else item
        for item in answer.opened
    )
    return replace(answer, opened=flipped)


@pytest.mark.parametrize("liars", [1, 2, 3])
def test_a_wrong_share_names_the_member_that_sent_it(bench: Make, liars: int) -> None:
    made = bench(10)
    made.set_up()
    names = made.names[:liars]
    result = lying(made, {(Step.UNMASK, name): bad_shares for name in names})
    made.assert_exact(result)
    assert {blame.merchants for blame in result.blames} == {(name,) for name in names}
    assert all("differ from what it was dealt" in blame.reason for blame in result.blames)


def test_with_too_many_bad_shares_the_round_is_not_opened(bench: Make) -> None:
    made = bench(10)
    made.set_up()
    with pytest.raises(BelowThreshold, match="expected 7 good shares"):
        lying(made, {(Step.UNMASK, name): bad_shares for name in made.names[:4]})


def test_a_wrong_share_is_found_with_dropped_merchants_too(bench: Make) -> None:
    made = bench(10)
    made.set_up()
    names = made.names

    def carry(step: Step, name: str, answer: Callable[[], bytes]) -> bytes | None:
        if step is Step.REPORT and name == names[9]:
            return None
        data = answer()
        if step is Step.UNMASK and name == names[8]:
            return None
        if step is Step.UNMASK and name == names[0]:
            message = Answer.decode(data)
            return resign_answer(made, name, bad_shares(message), message.survivors_digest)
        return data

    league = made.league
    result = exchange.run_round(
        *(league.merchants, made.fresh(), league.platform),
        number=1,
        terms=dict.fromkeys(names, made.terms),
        platform_terms=made.terms,
        carry=carry,
    )
    made.assert_exact(result)
    assert names[8] in result.survivors
    assert ((names[0],),) == tuple({blame.merchants for blame in result.blames})


def test_shares_that_prove_and_give_a_wrong_seed_name_the_author(bench: Make) -> None:
    """A bad commitment to its own seed: found after opening, the author named, nothing delivered."""
    made = bench(5)
    made.set_up()
    index = 2

    def bad_commitment(report: Report) -> Report:
        secrets = list(report.secrets)
        secrets[index] = os.urandom(32)
        return replace(report, secrets=tuple(secrets))

    with pytest.raises(Misbehaviour, match="m002 committed to other seeds") as caught:
        lying(made, {(Step.REPORT, "m002"): bad_commitment})
    assert caught.value.merchants == ("m002",)


def test_a_seed_that_differs_from_its_commitment_is_never_used(bench: Make) -> None:
    """Wrong pair seeds told for a dropped merchant: the right ones come from the shares, the liar is named."""
    made = bench(5)
    made.set_up()
    changes = {(Step.UNMASK, "m001"): lambda answer: replace(answer, own=(os.urandom(32),))}

    def carry(step: Step, name: str, answer: Callable[[], bytes]) -> bytes | None:
        if step is Step.REPORT and name == "m004":
            return None
        data = answer()
        if change := changes.get((step, name)):
            message = Answer.decode(data)
            return resign_answer(made, name, change(message), message.survivors_digest)
        return data

    league = made.league
    result = exchange.run_round(
        *(league.merchants, made.fresh(), league.platform),
        number=1,
        terms=dict.fromkeys(made.names, made.terms),
        platform_terms=made.terms,
        carry=carry,
    )
    made.assert_exact(result)
    assert [(blame.merchants, blame.reason) for blame in result.blames] == [
        (("m001",), "told other pair seeds than it committed to")
    ]


def mismatched(place: int) -> Change:
    def change(report: Report) -> Report:
        secrets = list(report.secrets)
        secrets[place] = os.urandom(32)
        return replace(report, secrets=tuple(secrets))

    return change


def test_a_mismatched_pair_seed_is_named_and_the_round_completes(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    log = Log()
    result = lying(made, {(Step.REPORT, "m003"): mismatched(1)}, log)
    made.assert_exact(result)
    assert "m003" not in result.survivors
    assert [blame.merchants for blame in result.blames] == [("m001", "m003")]
    assert any(step is Step.REPORT and isinstance(error, PeerRefused) for step, _, error in log.refusals)


def test_a_first_comer_that_disagrees_with_everybody_is_named_and_left_out_of_the_next_attempt(
    bench: Make,
) -> None:
    made = bench(10)
    made.set_up()

    def all_wrong(report: Report) -> Report:
        return replace(report, secrets=(report.secrets[0], *(os.urandom(32) for _ in report.secrets[1:])))

    changes = {(Step.REPORT, "m000"): all_wrong}
    with pytest.raises(Misbehaviour, match="m000 disagrees"):
        lying(made, changes)
    made = bench(10, min_survivors=7)
    made.set_up()
    result = lying(made, changes, attempts=2)
    made.assert_exact(result)
    assert set(result.survivors) == set(made.names[1:])


def test_bad_dealing_is_complained_about(bench: Make) -> None:
    """One holder's sealed shares are garbage: it complains, the pair is named, the round completes."""
    made = bench(10)
    made.set_up()

    def garbage(report: Report) -> Report:
        sealed = list(report.sealed)
        sealed[4] = os.urandom(len(sealed[4]))
        return replace(report, sealed=tuple(sealed))

    result = lying(made, {(Step.REPORT, "m001"): garbage})
    made.assert_exact(result)
    assert {blame.merchants for blame in result.blames} == {("m001", "m004")}


def test_false_complaints_do_not_stop_the_round(bench: Make) -> None:
    made = bench(5)
    made.set_up()

    def complain(answer: Answer) -> Answer:
        return replace(answer, opened=tuple(Opened(True, (), ()) for _ in answer.opened))

    result = lying(made, {(Step.UNMASK, "m000"): complain})
    made.assert_exact(result)
    assert all("m000" in blame.merchants for blame in result.blames)


def test_answers_of_another_form_are_refused(bench: Make) -> None:
    made = bench(5)
    made.set_up()
    log = Log()
    result = lying(
        made,
        {(Step.UNMASK, "m000"): lambda answer: replace(answer, own=(bytes(32),))},
        log,
    )
    made.assert_exact(result)
    assert [name for _, name, _ in log.refusals] == ["m000"]


def test_reports_of_another_form_are_refused(bench: Make) -> None:
    for change in (
        lambda report: replace(report, secrets=report.secrets[:-1], sealed=tuple(s[:-32] for s in report.sealed)),
        lambda report: replace(report, vector=(memoryview(bytes(10)),)),
        lambda report: replace(report, ctx=bytes(32)),
    ):
        made = bench(5)
        made.set_up()
        log = Log()
        result = lying(made, {(Step.REPORT, "m000"): change}, log)
        made.assert_exact(result)
        assert [name for step, name, _ in log.refusals if step is Step.REPORT] == ["m000"]
        assert "m000" not in result.survivors


def test_what_does_not_verify_is_refused_and_named(bench: Make) -> None:
    """Set-up messages in another's name, out of turn, or for another epoch."""
    made = bench(5)
    league = made.league
    setup = league.platform.open_epoch(1, 1)
    first = {name: merchant.announce(setup.opening()) for name, merchant in league.merchants.items()}
    stolen = bytearray(first["m001"])
    stolen[5] = 0
    with pytest.raises(PeerRefused, match="keys of m000"):
        setup.receive_keys(bytes(stolen))
    for keys in first.values():
        setup.receive_keys(keys)
    with pytest.raises(Replayed, match="m000's KEYS came twice"):
        setup.receive_keys(first["m000"])
    bundle = setup.bundle()
    kem = Kem.decode(league.merchants["m000"].encapsulate(bundle))
    with pytest.raises(PeerRefused, match="other merchants"):
        setup.receive_kem(replace(kem, capsules=kem.capsules[:-1]).encode())
    setup.receive_kem(kem.encode())
    for name in made.names[1:]:
        setup.receive_kem(league.merchants[name].encapsulate(bundle))
    deliveries = setup.deliveries()
    ready = Ready.decode(league.merchants["m000"].establish(deliveries["m000"]))
    for forged in (
        replace(ready, index=1),
        replace(ready, epoch_digest=bytes(32)),
        replace(ready, index=200),
    ):
        with pytest.raises(PeerRefused):
            setup.receive_ready(forged.encode())
    setup.receive_ready(ready.encode())
    assert setup.ready == {0}


def test_a_wrong_key_confirmation_is_refused(bench: Make) -> None:
    """A merchant that signs a ciphertext with the MAC of another root is found before the first round."""
    made = bench(3)
    league = made.league
    setup = league.platform.open_epoch(1, 1)
    for merchant in league.merchants.values():
        setup.receive_keys(merchant.announce(setup.opening()))
    bundle = setup.bundle()
    for name, merchant in league.merchants.items():
        kem = Kem.decode(merchant.encapsulate(bundle))
        if name == "m000":
            capsule = replace(kem.capsules[0], mac=bytes(32))
            binding = setup.digest + bytes((0, 1)) + tags.digest(capsule.ciphertext) + capsule.mac
            signed = replace(capsule, signature=league.identities[name].sign(tags.KEM, binding))
            kem = replace(kem, capsules=(signed, *kem.capsules[1:]))
        setup.receive_kem(kem.encode())
    deliveries = setup.deliveries()
    with pytest.raises(PeerRefused, match="m000 derived another pair root"):
        league.merchants["m001"].establish(deliveries["m001"])
    league.merchants["m002"].establish(deliveries["m002"])


def test_a_clone_with_the_same_identity_is_noticed(bench: Make) -> None:
    """Two nodes run under one identity: the one whose keys are not in the bundle stops."""
    made = bench(3)
    league = made.league
    clone = MerchantSession(league.identities["m000"], league.roster, MemoryKeyStore())
    setup = league.platform.open_epoch(1, 1)
    league.merchants["m000"].announce(setup.opening())
    setup.receive_keys(clone.announce(setup.opening()))
    for name in ("m001", "m002"):
        setup.receive_keys(league.merchants[name].announce(setup.opening()))
    with pytest.raises(RequestRefused, match="other keys in this merchant's name"):
        league.merchants["m000"].encapsulate(setup.bundle())
