# SPDX-License-Identifier: Apache-2.0
"""The ledger under crashes, tampering, races and budgets."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accountant import GaussianEvent, SampledGaussianEvent, epsilon, event_to_dict
from privacy.errors import BudgetExceeded, LedgerError, LedgerTampered, OtherUnit
from privacy.ledger import Head, Ledger
from privacy.ledger_records import append_to
from privacy.plan import PrivacyRequest, calibrate
from privacy.policy import Policy

ROOT = Path(__file__).parents[2]
EVENTS = (SampledGaussianEvent(1.0, 0.1, 10),)
DIGEST, OTHER = "0" * 64, "1" * 64


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "ledger.jsonl"


def filled(path, rounds=4):
    ledger = Ledger(path)
    for r in range(1, rounds + 1):
        ledger.spend(ledger.reserve(EVENTS, run="a", round=r), DIGEST)
    return ledger


def test_reserve_then_spend(path):
    ledger = Ledger(path)
    reservation = ledger.reserve((GaussianEvent(4.0), *EVENTS), run="a", round=1)
    assert not reservation.spent
    assert ledger.spend(reservation, DIGEST).spent
    assert ledger.spend(reservation, DIGEST).spent, "spending the same bytes again changes nothing"
    assert ledger.epsilon(1e-5) == epsilon((GaussianEvent(4.0), *EVENTS), 1e-5)
    assert ledger.completed("a", 1) == ledger.reservations()[0]
    assert ledger.completed("a", 2) is None
    assert Ledger(path).reservations() == ledger.reservations()
    assert ledger.verify(ledger.head()) == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_reservation_that_never_completed_counts_as_spent(path):
    Ledger(path).reserve(EVENTS, run="a", round=1)
    ledger = Ledger(path)
    assert ledger.epsilon(1e-5) == epsilon(EVENTS, 1e-5)
    budget = ledger.left(Policy(max_epsilon=4.0))
    assert (budget.spent, budget.with_reserved) == (0.0, epsilon(EVENTS, 1e-5))
    assert budget.left == pytest.approx(4.0 - epsilon(EVENTS, 1e-5))


CRASH = """
import sys
from privacy.accountant import SampledGaussianEvent
from privacy.ledger import Ledger
Ledger(sys.argv[1]).reserve((SampledGaussianEvent(1.0, 0.1, 10),), run="a", round=1)
print("reserved", flush=True)
sys.stdin.read()
"""


def test_survives_kill_between_reserve_and_spend(path):
    with subprocess.Popen(
        [sys.executable, "-c", CRASH, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "reserved\n"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        process.stdin.close()
    ledger = Ledger(path)
    assert len(ledger.reservations()) == 1
    assert ledger.epsilon(1e-5) == epsilon(EVENTS, 1e-5)
    again = ledger.reserve(EVENTS, run="a", round=1)
    assert again.number == 1, "a repetition with fresh noise is counted again"
    assert ledger.epsilon(1e-5) == epsilon(EVENTS * 2, 1e-5)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_torn_last_line_after_a_crash_is_recovered_without_under_counting(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("home") / "ledger.jsonl"
    ledger = filled(path, 2)
    before, held = path.stat().st_size, ledger.epsilon(1e-5)
    ledger.reserve(EVENTS, run="a", round=3)
    whole = path.read_bytes()
    cut = data.draw(st.integers(before + 1, len(whole)))
    path.write_bytes(whole[:cut])
    recovered = Ledger(path)
    assert recovered.epsilon(1e-5) >= held
    if cut >= len(whole) - 1:  # only the newline is missing, or nothing
        assert len(recovered.reservations()) == 3
    assert recovered.verify() in (5, 6)
    recovered.reserve(EVENTS, run="a", round=4)
    assert Ledger(path).verify() == recovered.verify()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_verify_finds_every_edit_deletion_insertion_and_reorder(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("home") / "ledger.jsonl"
    ledger = filled(path)
    head = ledger.head()
    original = path.read_bytes()
    lines = original.splitlines(keepends=True)
    kind = data.draw(st.sampled_from(["byte", "delete", "swap", "repeat"]))
    at = data.draw(st.integers(0, len(lines) - 2))
    if kind == "byte":
        where = data.draw(st.integers(0, len(original) - 2))
        changed = bytearray(original)
        changed[where] ^= data.draw(st.integers(1, 255))
        path.write_bytes(changed)
    else:
        order = {
            "delete": [*lines[:at], *lines[at + 1 :]],
            "swap": [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]],
            "repeat": [*lines[: at + 1], *lines[at:]],
        }[kind]
        path.write_bytes(b"".join(order))
    with pytest.raises(LedgerTampered):
        Ledger(path).verify(head)


def test_a_lowered_cost_with_a_fresh_hash_breaks_the_chain(path):
    ledger = filled(path)
    lines = path.read_text("utf-8").splitlines()
    forged = json.loads(lines[0])
    forged["body"]["events"] = []
    path.write_text("\n".join([json.dumps(forged), *lines[1:]]) + "\n", "utf-8")
    with pytest.raises(LedgerTampered, match="line 1"):
        Ledger(path)
    with pytest.raises(LedgerTampered):
        ledger.verify()


def test_a_cut_at_the_end_is_found_only_against_a_head_kept_elsewhere(path):
    ledger = filled(path)
    head = ledger.head()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    shortened = Ledger(path)
    shortened.verify()
    with pytest.raises(LedgerTampered, match="cut back"):
        shortened.verify(head)
    with pytest.raises(LedgerTampered, match="shrank"):
        ledger.epsilon(1e-5)


def test_a_cut_and_rewritten_tail_is_found_against_the_head(path):
    ledger = filled(path)
    head = ledger.head()
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    rewritten = Ledger(path)
    for r in range(9):
        rewritten.reserve((GaussianEvent(1000.0),), run="a", round=r)
    with pytest.raises(LedgerTampered, match="rewritten"):
        rewritten.verify(head)


def test_an_empty_ledger_verifies(path):
    ledger = Ledger(path)
    assert ledger.head() == Head()
    assert ledger.verify(Head()) == 0
    assert ledger.epsilon(1e-5) == 0


def test_over_budget_means_refusal_and_a_refused_reservation_leaves_no_trace_in_the_budget(path):
    ledger, policy = Ledger(path), Policy(max_epsilon=4.0)
    allowed = ledger.rounds_left(EVENTS, policy)
    for r in range(allowed):
        ledger.reserve(EVENTS, run="a", round=r, policy=policy)
    size = path.stat().st_size
    with pytest.raises(BudgetExceeded, match="allowed is") as refused:
        ledger.reserve(EVENTS, run="b", round=0, policy=policy)
    assert "epsilon" in refused.value.reason
    assert path.stat().st_size == size
    assert ledger.rounds_left(EVENTS, policy) == 0
    assert ledger.epsilon(1e-5) <= 4.0 < epsilon(EVENTS * (allowed + 1), 1e-5)


def test_the_same_release_is_counted_once_only_while_its_bytes_stay_the_same(path):
    ledger = Ledger(path)
    first = ledger.reserve(EVENTS, run="a", round=1, inputs_digest=DIGEST)
    assert Ledger(path).reserve(EVENTS, run="a", round=1, inputs_digest=DIGEST) == first
    ledger.spend(first, DIGEST)
    assert ledger.reserve(EVENTS, run="a", round=1, inputs_digest=DIGEST).number == first.number
    with pytest.raises(LedgerError, match="other bytes"):
        ledger.spend(first, OTHER)
    assert ledger.reserve(EVENTS, run="a", round=1, inputs_digest=OTHER).number != first.number
    with pytest.raises(LedgerError, match="must cover the plan"):
        ledger.reserve(EVENTS * 2, run="a", round=1, inputs_digest=DIGEST)
    assert ledger.epsilon(1e-5) == epsilon(EVENTS * 2, 1e-5)


@pytest.mark.parametrize("slack", [0.0, 1e-12])
def test_a_run_at_the_policys_last_digit_fits_and_one_beyond_it_does_not(path, slack):
    request = PrivacyRequest("distributed", 3.0, 1e-5, 3, 1, 0.25, 1.0, cohort=10, colluders=1, coordinates=100)
    plan = calibrate(request)
    cost = epsilon(plan.events, plan.delta)
    policy, ledger = Policy(max_epsilon=cost * (1 - slack)), Ledger(path)

    def run():
        for r in range(1, plan.rounds + 1):
            ledger.reserve(plan.release_events("training"), run="a", round=r, policy=policy)

    if slack:
        with pytest.raises(BudgetExceeded):
            run()
    else:
        run()
        assert ledger.epsilon(1e-5) == cost
    assert ledger.left(policy).with_reserved <= policy.max_epsilon


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        (("user_merchant", 1), ("merchant", 1)),
        (("merchant", 1), ("user_merchant", 1)),
        (("user_merchant", 1), ("user_k", 2)),
        (("user_k", 2), ("user_k", 3)),
        (("home_user", 1), ("user_merchant", 1)),
    ],
)
def test_what_was_booked_under_one_unit_is_never_read_as_another(path, held, asked):
    ledger, size = Ledger(path), 0
    for r in range(2):
        ledger.reserve(EVENTS, run="a", round=r, unit=held[0], merchants_per_user=held[1])
        size = path.stat().st_size
    with pytest.raises(OtherUnit, match=f"for unit {asked[0]}.* holds releases for unit {held[0]}"):
        Ledger(path).reserve(EVENTS, run="b", round=1, unit=asked[0], merchants_per_user=asked[1])
    assert path.stat().st_size == size
    assert {(r.unit, r.merchants_per_user) for r in Ledger(path).reservations()} == {held}


def test_a_record_of_version_1_still_holds_and_counts_as_user_merchant(path):
    body = {
        "run": "a",
        "round": 1,
        "purpose": "training",
        "events": [event_to_dict(EVENTS[0])],
        "inputs_digest": None,
    }
    line = {"at": "2026-01-01T00:00:00.000+00:00", "body": body, "kind": "reserve", "number": 0, "version": 1}
    line["previous"] = Head().hash
    bare = json.dumps(line, sort_keys=True, separators=(",", ":")).encode()
    line["hash"] = hashlib.sha256(b"hansa.privacy.ledger/1\x00" + bare).hexdigest()
    path.parent.mkdir()
    path.write_text(json.dumps(line, sort_keys=True, separators=(",", ":")) + "\n", "utf-8")
    ledger = Ledger(path)
    with pytest.raises(OtherUnit):
        ledger.reserve(EVENTS, run="a", round=2, unit="home_user")
    ledger.spend(ledger.reserve(EVENTS, run="a", round=2), DIGEST)
    assert Ledger(path).verify() == 3
    assert Ledger(path).epsilon(1e-5) == epsilon(EVENTS * 2, 1e-5)


@pytest.mark.parametrize("unit", [("household", 1), ("user_k", 1), ("user_merchant", "1"), (None, 1)])
def test_a_rightly_hashed_record_of_an_unknown_unit_is_tampering_and_no_refusal(path, unit):
    body = {"run": "a", "round": 1, "purpose": "training", "events": [], "inputs_digest": None}
    named = body | {"unit": unit[0], "merchants_per_user": unit[1]}
    path.parent.mkdir()
    path.write_bytes(append_to(Head(), "reserve", named, datetime(2026, 1, 1, tzinfo=UTC))[1])
    with pytest.raises(LedgerTampered, match=r"ledger\.jsonl: record 0: (unit|merchants_per_user)"):
        Ledger(path)


def test_spending_what_was_never_reserved_is_refused(path, tmp_path):
    reservation = Ledger(path).reserve(EVENTS, run="a", round=1)
    with pytest.raises(LedgerError, match="holds no reservation"):
        Ledger(tmp_path / "other.jsonl").spend(reservation, DIGEST)
    with pytest.raises(LedgerError, match="64 hex"):
        Ledger(path).spend(reservation, "done")
    with pytest.raises(LedgerError, match="purpose"):
        Ledger(path).reserve(EVENTS, run="a", round=1, purpose="fun")


def test_two_owners_of_one_ledger_do_not_lose_records(path):
    def work(owner):
        ledger = Ledger(path)
        for r in range(20):
            ledger.spend(ledger.reserve(EVENTS, run=owner, round=r), DIGEST)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    ledger = Ledger(path)
    assert ledger.verify() == 160
    assert len(ledger.reservations()) == 80


def test_records_and_their_folder_are_synced_before_reserve_returns(path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_mode), real(file)))
    ledger = Ledger(path)
    assert any(mode & 0o040000 for mode in synced), "the folder that holds a new ledger"
    synced.clear()
    ledger.reserve(EVENTS, run="a", round=1)
    assert len(synced) == 1
    synced.clear()
    Ledger(path.with_name("fast.jsonl"), durable=False).reserve(EVENTS, run="a", round=1)
    assert synced == []
