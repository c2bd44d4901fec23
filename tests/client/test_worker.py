# SPDX-License-Identifier: Apache-2.0
"""What the worker refuses, what it lets out, and what it remembers; with real data, plans and ledgers."""

import json
import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from client.answers import AnswerStore
from client.errors import Refused
from client.home import open_home
from client.trainer import Draws
from client.trainer import train_privately as _train
from client.wire import decode_reply, encode_reply
from client.worker import Worker
from data.errors import DataError
from privacy.errors import LedgerTampered
from privacy.ledger import Ledger
from privacy.plan import Unit
from tests.client.small import CANARY, OPEN_PLAN, PLAN, POLICY, TRAIN_UNTIL, TRAINING, Small, request

KINDS = ("train", "popularity", "gate")


def ledger(small):
    return Ledger(small.home / "ledger.jsonl")


def edited(**changes):
    """A plan as plain data, changed as a forger would."""
    return {**PLAN.to_dict(), **changes}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_request_is_answered_with_finite_arrays(small, runtime, kind):
    reply = small.worker(runtime).answer(request(runtime, kind))
    assert reply.arrays
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in reply.arrays.values())
    assert reply.weight == 1
    assert reply.statistics == {}
    assert [r.spent for r in ledger(small).reservations()] == [True]


def test_an_open_plan_answers_with_loss_and_users_and_reserves_nothing(small, runtime):
    reply = small.worker(runtime).answer(request(runtime, plan=OPEN_PLAN))
    assert reply.weight == 20
    assert set(reply.statistics) == {"loss", "users"}
    assert ledger(small).reservations() == ()


REFUSALS = {
    "epsilon": ({}, "max_epsilon = 1.0", "allowed is 1"),
    "mode": ({}, 'modes = ["distributed"]', "mode 'local' is not among"),
    "cohort": ({}, "min_cohort = 9", "at least 9 are required"),
    "task": ({}, 'tasks = ["churn"]', "task 'recommendation' is not among"),
    "secure": ({}, "secure_aggregation_required = true", "secure aggregation is required"),
    "claim": ({"aggregation": "secure"}, "secure_aggregation_required = true", "secure aggregation is required"),
}


def policy_with(line):
    name = line.split(" = ")[0]
    kept = [old for old in POLICY.splitlines() if not old.startswith(name)]
    return "\n".join([*kept, line]) + "\n"


@pytest.mark.parametrize("case", REFUSALS)
def test_a_plan_that_the_merchants_policy_does_not_allow_is_refused_before_any_event_is_read(small, runtime, case):
    changes, line, reason = REFUSALS[case]
    small.events.write_bytes(b"unreadable")
    (small.home / "policy.toml").write_text(policy_with(line))
    with pytest.raises(Refused, match=reason):
        small.worker(runtime).answer(request(runtime, **changes))
    assert not (small.home / "ledger.jsonl").exists()


def test_a_claim_of_secure_aggregation_is_not_taken_for_it(small, runtime):
    worker = small.worker(runtime)
    assert worker.answer(request(runtime, aggregation="secure")).weight == 1
    (small.home / "policy.toml").write_text(policy_with("secure_aggregation_required = true"))
    with pytest.raises(Refused, match="secure aggregation is required and was not offered"):
        worker.answer(request(runtime, aggregation="secure"))


def test_a_policy_edited_while_the_node_runs_counts_from_the_next_request(small, runtime):
    worker = small.worker(runtime)
    worker.answer(request(runtime))
    (small.home / "policy.toml").write_text(policy_with("min_cohort = 50"))
    with pytest.raises(Refused, match="at least 50"):
        worker.answer(request(runtime, round=2))


FORGED = {
    "claims too little": (edited(epsilon=0.5), "claims epsilon 0.5, its events cost"),
    "no noise": (edited(noise_multiplier=0.0), "."),
    "little noise": (edited(noise_multiplier=0.2, epsilon="inf"), "the plan costs epsilon"),
    "merchant mode": (edited(mode="merchant"), "protects the unit merchant"),
    "distributed mode": (
        edited(mode="distributed", steps_per_round=1, cohort=5, coordinates=5000, scale_log2=20),
        "carries too little noise to leave without a mask",
    ),
    "rounds that exhaust memory": (edited(rounds=10**9), "may be 10000 in all"),
    "rounds as text": (edited(rounds="many"), "may be 10000 in all"),
    "steps that exhaust time": (edited(rounds=10**4, steps_per_round=10**4), "may be 10000 in all"),
    "unknown field": (edited(trust="me"), "no fields"),
    "clipping norm that vanishes": (edited(clipping_norm=1e-25), "clipping_norm must lie in 1e-06"),
    "popularity norm that vanishes": (edited(popularity_clipping_norm=1e-30), "must lie in"),
    "gate norm that overflows": (edited(gate_clipping_norm=1e37), "must lie in"),
    "rate above one": (edited(sampling_rate=1.5), "sampling_rate"),
    "text for a number": (edited(noise_multiplier="2"), "wrong types"),
    "list for a mode": (edited(mode=[]), "mode must be one of"),
    "nothing": ({}, "lacks fields"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_plan_is_refused_before_any_event_is_read(small, runtime, case):
    plan, reason = FORGED[case]
    small.events.write_bytes(b"unreadable")
    with pytest.raises(Refused, match=reason):
        small.worker(runtime).answer(request(runtime, plan=plan))


WRONG = {
    "kind": ({"kind": "research.evaluate"}, {}, "is unknown"),
    "no run": ({"run": ""}, {}, "1 to 200 characters"),
    "long run": ({"run": "r" * 201}, {}, "1 to 200 characters"),
    "round 0": ({"round": 0}, {}, "outside the plan's 3 rounds"),
    "round 4": ({"round": 4}, {}, "outside the plan's 3 rounds"),
    "negative round": ({"round": -1}, {}, "outside"),
    "plan": ({}, {"plan": "{"}, "plan is not a JSON object"),
    "plan too deep": ({}, {"plan": '{"a":' + "[" * 100_000}, "plan is not a JSON object"),
    "cohort size": ({}, {"cohort-size": "many"}, "cohort-size must be a whole number"),
    "cohort size not a number": ({}, {"cohort-size": float("nan")}, "cohort-size must be a whole number"),
    "training": ({}, {"training": '{"steps_per_round": 0}'}, "training: "),
    "optimiser": ({}, {"training": json.dumps({"optimiser": "lbfgs"})}, "training: "),
    "endless steps": (
        {},
        {"training": json.dumps({**TRAINING, "steps_per_round": 10**12})},
        "training: ",
    ),
    "pull that is not a number": ({}, {"proximal-mu": float("nan")}, "training: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_request_that_makes_no_sense_is_refused_and_reserves_nothing(small, runtime, case):
    fields, settings, reason = WRONG[case]
    asked = request(runtime)
    with pytest.raises(Refused, match=reason):
        small.worker(runtime).answer(replace(asked, **fields, settings={**asked.settings, **settings}))
    assert not (small.home / "ledger.jsonl").exists()


def spoil(arrays, how):
    name = sorted(arrays)[0]
    good = arrays[name]
    if how == "nan":
        bad = good.copy()
        bad.flat[0] = np.nan
    elif how == "inf":
        bad = np.full_like(good, np.inf)
    elif how == "shape":
        bad = np.zeros((*good.shape, 2), np.float32)
    elif how == "float64":
        bad = good.astype(np.float64)
    else:
        return {**{k: v for k, v in arrays.items() if k != name}, "surprise": good}
    return {**arrays, name: bad}


@pytest.mark.parametrize("how", ["nan", "inf", "shape", "float64", "name"])
@pytest.mark.parametrize("kind", ["train", "gate"])
def test_arrays_that_do_not_fit_the_model_are_refused_before_anything_is_reserved(small, runtime, kind, how):
    asked = request(runtime, kind)
    with pytest.raises(Refused):
        small.worker(runtime).answer(replace(asked, arrays=spoil(asked.arrays, how)))
    assert not (small.home / "ledger.jsonl").exists()


def ask_for_twenty_more_rounds(worker, runtime):
    for number in range(20):
        worker.answer(replace(request(runtime), run=f"another run {number}"))


def test_a_request_beyond_the_ledgers_budget_is_refused(small, runtime):
    limit = PLAN.epsilon_after(3) * 1.01
    (small.home / "policy.toml").write_text(policy_with(f"max_epsilon = {limit!r}"))
    worker = small.worker(runtime)
    for number in (1, 2, 3):
        worker.answer(request(runtime, round=number))
    with pytest.raises(Refused, match="refused by this merchant's budget: spent and reserved are epsilon"):
        ask_for_twenty_more_rounds(worker, runtime)
    assert 3 <= len(ledger(small).reservations()) < 23
    assert ledger(small).epsilon(1e-5, "rdp") <= limit


def test_a_plan_for_another_unit_than_the_ledger_was_kept_for_is_refused_though_the_policy_allows_it(
    small, runtime
):
    (small.home / "policy.toml").write_text(policy_with('units = ["user_merchant", "home_user"]'))
    worker, other = small.worker(runtime), replace(PLAN, unit=Unit.HOME_USER)
    worker.answer(request(runtime))
    with pytest.raises(Refused, match="for unit home_user, this ledger holds releases for unit user_merchant"):
        worker.answer(request(runtime, plan=other, round=2))
    (small.home / "ledger.jsonl").unlink()
    small.worker(runtime).answer(request(runtime, plan=other, round=2))
    assert [r.unit for r in ledger(small).reservations()] == [Unit.HOME_USER]


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_asked_twice_gets_the_same_answer_again(small, runtime, kind):
    asked = request(runtime, kind)
    first = encode_reply(small.worker(runtime).answer(asked))
    assert encode_reply(small.worker(runtime).answer(asked)) == first
    assert len(ledger(small).reservations()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_answer_is_computed_again_to_the_same_bytes_and_costs_no_second_release(small, runtime, kind):
    asked = request(runtime, kind)
    first = encode_reply(small.worker(runtime).answer(asked))
    for stored in (small.home / "answers").iterdir():
        stored.unlink()
    assert encode_reply(small.worker(runtime).answer(asked)) == first
    assert len(ledger(small).reservations()) == 1


def test_another_model_round_run_or_plan_is_another_release_with_other_noise(small, runtime):
    worker, asked = small.worker(runtime), request(runtime)
    moved = {name: array + np.float32(0.01) for name, array in asked.arrays.items()}
    others = [
        asked,
        replace(asked, arrays=moved),
        replace(asked, round=2),
        replace(asked, run="run-2"),
        request(runtime, plan=replace(PLAN, noise_multiplier=2.5)),
    ]
    replies = [worker.answer(each) for each in others]
    first = replies[0].arrays
    assert all(not np.allclose(r.arrays[n], first[n], atol=1e-3) for r in replies[1:] for n in first)
    assert len(ledger(small).reservations()) == len(others)


def drop_some_rows(small, *, late):
    events = pl.read_parquet(small.events).with_row_index()
    late_rows = pl.col("timestamp") >= TRAIN_UNTIL
    dropped = (late_rows if late else ~late_rows) & (pl.col("index") % 3 == 0)
    events.filter(~dropped).drop("index").write_parquet(small.events)


@pytest.mark.parametrize(
    ("kind", "late"), [("train", False), ("popularity", False), ("gate", False), ("gate", True)]
)
def test_changed_data_make_another_release_with_other_noise(small, runtime, kind, late):
    asked = request(runtime, kind)
    first = small.worker(runtime).answer(asked)
    drop_some_rows(small, late=late)
    second = small.worker(runtime).answer(asked)
    assert len(ledger(small).reservations()) == 2
    gaps = np.concatenate([np.ravel(second.arrays[n] - first.arrays[n]) for n in first.arrays])
    assert np.count_nonzero(np.abs(gaps) > 1e-3) > len(gaps) // 2


def answer_and_die(small, moment, asked):
    """Run in a process of its own: killed at a moment of the answer."""

    def die(*_args):
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "before training":
        Worker._draws = die
    if moment == "before the answer is stored":
        AnswerStore.store = die
    if moment == "before it is spent":
        Ledger.spend = die
    small.worker(small.runtime()).answer(asked)
    die()


@pytest.mark.parametrize(
    ("moment", "spent"),
    [
        ("before training", False),
        ("before the answer is stored", False),
        ("before it is spent", False),
        ("before it is sent", True),
    ],
)
def test_a_node_killed_never_under_counts_and_gives_the_same_answer_again(small, runtime, tmp_path, moment, spent):
    asked = request(runtime)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["client.worker"])
    process = context.Process(target=answer_and_die, args=(small, moment, asked))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert [r.spent for r in ledger(small).reservations()] == [spent]
    assert ledger(small).epsilon(1e-5, "rdp") > 0
    again = small.worker(runtime).answer(asked)
    assert [r.spent for r in ledger(small).reservations()] == [True]

    other = Small(tmp_path / "undisturbed")
    small.folder.rename(other.folder)
    (other.home / "ledger.jsonl").unlink()
    for stored in (other.home / "answers").iterdir():
        stored.unlink()
    assert encode_reply(other.worker(runtime).answer(asked)) == encode_reply(again)


def test_privacy_is_reserved_before_training_and_the_answer_is_on_disk_and_spent_before_it_leaves(
    small, runtime, monkeypatch
):
    seen = []
    reserve, store, spend = Ledger.reserve, AnswerStore.store, Ledger.spend
    monkeypatch.setattr(Ledger, "reserve", lambda *a, **k: (seen.append("reserve"), reserve(*a, **k))[1])
    monkeypatch.setattr(AnswerStore, "store", lambda *a: (seen.append("store"), store(*a))[1])
    monkeypatch.setattr(Ledger, "spend", lambda *a: (seen.append("spend"), spend(*a))[1])
    monkeypatch.setattr(
        "client.worker.train_privately", lambda *a, train=_train: (seen.append("train"), train(*a))[1]
    )
    reply = small.worker(runtime).answer(request(runtime))
    assert seen == ["reserve", "train", "store", "spend"]
    (stored,) = (small.home / "answers").iterdir()
    assert encode_reply(decode_reply(stored.read_bytes()[64:])) == encode_reply(reply)


def test_a_broken_ledger_stops_the_node_and_its_words_are_not_meant_for_the_platform(small, runtime):
    small.worker(runtime).answer(request(runtime))
    path = small.home / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":2'))
    with pytest.raises(LedgerTampered):
        small.worker(runtime).answer(request(runtime, round=2))


def test_what_is_refused_quotes_the_request_the_policy_and_the_budget_alone(small, runtime):
    small.events.write_bytes(b"unreadable")
    with pytest.raises(DataError):
        small.worker(runtime).answer(request(runtime))
    (small.home / "policy.toml").write_text("max_epsilon = 1.0\n")
    with pytest.raises(Refused) as refused:
        small.worker(runtime).answer(request(runtime))
    assert str(small.folder) not in str(refused.value)
    assert CANARY not in str(refused.value)


def test_the_secret_decides_the_noise(small, runtime):
    asked = request(runtime)
    first = small.worker(runtime).answer(asked)
    (small.home / "secret.key").write_bytes(bytes(32))
    second = Worker(open_home(small.home), runtime).answer(asked)
    assert all(not np.allclose(first.arrays[n], second.arrays[n], atol=1e-3) for n in first.arrays)
    assert len(ledger(small).reservations()) == 2


def test_a_merchant_without_users_answers_in_private_mode_with_noise_alone(small, runtime):
    empty = pl.read_parquet(small.events).with_columns(event=pl.lit("view"))
    empty.write_parquet(small.events)
    worker = small.worker(runtime)
    for kind in KINDS:
        reply = worker.answer(request(runtime, kind))
        assert all(np.abs(array).max() > 0 for array in reply.arrays.values()), kind
    with pytest.raises(Refused, match="nothing to train on"):
        worker.answer(request(runtime, plan=OPEN_PLAN))


def test_the_pull_of_flowers_fedprox_reaches_training(small, runtime, monkeypatch):
    monkeypatch.setattr(Worker, "_draws", lambda *_: Draws.from_seed("the same users for both"))
    worker = small.worker(runtime)
    free = worker.answer(request(runtime, plan=OPEN_PLAN))
    held = worker.answer(request(runtime, plan=OPEN_PLAN, **{"proximal-mu": 10.0}))
    for name in free.arrays:
        assert np.linalg.norm(held.arrays[name]) < np.linalg.norm(free.arrays[name])
