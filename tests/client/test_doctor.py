# SPDX-License-Identifier: Apache-2.0
"""`hansa doctor` as people call it: what stands between a home and the next round, all at once."""

import json
import os
import time

import polars as pl
import pytest

from client.doctor import main as doctor
from client.enrolment import enrol, pin_roster
from data.catalogue import build_vocabulary
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Member, make_roster, sign_roster
from tests.client.small import CANARY, POLICY, SECRET, TRAIN_UNTIL, catalogue, request

COUNCIL = Identity(bytes(range(32)))


def examined(small, capsys):
    """Exit code, and what was found as (check, state, words, remedy)."""
    code = doctor([str(small.home), "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    return code, [(check["name"], check["state"], check["found"], check["remedy"]) for check in checks]


def of(name, checks):
    return [check[1:] for check in checks if check[0] == name]


def seated(small, others=4):
    """The home with a pinned roster of so many others."""
    members = [Member(f"other-{n}", Identity.generate().public) for n in range(others)]
    roster = make_roster("small", [*members, Member("north", enrol(small.home).public)], bound=8.0)
    pin_roster(small.home, sign_roster(roster, [COUNCIL]), [COUNCIL.public], 1)


def policy(small, *lines):
    (small.home / "policy.toml").write_text("\n".join(lines))


def test_doctor_finds_a_sound_home_sound_and_nothing_of_the_home_is_changed(small, capsys):
    before = {path: path.read_bytes() for path in small.home.rglob("*") if path.is_file()}
    assert doctor([str(small.home), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == "hansa.doctor/1"
    assert report["sound"] is True
    names = {check["name"] for check in report["checks"]}
    assert names == {
        "settings", "secret", "policy", "seat", "clock", "ledger", "disk", "events", "vocabulary", "device"
    }  # fmt: skip
    assert {path: path.read_bytes() for path in small.home.rglob("*") if path.is_file()} == before
    assert doctor([str(small.home)]) == 0
    assert "sound" in capsys.readouterr().out


def test_every_check_runs_whatever_the_others_found_and_no_line_quotes_a_cell_or_the_secret(
    small, runtime, capsys
):
    small.worker(runtime).answer(request(runtime))
    events = pl.read_parquet(small.events)
    events.with_columns(event=pl.lit("steal"), user_id=pl.lit(f" {CANARY}")).write_parquet(small.events)
    (small.home / "secret.key").chmod(0o644)
    (small.home / "policy.toml").write_text("trust = true")
    path = small.home / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":2'))
    (small.home / "merchant.toml").chmod(0o666)
    (small.home / "runtime.json").write_text("{}")
    os.utime(small.home / "merchant.toml", (time.time() + 9e4,) * 2)
    assert doctor([str(small.home), "--json"]) == 1
    text = capsys.readouterr().out
    bad = {check["name"] for check in json.loads(text)["checks"] if check["state"] == "bad"}
    assert bad == {"settings", "secret", "policy", "clock", "ledger", "events", "vocabulary", "device"}
    assert doctor([str(small.home)]) == 1
    text += capsys.readouterr().out
    assert CANARY not in text
    assert SECRET.hex() not in text


def test_doctor_tells_of_items_that_the_league_does_not_know(small, capsys):
    events = pl.read_parquet(small.events)
    events.with_columns(item_id=pl.lit("own-") + pl.col("item_id")).write_parquet(small.events)
    assert doctor([str(small.home), "--json"]) == 1
    found = [check["found"] for check in json.loads(capsys.readouterr().out)["checks"]]
    assert any("knows 0% of this merchant's 12 items" in text for text in found)
    assert any("nothing to train on" in text for text in found)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("max_epsilon = 0", "max_epsilon must be a number > 0"),
        ("modes = []", "modes must be of"),
        ('modes = ["merchant"]', "mode merchant protects the unit merchant"),
        ('units = ["merchant"]', "mode merchant protects the unit merchant"),
        ('tasks = ["telepathy"]', "task 'recommendation' is not among ['telepathy']"),
        ("max_epsilon = 1e-9", "epsilon"),
    ],
)
def test_doctor_finds_a_policy_that_refuses_every_plan(small, capsys, line, word):
    seated(small)
    policy(small, "" if "modes" in line else 'modes = ["local"]', line)
    assert doctor([str(small.home), "--json"]) == 1
    bad = [check for check in json.loads(capsys.readouterr().out)["checks"] if check["state"] == "bad"]
    assert [check["name"] for check in bad] == ["policy"]
    assert word in bad[0]["found"]


@pytest.mark.parametrize(
    ("mode", "unit"),
    [
        ("none", "user_merchant"),
        ("local", "user_merchant"),
        ("local", "home_user"),
        ("distributed", "user_merchant"),
        ("merchant", "merchant"),
    ],
)
def test_doctor_finds_a_policy_that_allows_one_mode_and_its_unit_sound(small, capsys, mode, unit):
    seated(small)
    policy(small, f'modes = ["{mode}"]', f'units = ["{unit}"]')
    assert doctor([str(small.home), "--json"]) == 0


def test_doctor_finds_weeks_in_which_nobody_bought_and_no_release_could_be_judged(small, capsys):
    events = pl.read_parquet(small.events)
    events.filter(pl.col("timestamp") < TRAIN_UNTIL).write_parquet(small.events)
    assert doctor([str(small.home), "--json"]) == 1
    bad = [check for check in json.loads(capsys.readouterr().out)["checks"] if check["state"] == "bad"]
    assert [check["name"] for check in bad] == ["vocabulary"]
    assert "nothing judges a release" in bad[0]["found"]


def test_doctor_without_a_home_ends_with_2(tmp_path, capsys):
    assert doctor([str(tmp_path / "none")]) == 2
    assert "hansa merchant init" in capsys.readouterr().err


def test_a_policy_that_requires_masks_is_not_sound_before_the_merchant_is_enrolled_and_has_pinned(small, capsys):
    policy(small, "")
    code, checks = examined(small, capsys)
    ((state, found, remedy),) = of("seat", checks)
    assert (code, state) == (1, "bad")
    assert "not enrolled" in found
    assert remedy.startswith(f"hansa merchant enrol {small.home}")
    enrol(small.home)
    code, checks = examined(small, capsys)
    ((state, found, remedy),) = of("seat", checks)
    assert (code, state) == (1, "bad")
    assert "no roster is pinned" in found
    assert remedy.startswith(f"hansa merchant pin {small.home} --roster")
    (small.home / "secagg" / "identity.key").unlink()
    seated(small)
    code, checks = examined(small, capsys)
    assert (code, of("seat", checks)) == (0, [("good", "one of 5 merchants of league small, roster 1", "")])


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("min_cohort = 6", "min_cohort = 6, but the roster has 5 merchants"),
        ("min_survivors = 5", "policy asks for sums over at least 5 merchants"),
        ("min_colluders = 4", "policy asks to withstand 4 colluders"),
    ],
)
def test_a_roster_that_promises_less_than_the_policy_asks_is_found(small, capsys, line, word):
    seated(small)
    policy(small, line)
    code, checks = examined(small, capsys)
    assert code == 1
    assert any(state == "bad" and word in found for state, found, _ in of("seat", checks))


def test_a_policy_that_takes_answers_in_clear_needs_no_seat(small, capsys):
    code, checks = examined(small, capsys)
    assert code == 0
    assert [state for state, *_ in of("seat", checks)] == ["note"]
    policy(small, 'modes = ["distributed"]', "secure_aggregation_required = false")
    code, checks = examined(small, capsys)
    assert [state for state, *_ in of("seat", checks)] == ["bad"], "shared noise leaves under masks alone"


def test_a_vocabulary_is_held_against_min_carriers(small, capsys):
    policy(small, POLICY, "min_carriers = 4")
    code, checks = examined(small, capsys)
    bad = [found for state, found, _ in of("vocabulary", checks) if state == "bad"]
    assert (code, bad) == (1, ["its items are those of 3 merchants, min_carriers = 4: every round is refused"])
    build_vocabulary(catalogue()).save(small.folder / "vocabulary.parquet")
    code, checks = examined(small, capsys)
    assert code == 0
    assert any(state == "note" and "nobody counted yet" in found for state, found, _ in of("vocabulary", checks))


def test_events_of_several_merchants_are_one_finding_and_not_called_sound(small, capsys):
    several = pl.read_csv(small.folder / "events.csv", infer_schema=False)
    several.write_parquet(small.events)
    code, checks = examined(small, capsys)
    assert code == 1
    assert [(state, found) for state, found, _ in of("events", checks)] == [
        ("bad", "The events are the rows of 2 merchants. Give the rows of this merchant alone.")
    ]
    assert [name for name, state, *_ in checks if state == "bad"] == ["events"]


def test_a_merchant_that_is_nobodys_home_is_sound_without_rows_and_no_other_is(small, capsys):
    pl.read_parquet(small.events).clear().write_parquet(small.events)
    code, checks = examined(small, capsys)
    assert code == 1
    assert [state for state, *_ in of("events", checks)] == ["bad"]
    policy(small, POLICY, 'units = ["home_user"]')
    code, checks = examined(small, capsys)
    assert code == 0
    ((state, found, _),) = of("events", checks)
    assert state == "note"
    assert "nobody's home" in found
