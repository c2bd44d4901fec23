# SPDX-License-Identifier: Apache-2.0
"""`hansa council` as people call it: from enrolments to a roster that merchants pin."""

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.cli import main as merchant
from client.council_cli import main as council
from client.enrolment import open_pinned, pin_roster
from client.home import open_home
from privacy.integer_update import check_roster
from privacy.plan import PrivacyRequest, calibrate
from privacy.secagg.enrolment import enrolment
from privacy.secagg.errors import RosterRefused
from privacy.secagg.identity import Identity
from privacy.secagg.roster import SignedRoster, open_roster
from releases.keys import SigningKey
from tests.flow.conftest import ROOT

GOLDEN = ROOT / "tests" / "vectors" / "secagg" / "signed_roster.json"


def secret(number):
    return bytes([number]) * 32


def enrolled(name, number):
    return enrolment(name, Identity(secret(number))) + "\n"


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Where the council sits: two keys and the enrolments of four merchants, one name with a blank."""
    monkeypatch.chdir(tmp_path)
    for number, name in ((101, "anna"), (102, "bert")):
        SigningKey(Ed25519PrivateKey.from_private_bytes(secret(number))).save(tmp_path / f"{name}.pem")
    lines = [enrolled(name, number) for number, name in enumerate(["west", "east", "far off"])]
    (tmp_path / "three.txt").write_text("".join(lines) + "\n")
    (tmp_path / "north.txt").write_text(enrolled("north", 9))
    return tmp_path


def make(*more, out="roster.bin"):
    return council(["roster", "--league", "small", "three.txt", "north.txt", "--out", out, *more])


def roster_of(path):
    return SignedRoster.decode(path.read_bytes()).roster()


def test_a_roster_goes_from_enrolments_over_two_signatures_to_a_merchants_pin(small, table, capsys):
    assert merchant(["enrol", str(small.home)]) == 0
    (table / "north.txt").write_text(capsys.readouterr().out)
    assert make() == 0
    for key in ("anna", "bert"):
        assert council(["sign", "roster.bin", "--key", f"{key}.pem"]) == 0
    public = [Identity(secret(n)).public.hex() for n in (101, 102)]
    assert council(["show", "roster.bin", "--council", *public, "--signatures", "2"]) == 0
    assert (
        merchant(["pin", str(small.home), "--roster", "roster.bin", "--council", *public, "--signatures", "2"])
        == 0
    )
    pinned = open_pinned(open_home(small.home))
    assert pinned.digest.hex() in capsys.readouterr().out
    assert [member.name for member in pinned.members] == ["east", "far off", "north", "west"]
    assert (pinned.threshold, pinned.colluders, pinned.min_survivors, pinned.bound) == (3, 1, 3, 16.0)


def test_an_enrolment_that_holds_nothing_is_named_and_not_left_out_in_silence(table, capsys):
    (table / "north.txt").write_text("\n")
    assert make() == 2
    assert "north.txt: found nothing" in capsys.readouterr().err
    assert not (table / "roster.bin").exists()


def test_the_signed_file_is_the_golden_one(table):
    make()
    for key in ("anna", "bert"):
        council(["sign", "roster.bin", "--key", f"{key}.pem"])
    written = (table / "roster.bin").read_bytes()
    golden = json.loads(GOLDEN.read_text())
    assert written.hex() == golden["signed"]
    assert roster_of(table / "roster.bin").digest.hex() == golden["digest"]
    assert hashlib.sha256(SignedRoster.decode(written).encoded).hexdigest() == golden["digest"]


def test_a_new_key_is_shut_to_others_and_never_overwritten(table, capsys):
    (table / "words").write_text("correct horse battery")
    assert council(["key", "carl.pem", "--passphrase-file", "words", "--json"]) == 0
    public = json.loads(capsys.readouterr().out)["public"]
    assert (table / "carl.pub").read_text() == f"{public}\n"
    assert (table / "carl.pem").stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in (table / "carl.pem").read_bytes()
    before = (table / "carl.pem").read_bytes()
    assert council(["key", "carl.pem"]) == 2
    assert (table / "carl.pem").read_bytes() == before
    make()
    assert council(["sign", "roster.bin", "--key", "carl.pem"]) == 2
    assert "needs a passphrase" in capsys.readouterr().err
    assert council(["sign", "roster.bin", "--key", "carl.pem", "--passphrase-file", "words"]) == 0
    assert council(["key", "dora.pub"]) == 2
    assert not (table / "dora.pub").exists()


def test_signers_see_the_digest_and_who_signed_before_them(table, capsys):
    make()
    capsys.readouterr()
    assert council(["show", "roster.bin"]) == 0
    said = capsys.readouterr().out
    assert roster_of(table / "roster.bin").digest.hex() in said
    assert "nobody" in said
    council(["sign", "roster.bin", "--key", "anna.pem"])
    capsys.readouterr()
    assert council(["show", "roster.bin", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["signed_by"] == [Identity(secret(101)).public.hex()]
    assert f"north {Identity(secret(9)).public.hex()}" in report["members"]
    assert council(["sign", "roster.bin", "--key", "anna.pem"]) == 2
    assert "has signed already" in capsys.readouterr().err


def test_a_roster_that_merchants_would_refuse_is_never_written(table, capsys):
    (table / "twin.txt").write_text(enrolled("twin", 9))
    (table / "short.txt").write_text("\n" + enrolled("short", 8)[:-5])
    (table / "bare.txt").write_text(f"north {Identity(secret(9)).public.hex()}\n")
    (table / "raw.txt").write_bytes(b"\xff\xfe")
    cases = {
        "2t > N": ["--colluders", "4"],
        "c >= 1": ["--colluders", "0"],
        "n_min": ["--min-survivors", "5"],
        "wrap around": ["--scale-log2", "30"],
        "finite bound": ["--bound", "nan"],
        "scale": ["--bound", "-1"],
        "lower the bound": ["--bound", "1e12"],
        "fit their fields": ["--serial", "-1"],
        "a key of its own": ["twin.txt"],
        "distinct names": ["three.txt"],
        "short.txt, line 2: expected 128 hex digits": ["short.txt"],
        "bare.txt, line 1: expected a line": ["bare.txt"],
        "raw.txt: not a text": ["raw.txt"],
        "none.txt: No such file": ["none.txt"],
    }
    for reason, more in cases.items():
        files = ["three.txt", "north.txt", *[name for name in more if name.endswith(".txt")]]
        options = [name for name in more if not name.endswith(".txt")]
        assert council(["roster", "--league", "small", *files, "--out", "bad.bin", *options]) == 2, reason
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert reason in lines[0]
    assert council(["roster", "--league", "small", "north.txt", "--out", "bad.bin"]) == 2
    assert "found 1; masked sums need three" in capsys.readouterr().err
    assert not (table / "bad.bin").exists()


def test_nobody_is_in_a_new_roster_without_a_proof_that_it_holds_its_key(table, capsys):
    make()
    line = enrolled("north", 9).replace("north", "mallory")
    (table / "stolen.txt").write_text(line)
    new = ["roster", "--league", "small", "three.txt", "stolen.txt", "--out", "bad.bin"]
    revised = ["revise", "roster.bin", "--remove", "north", "--add", "stolen.txt", "--out", "bad.bin"]
    for command in (new, revised):
        capsys.readouterr()
        assert council(command) == 2
        assert "stolen.txt, line 1: mallory and its key are not signed by that key" in capsys.readouterr().err
        assert not (table / "bad.bin").exists()


def test_a_roster_is_never_written_over_another(table, capsys):
    make()
    before = (table / "roster.bin").read_bytes()
    assert make("--serial", "2") == 2
    assert "a file is here already" in capsys.readouterr().err
    assert (table / "roster.bin").read_bytes() == before


def test_a_signature_is_added_only_to_a_roster_whose_other_signatures_all_hold(table, capsys):
    make()
    council(["sign", "roster.bin", "--key", "anna.pem"])
    altered = (table / "roster.bin").read_bytes().replace(b"north", b"n0rth")
    (table / "roster.bin").write_bytes(altered)
    for command in (["sign", "roster.bin", "--key", "bert.pem"], ["show", "roster.bin"]):
        capsys.readouterr()
        assert council(command) == 2
        assert "does not verify" in capsys.readouterr().err
    assert (table / "roster.bin").read_bytes() == altered


def test_show_checks_as_a_merchant_with_these_keys_does(table, capsys):
    make()
    council(["sign", "roster.bin", "--key", "anna.pem"])
    anna, bert = (Identity(secret(n)).public.hex() for n in (101, 102))
    assert council(["show", "roster.bin", "--council", anna]) == 0
    assert council(["show", "roster.bin", "--council", anna, bert, "--signatures", "2"]) == 2
    assert "expected 2 signatures of the council, found 1" in capsys.readouterr().err
    assert council(["show", "roster.bin", "--council", "beef"]) == 2
    assert "64 hex digits" in capsys.readouterr().err


def test_a_revision_counts_on_and_keeps_what_is_not_given(table, capsys):
    make("--scale-log2", "16", "--bound", "4")
    (table / "south.txt").write_text(enrolled("south", 10))
    revise = ["revise", "roster.bin", "--add", "south.txt", "--remove", "far off", "--out", "next.bin"]
    assert council([*revise, "--min-survivors", "4"]) == 0
    made = roster_of(table / "next.bin")
    assert [member.name for member in made.members] == ["east", "north", "south", "west"]
    assert (made.serial, made.scale_log2, made.bound, made.min_survivors) == (2, 16, 4.0, 4)
    assert SignedRoster.decode((table / "next.bin").read_bytes()).signatures == ()
    capsys.readouterr()
    assert council(["revise", "roster.bin", "--remove", "nobody", "--out", "other.bin"]) == 2
    assert "--remove nobody: not in this roster" in capsys.readouterr().err


def test_a_roster_for_shared_noise_promises_what_the_plan_counts_on(table):
    """The example of docs/secure-aggregation.md, §2."""
    request = PrivacyRequest(
        *("distributed", 8.0, 1e-5, 10, 1, 0.1, 1.0),
        cohort=4, dropouts=1, colluders=1, coordinates=1000, scale_log2=16,
    )  # fmt: skip
    plan = calibrate(request)
    make("--min-survivors", "3", "--colluders", "1", "--scale-log2", "16")
    check_roster(plan, roster_of(table / "roster.bin"))


def test_a_roster_without_signatures_is_pinned_by_nobody(small, table):
    make()
    with pytest.raises(RosterRefused, match="found 0"):
        pin_roster(small.home, (table / "roster.bin").read_bytes(), [Identity(secret(101)).public], 1)
    with pytest.raises(RosterRefused, match="found 0"):
        open_roster(
            (table / "roster.bin").read_bytes(),
            council=[Identity(secret(101)).public],
            signatures_needed=1,
            pin=None,
        )
