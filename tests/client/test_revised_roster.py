# SPDX-License-Identifier: Apache-2.0
"""The council revises the roster and the merchant pins the new one: rounds go on, and nothing is used twice."""

from copy import copy
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.cli import main as merchant
from client.council_cli import main as council
from client.enrolment import enrol
from client.errors import Refused
from privacy.secagg.identity import Identity
from privacy.secagg.keystore import MemoryKeyStore
from privacy.secagg.merchant import MerchantSession
from privacy.secagg.platform import PlatformSession
from privacy.secagg.roster import Member, SignedRoster, make_roster, sign_roster
from releases.keys import SigningKey
from tests.client.small import request
from tests.client.test_secure import COUNCIL, RUN, League


@pytest.fixture
def league(small, runtime):
    return League(small, runtime).set_up()


@pytest.fixture
def revised(league, tmp_path, monkeypatch):
    """The same league without `zenith`; its roster is signed and not pinned yet."""
    monkeypatch.chdir(tmp_path)
    SigningKey(Ed25519PrivateKey.from_private_bytes(COUNCIL.secret_bytes())).save(tmp_path / "council.pem")
    (tmp_path / "first.bin").write_bytes(sign_roster(league.roster, [COUNCIL]))
    assert council(["revise", "first.bin", "--remove", "zenith", "--out", "next.bin"]) == 0
    assert council(["sign", "next.bin", "--key", "council.pem"]) == 0
    made = copy(league)
    made.roster = SignedRoster.decode((tmp_path / "next.bin").read_bytes()).roster()
    made.sessions = {
        name: MerchantSession(identity, made.roster, MemoryKeyStore())
        for name, identity in league.others.items()
        if name != "zenith"
    }
    made.platform = PlatformSession(made.roster, RUN)
    return made


def pin(league, path):
    assert merchant(["pin", str(league.small.home), "--roster", path, "--council", COUNCIL.public.hex()]) == 0


def reported(league, asked):
    round_, opening = league.open(asked)
    round_.receive_report(league.worker().answer(opening).secagg)
    league.others_report(round_, asked)
    return round_


def question(league, number):
    return replace(request(league.runtime), round=number)


def state(league):
    return league.small.home / "secagg" / f"state-{league.roster.digest.hex()}.bin"


def test_after_a_revision_and_its_pin_the_next_round_works_and_nothing_is_deleted(league, revised):
    league.finish(reported(league, question(league, 1)))
    before = state(league).read_bytes()
    pin(league, "next.bin")
    revised.set_up()
    assert len(revised.finish(reported(revised, question(league, 2))).survivors) == 4
    assert state(revised).exists()
    assert state(league).read_bytes() == before


def test_a_roster_that_is_pinned_again_goes_on_where_it_stood(league, revised):
    old = league.open(question(league, 1))[1]
    league.worker().answer(old)
    pin(league, "next.bin")
    revised.set_up()
    revised.finish(reported(revised, question(league, 2)))
    pin(league, "first.bin")
    with pytest.raises(Refused, match="is not after round 1 attempt 0"):
        league.worker().answer(old)
    with pytest.raises(Refused, match="epoch 1 is not after epoch 1"):
        league.ask(PlatformSession(league.roster, RUN).open_epoch(1, 2).opening())
    assert len(league.finish(reported(league, question(league, 3))).survivors) == 5


def test_a_round_that_stood_confirmed_under_the_former_roster_opens_no_second_list(league, revised):
    asked = question(league, 1)
    round_ = reported(league, asked)
    survivors = round_.survivors()
    round_.receive_confirmation(league.ask(survivors))
    for session in league.sessions.values():
        round_.receive_confirmation(session.confirm(survivors))
    pin(league, "next.bin")
    revised.set_up()
    revised.finish(reported(revised, asked))
    pin(league, "first.bin")
    with pytest.raises(Refused, match="answered before over other survivors"):
        league.ask(round_.certificates()["north"])


def test_a_name_that_passed_to_another_key_is_another_survivor(league, revised, tmp_path):
    """Its vector is another's: the same names summed twice would show the difference of both."""
    asked = question(league, 1)
    league.finish(reported(league, asked))
    heirs = league.others | {"zenith": Identity.generate()}
    keys = {"north": enrol(league.small.home).public} | {name: heir.public for name, heir in heirs.items()}
    revised.roster = make_roster("small", [Member(*each) for each in keys.items()], serial=3)
    revised.sessions = {
        name: MerchantSession(identity, revised.roster, MemoryKeyStore()) for name, identity in heirs.items()
    }
    revised.platform = PlatformSession(revised.roster, RUN)
    (tmp_path / "heir.bin").write_bytes(sign_roster(revised.roster, [COUNCIL]))
    pin(revised, "heir.bin")
    revised.set_up()
    with pytest.raises(Refused, match="answered before over other survivors"):
        revised.finish(reported(revised, asked))
