# SPDX-License-Identifier: Apache-2.0
"""The line that a merchant gives to the council: frozen, and refused wherever it proves nothing [R0]."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg import errors, tags, wire
from privacy.secagg.enrolment import FORMAT, enrolment, read_enrolment
from privacy.secagg.errors import Malformed, PeerRefused, SecAggError
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Member

GOLDEN = json.loads((Path(__file__).parents[2] / "vectors" / "secagg" / "enrolment.json").read_text())
MALLORY, VICTIM = Identity(b"m" * 32), Identity(b"v" * 32)


def test_the_line_is_the_golden_one() -> None:
    for vector in GOLDEN["good"]:
        identity = Identity(bytes.fromhex(vector["secret"]))
        assert enrolment(vector["name"], identity) == vector["line"]
        assert read_enrolment(vector["line"]) == Member(vector["name"], identity.public)


@pytest.mark.parametrize("vector", GOLDEN["bad"], ids=lambda vector: vector["about"])
def test_a_bad_line_is_refused_with_the_error_that_must_follow(vector: dict[str, str]) -> None:
    with pytest.raises(getattr(errors, vector["error"])):
        read_enrolment(vector["line"])


def line(name: str, key: bytes, signature: bytes) -> str:
    return f"{FORMAT} {name} {key.hex()} {signature.hex()}"


def test_nobody_enrols_a_key_that_it_does_not_hold() -> None:
    said = tags.ENROLMENT, wire.string("mallory"), VICTIM.public
    theirs = bytes.fromhex(enrolment("victim", VICTIM).split()[-1])
    other_uses = [VICTIM.sign(tag, wire.string("mallory"), VICTIM.public) for tag in tags.ALL[1:]]
    for signature in (MALLORY.sign(*said), theirs, bytes(64), *other_uses):
        with pytest.raises(PeerRefused, match="mallory and its key are not signed by that key"):
            read_enrolment(line("mallory", VICTIM.public, signature))


def test_an_enrolment_signed_under_one_name_is_refused_under_any_other() -> None:
    signed = enrolment("far off", VICTIM)
    assert read_enrolment(f"  {signed}\r\n").name == "far off"
    for name in ("far", "far  off", "off", "Far off", "far off x"):
        with pytest.raises(PeerRefused):
            read_enrolment(signed.replace("far off", name))


@pytest.mark.parametrize(
    "name", ["", " north", "north ", "no\nrth", "no\u2028rth", "n\x1b[31m", "\ud800", "é" * 101]
)
def test_a_name_that_no_line_can_hold_is_refused(name: str) -> None:
    with pytest.raises(Malformed, match="expected a name"):
        enrolment(name, VICTIM)


@pytest.mark.parametrize("place", [1, 2, 3])
def test_what_is_said_of_a_line_is_short_however_long_the_line_is(place: int) -> None:
    fields = enrolment("north", VICTIM).split()
    fields[place] *= 10_000
    with pytest.raises(Malformed) as refused:
        read_enrolment(" ".join(fields))
    assert len(str(refused.value)) < 1000


@given(st.text(max_size=80), st.text("0123456789abcdef ", min_size=60, max_size=300))
def test_reading_a_line_gives_a_member_or_raises_whatever_the_text(start: str, end: str) -> None:
    for text in (start, start + end, f"{FORMAT} {start} {end}"):
        with pytest.raises(SecAggError):
            read_enrolment(text)
