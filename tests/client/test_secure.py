# SPDX-License-Identifier: Apache-2.0
"""The merchant's half of secure rounds: what it refuses and keeps; one answer is never made twice."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from client.answers import AnswerStore
from client.enrolment import enrol, open_pinned, pin_roster
from client.errors import HomeError, Refused
from client.home import open_home
from client.secure import OpenedLog, SecureSeat
from client.wire import Reply
from privacy.ledger import Ledger
from privacy.secagg.identity import Identity
from privacy.secagg.keystore import MemoryKeyStore
from privacy.secagg.merchant import MerchantSession
from privacy.secagg.platform import PlatformSession
from privacy.secagg.roster import Member, make_roster, sign_roster
from privacy.secagg.round_messages import Survivors
from privacy.secure_exchange import Exchange, request_digest
from tests.client.small import OPEN_PLAN, POLICY, request

RUN = bytes(16)
COUNCIL = Identity(bytes(range(32)))
SECURE_POLICY = POLICY.replace("secure_aggregation_required = false", "secure_aggregation_required = true")


class League:
    """The merchant under test, `north`, with four others in memory and the platform's machine."""

    def __init__(self, small, runtime, policy=SECURE_POLICY, **promises):
        self.small, self.runtime = small, runtime
        (small.home / "policy.toml").write_text(policy)
        self.others = {name: Identity.generate() for name in ("east", "south", "west", "zenith")}
        members = [Member("north", enrol(small.home).public)]
        members += [Member(name, identity.public) for name, identity in self.others.items()]
        self.roster = make_roster("small", members, bound=8.0, **promises)
        pin_roster(small.home, sign_roster(self.roster, [COUNCIL]), [COUNCIL.public], 1)
        self.sessions = {
            name: MerchantSession(identity, self.roster, MemoryKeyStore())
            for name, identity in self.others.items()
        }
        self.platform = PlatformSession(self.roster, RUN)
        self.number = 0

    def worker(self):
        return self.small.worker(self.runtime)

    def ask(self, message):
        """A step that holds no question, answered by a worker as after a start of its process."""
        asked = replace(request(self.runtime), kind="secagg", arrays={}, settings={}, secagg=message)
        return self.worker().answer(asked).secagg

    def set_up(self, epoch=1):
        setup = self.platform.open_epoch(epoch, self.number + 1)
        setup.receive_keys(self.ask(setup.opening()))
        for session in self.sessions.values():
            setup.receive_keys(session.announce(setup.opening()))
        bundle = setup.bundle()
        setup.receive_kem(self.ask(bundle))
        for session in self.sessions.values():
            setup.receive_kem(session.encapsulate(bundle))
        for name, delivery in setup.deliveries().items():
            setup.receive_ready(self.ask(delivery) if name == "north" else self.sessions[name].establish(delivery))
        return self

    def exchange(self, asked):
        kind, runtime = asked.kind, self.runtime
        if kind == "popularity":
            return Exchange(kind, {"buyers": (runtime.vocabulary.size + 1,)}, {})
        if kind == "gate":
            return Exchange(kind, {"sums": (4,)}, {})
        if kind == "vocabulary":
            return Exchange(kind, {"carried": (runtime.vocabulary.size,)}, {})
        shapes = {name: asked.arrays[name].shape for name in runtime.spec.shared}
        private = "none" not in str(asked.settings["plan"])
        statistics = {} if private else {"loss": (), "users": ()}
        return Exchange(kind, shapes, statistics, int(asked.settings.get("max-weight", 1)))

    def terms(self, asked):
        settings = {**asked.settings, "run": asked.run, "server-round": asked.round}
        digest = request_digest(asked.kind, settings, asked.arrays)
        return self.exchange(asked).terms(self.roster, digest)

    def open(self, asked, *, attempt=0, cohort=None):
        """A round over this request; returns it with the request that carries ROUND_OPEN."""
        self.number += not attempt
        round_ = self.platform.open_round(self.number, attempt, self.terms(asked), cohort)
        return round_, replace(asked, secagg=round_.opening())

    def others_report(self, round_, asked, names=None):
        exchange, terms = self.exchange(asked), self.terms(asked)
        for name in names or self.sessions:
            self.sessions[name].open_round(round_.opening(), terms)
            zeros = {k: np.zeros(shape, np.float32) for k, shape in exchange.arrays.items()}
            none = {k: np.zeros(shape, np.float32) for k, shape in exchange.statistics.items()}
            round_.receive_report(
                self.sessions[name].report(exchange.vector(self.roster, zeros, none, 1, bytes(32)))
            )

    def finish(self, round_, names=None):
        survivors = round_.survivors()
        round_.receive_confirmation(self.ask(survivors))
        for name in names or self.sessions:
            round_.receive_confirmation(self.sessions[name].confirm(survivors))
        for name, certificate in round_.certificates().items():
            round_.receive_answer(
                self.ask(certificate) if name == "north" else self.sessions[name].unmask(certificate)
            )
        return round_.finish()


@pytest.fixture
def league(small, runtime):
    return League(small, runtime).set_up()


def ledger(small):
    return Ledger(small.home / "ledger.jsonl").reservations()


@pytest.mark.parametrize("kind", ["train", "popularity", "gate"])
def test_every_kind_of_request_is_answered_masked_and_its_sum_is_the_plain_answer(league, small, kind):
    asked = request(league.runtime, kind)
    round_, opening = league.open(asked)
    reply = league.worker().answer(opening)
    assert (reply.arrays, reply.statistics, reply.weight) == ({}, {}, 0)
    round_.receive_report(reply.secagg)
    league.others_report(round_, asked)
    found = league.exchange(asked).opened(league.roster, league.finish(round_).vector, 5)
    (small.home / "policy.toml").write_text(POLICY)
    plain = league.worker().answer(asked)
    assert found.weight == 5
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(found.mean[name] * 5, array, atol=1e-5, rtol=1e-6)
        assert np.abs(array).max() > 1e-3
    assert [reservation.spent for reservation in ledger(small)] == [True]


def test_masks_are_expanded_while_the_answer_is_computed(league, monkeypatch):
    """Each waits for the other to have begun: one after the other they would never end."""
    begun, answering = threading.Event(), threading.Event()
    expand, find = MerchantSession.expand_masks, AnswerStore.find

    def expanding(session):
        begun.set()
        assert answering.wait(10)
        expand(session)

    def finding(store, *inputs):
        answering.set()
        assert begun.wait(10)
        return find(store, *inputs)

    asked = request(league.runtime)
    round_, opening = league.open(asked)
    with monkeypatch.context() as patched:
        patched.setattr(MerchantSession, "expand_masks", expanding)
        patched.setattr(AnswerStore, "find", finding)
        round_.receive_report(league.worker().answer(opening).secagg)
    league.others_report(round_, asked)
    assert len(league.finish(round_).survivors) == 5


def test_an_answer_that_fails_leaves_no_masks_and_its_round_stays_used(league, monkeypatch):
    asked = request(league.runtime)
    _, opening = league.open(asked)
    with monkeypatch.context() as patched:
        patched.setattr(AnswerStore, "find", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            league.worker().answer(opening)
    assert threading.active_count() == 1
    with pytest.raises(Refused, match="is not after round 1 attempt 0"):
        league.worker().answer(opening)
    round_, opening = league.open(asked, attempt=1)
    round_.receive_report(league.worker().answer(opening).secagg)


def test_loss_users_and_weight_travel_inside_the_masked_vector(league, small, runtime):
    asked = request(runtime, plan=OPEN_PLAN, **{"max-weight": 1 << 10})
    (small.home / "policy.toml").write_text(SECURE_POLICY)
    round_, opening = league.open(asked)
    round_.receive_report(league.worker().answer(opening).secagg)
    league.others_report(round_, asked)
    found = league.exchange(asked).opened(league.roster, league.finish(round_).vector, 5)
    assert found.weight == 20 + 4
    assert found.statistics["users"] == 20
    assert found.statistics["loss"] > 0


@pytest.mark.parametrize("kind", ["train", "popularity", "gate"])
def test_a_plain_request_is_refused_where_secure_is_required(league, small, kind):
    for claim in ("plain", "secure"):
        with pytest.raises(Refused, match="secure aggregation is required and was not offered"):
            league.worker().answer(request(league.runtime, kind, aggregation=claim))
    assert not (small.home / "ledger.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [("min_survivors = 5", "at least 5 merchants"), ("min_colluders = 2", "withstand 2 colluders")],
)
def test_a_roster_that_promises_less_than_the_merchants_policy_asks_is_refused(league, small, line, reason):
    asked = request(league.runtime)
    _, opening = league.open(asked)
    (small.home / "policy.toml").write_text(SECURE_POLICY + line + "\n")
    with pytest.raises(Refused, match=reason):
        league.worker().answer(opening)
    assert not (small.home / "ledger.jsonl").exists()


def test_the_cohort_is_counted_in_the_round_and_not_as_the_platform_states_it(league, small):
    (small.home / "policy.toml").write_text(SECURE_POLICY.replace("min_cohort = 2", "min_cohort = 5"))
    asked = request(league.runtime, **{"cohort-size": 99})
    _, opening = league.open(asked, cohort=["east", "north", "south", "west"])
    with pytest.raises(Refused, match="the cohort has 4 merchants, at least 5"):
        league.worker().answer(opening)


def test_a_merchant_in_no_roster_says_so(small, runtime):
    league = League(small, runtime).set_up()
    _, opening = league.open(request(runtime))
    shutil.rmtree(small.home / "secagg")
    with pytest.raises(Refused, match="in no roster"):
        league.worker().answer(opening)


def test_a_roster_other_than_the_pinned_one_or_that_the_council_did_not_sign_is_refused(league, small):
    other = make_roster("small", league.roster.members, serial=2)
    path = small.home / "secagg" / "roster.bin"
    path.write_bytes(sign_roster(other, [COUNCIL]))
    with pytest.raises(HomeError, match="expected the pinned roster"):
        open_pinned(open_home(small.home))
    path.write_bytes(sign_roster(league.roster, [Identity.generate()]))
    with pytest.raises(HomeError, match="signatures of the council"):
        open_pinned(open_home(small.home))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda asked: replace(asked, arrays={k: v + 1 for k, v in asked.arrays.items()}), "another model"),
        (lambda asked: replace(asked, settings={**asked.settings, "training": "{}"}), "another model|training"),
        (lambda asked: replace(asked, round=2), "another model"),
        (lambda asked: replace(asked, settings={**asked.settings, "max-weight": 7}), "another meaning"),
    ],
)
def test_a_round_is_checked_against_what_this_merchant_received_before_anything_is_computed(
    league, small, change, reason
):
    _, opening = league.open(request(league.runtime))
    with pytest.raises(Refused, match=reason):
        league.worker().answer(change(opening))
    assert not (small.home / "ledger.jsonl").exists()
    assert not (small.home / "answers").exists()


def test_a_replayed_round_is_refused(league):
    _, opening = league.open(request(league.runtime))
    league.worker().answer(opening)
    with pytest.raises(Refused, match="open a later attempt"):
        league.worker().answer(opening)


def test_a_new_attempt_masks_the_same_answer_anew_and_the_ledger_is_not_spent_twice(league, small, monkeypatch):
    asked = request(league.runtime)
    vectors = []
    honest = MerchantSession.report

    def watched(self, vector):
        vectors.append(vector.body.tobytes())
        return honest(self, vector)

    monkeypatch.setattr(MerchantSession, "report", watched)
    _, first = league.open(asked)
    one = league.worker().answer(first).secagg
    _, second = league.open(asked, attempt=1)
    two = league.worker().answer(second).secagg
    assert vectors[0] == vectors[1]
    assert one[-len(vectors[0]) :] != two[-len(vectors[0]) :]
    assert len(ledger(small)) == 1


def test_an_open_plans_answer_is_made_once_too(league, monkeypatch):
    asked = request(league.runtime, plan=OPEN_PLAN, **{"max-weight": 1 << 10})
    _, first = league.open(asked)
    league.worker().answer(first)
    monkeypatch.setattr("client.worker.train_locally", lambda *_: pytest.fail("trained twice"))
    _, second = league.open(asked, attempt=1)
    league.worker().answer(second)


def test_plain_and_secure_requests_of_one_question_get_the_same_answer(league, small):
    (small.home / "policy.toml").write_text(POLICY)
    asked = request(league.runtime, aggregation="plain")
    plain = league.worker().answer(asked)
    secure = request(league.runtime, aggregation="secure", **{"max-weight": 1})
    round_, opening = league.open(secure)
    round_.receive_report(league.worker().answer(opening).secagg)
    league.others_report(round_, secure)
    found = league.exchange(secure).opened(league.roster, league.finish(round_).vector, 5)
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(found.mean[name] * 5, array, atol=1e-5)
    assert len(ledger(small)) == 1


def test_survivors_of_a_number_that_nobody_has_are_refused_with_a_reason(league):
    asked = request(league.runtime)
    round_, opening = league.open(asked)
    round_.receive_report(league.worker().answer(opening).secagg)
    league.others_report(round_, asked)
    league.finish(round_)
    again, opening = league.open(asked)
    again.receive_report(league.worker().answer(opening).secagg)
    league.others_report(again, asked)
    listed = Survivors.decode(again.survivors())
    *some, last = listed.headers
    with pytest.raises(Refused):
        league.ask(replace(listed, headers=(*some, replace(last, index=200))).encode())


def test_what_was_answered_once_is_opened_over_one_list_of_survivors_only_in_any_later_round(league):
    asked = request(league.runtime)
    round_, opening = league.open(asked)
    round_.receive_report(league.worker().answer(opening).secagg)
    league.others_report(round_, asked)
    league.finish(round_)
    again, opening = league.open(asked)
    again.receive_report(league.worker().answer(opening).secagg)
    league.others_report(again, asked, ["east", "south", "west"])
    with pytest.raises(Refused, match="answered before over other survivors"):
        league.ask(again.survivors())


def test_the_same_request_is_opened_again_over_the_same_list(league):
    asked = request(league.runtime)
    sums = []
    for _ in range(2):
        round_, opening = league.open(asked)
        round_.receive_report(league.worker().answer(opening).secagg)
        league.others_report(round_, asked)
        sums.append(league.finish(round_).vector.body.tobytes())
    assert sums[0] == sums[1]


def test_a_record_cut_off_by_a_crash_is_written_over(tmp_path):
    log = OpenedLog(tmp_path / "opened.bin", durable=True)
    log.note(b"a" * 32, b"1" * 32)
    with (tmp_path / "opened.bin").open("ab") as file:
        file.write(b"torn")
    log.note(b"b" * 32, b"2" * 32)
    assert log.find(b"a" * 32) == b"1" * 32
    assert log.find(b"b" * 32) == b"2" * 32
    assert log.find(b"c" * 32) is None


def test_two_processes_never_hold_one_seat(league, small):
    seat = SecureSeat(open_home(small.home), durable=True)
    with seat._session(), pytest.raises(Refused, match="in use by another process"):
        league.ask(league.platform.open_epoch(2, 1).opening())


def test_a_broken_update_is_refused_at_the_merchant_and_nothing_of_it_leaves(league, monkeypatch):
    asked = request(league.runtime, plan=OPEN_PLAN, **{"max-weight": 1 << 10})
    shapes = {name: asked.arrays[name].shape for name in league.runtime.spec.shared}

    def not_a_number(*_):
        arrays = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
        return Reply(arrays, {"loss": np.array(0, np.float32), "users": np.array(20, np.float32)}, 20)

    monkeypatch.setattr("client.worker.train_locally", not_a_number)
    _, opening = league.open(asked)
    with pytest.raises(Refused, match="NaN"):
        league.worker().answer(opening)


def test_a_witness_opens_the_round_and_reports_nothing(league, small):
    asked = request(league.runtime)
    _, opening = league.open(asked, cohort=["east", "south", "west", "zenith"])
    assert league.worker().answer(opening).secagg == b""
    assert not (small.home / "ledger.jsonl").exists()


def test_a_seat_prints_no_secret(league, small):
    secret = (small.home / "secagg" / "identity.key").read_bytes()
    assert secret.hex() not in repr(SecureSeat(open_home(small.home), durable=True))
    assert (small.home / "secagg" / "identity.key").stat().st_mode & 0o077 == 0
