# SPDX-License-Identifier: Apache-2.0
"""A platform that swaps keys, adds members or splits a set-up.

Labels as in docs/secure-aggregation.md §13; each test fails if the attack works.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from privacy.secagg import keys, tags
from privacy.secagg.errors import (
    PeerRefused,
    Replayed,
    RequestRefused,
    RosterRefused,
)
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Member, open_roster, sign_roster
from privacy.secagg.setup_messages import Bundle, Delivery, Keys

Make = Callable[..., Any]


# --- S4, A2: keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["x25519", "mlkem", "signature"])
def test_s4_a2_key_substitution(bench: Make, field: str) -> None:
    made = bench(5)
    _, bundle = made.announced()
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
    _, bundle = made.announced()
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
    setup, bundle = made.announced()
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
    _, bundle = made.announced()
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
    setup, bundle = made.announced()
    one, two = Bundle(bundle.keys[:8]), Bundle(bundle.keys[2:])
    league = made.league
    league.merchants["m000"].encapsulate(one.encode())
    league.merchants["m009"].encapsulate(two.encode())
    with pytest.raises(Replayed, match="a step is taken once"):
        league.merchants["m000"].encapsulate(two.encode())
    made_digest = {name: league.merchants[name]._state.pending.bundle for name in ("m000", "m009")}
    assert made_digest["m000"] != made_digest["m009"]
    assert setup.announced() == tuple(made.names)
