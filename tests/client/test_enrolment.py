# SPDX-License-Identifier: Apache-2.0
"""A merchant's identity and pin, as its engineer makes them."""

import pytest

from client.cli import main
from client.enrolment import enrol, open_pinned
from client.errors import HomeError
from client.home import open_home
from privacy.secagg.enrolment import read_enrolment
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Member, make_roster, sign_roster

COUNCIL = Identity(bytes(range(32)))


def test_an_identity_is_made_once_and_enrolling_again_gives_the_same_one(small):
    path = small.home / "secagg" / "identity.key"
    first, before = enrol(small.home).public, path.read_bytes()
    assert enrol(small.home).public == enrol(small.home, bytes(32)).public == first
    assert path.read_bytes() == before
    path.write_bytes(b"short")
    with pytest.raises(HomeError, match="expected 32 bytes"):
        enrol(small.home)
    assert path.read_bytes() == b"short"


def test_a_merchant_enrols_and_pins_from_the_command_line(small, capsys, tmp_path):
    assert main(["enrol", str(small.home)]) == 0
    said = capsys.readouterr()
    assert main(["enrol", str(small.home)]) == 0
    assert capsys.readouterr() == said
    members = [
        read_enrolment(said.out),
        *(Member(n, Identity.generate().public) for n in ("east", "west")),
    ]
    roster = make_roster("small", members)
    (tmp_path / "roster.bin").write_bytes(sign_roster(roster, [COUNCIL]))
    pin = ["pin", str(small.home), "--roster", str(tmp_path / "roster.bin"), "--council"]
    assert main([*pin, COUNCIL.public.hex()]) == 0
    assert roster.digest.hex() in capsys.readouterr().out
    assert open_pinned(open_home(small.home)).digest == roster.digest
    assert main([*pin, Identity.generate().public.hex()]) == 2
    assert "signatures of the council" in capsys.readouterr().err
    assert main([*pin, "beef"]) == 2
