# SPDX-License-Identifier: Apache-2.0
"""A platform that asks one question round after round, over survivors of its choice, opens one list [T3]."""

import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from client.errors import Refused
from client.secure import SecureSeat
from client.wire import Request
from privacy.secagg.errors import SecAggError
from privacy.secagg.platform import PlatformSession, PlatformStage
from privacy.secure_exchange import request_digest
from tests.strategies.league import NAMES, Merchants, answers

SCHEDULES, ROUNDS = 8, 5
SETTINGS = {"max-weight": 1 << 10}
QUESTION = Request("train", "run", 1, {"tower": np.zeros(2, np.float32)}, SETTINGS)


class Platform:
    """Four merchants with real seats; the platform loses messages and holds rounds open beside each other."""

    def __init__(self, folder, source):
        self.merchants = Merchants(folder, answers(NAMES[:4], size=2))
        self.session = PlatformSession(self.merchants.roster, bytes(16))
        self.source, self.rounds, self.pool = source, [], []
        self.lists, self.refusals = set(), []
        asked = request_digest("train", {**SETTINGS, "run": "run", "server-round": 1}, QUESTION.arrays)
        self.terms = self.merchants.exchange.terms(self.merchants.roster, asked)
        setup, names = self.session.open_epoch(1, 1), list(self.merchants.homes)
        for name in names:
            setup.receive_keys(self.tell(name, setup.opening()))
        bundle = setup.bundle()
        for name in names:
            setup.receive_kem(self.tell(name, bundle))
        for name, delivery in setup.deliveries().items():
            setup.receive_ready(self.tell(name, delivery))

    def tell(self, name, message):
        return self.merchants.answer(name, Request("secagg", "run", 0, {}, {}, message)).secagg

    def ask(self, name, opening):
        return self.merchants.answer(name, replace(QUESTION, secagg=opening)).secagg

    def play(self):
        """The lists of survivors over which the question was opened."""
        for number in range(1, ROUNDS + 1):
            round_ = self.session.open_round(number, 0, self.terms)
            self.rounds.append(round_)
            self.send(round_.receive_report, self.ask, dict.fromkeys(self.merchants.homes, round_.opening()))
            for _ in range(self.source.randint(5, 40)):
                try:
                    self.step()
                except (Refused, SecAggError) as refused:
                    self.refusals.append(str(refused))
        return self.lists

    def send(self, receive, how, messages):
        self.pool += [partial(lambda n, m: receive(how(n, m)), name, data) for name, data in messages.items()]

    def step(self):
        """Deliver or lose one message, or go on with one round."""
        if self.pool and self.source.random() < 0.85:
            deliver = self.pool.pop(self.source.randrange(len(self.pool)))
            if self.source.random() < 0.92:
                deliver()
            return
        round_ = self.source.choice(self.rounds)
        if round_._stage is PlatformStage.REPORTS:
            survivors = dict.fromkeys(self.merchants.homes, round_.survivors())
            self.send(round_.receive_confirmation, self.tell, survivors)
        elif round_._stage is PlatformStage.CONFIRMATIONS:
            self.send(round_.receive_answer, self.tell, round_.certificates())
        elif round_._stage is PlatformStage.ANSWERS:
            self.lists.add(round_.finish().survivors)


def test_one_question_is_opened_over_one_list_of_survivors_at_most(tmp_path):
    source, opened, refused = random.Random(5), 0, 0
    for number in range(SCHEDULES):
        platform = Platform(tmp_path / str(number), source)
        lists = platform.play()
        assert len(lists) <= 1
        opened += len(lists)
        refused += any("answered before over other survivors" in reason for reason in platform.refusals)
    assert opened >= SCHEDULES // 2
    assert refused >= 2


def test_without_the_merchants_log_the_same_schedules_open_two(tmp_path, monkeypatch):
    monkeypatch.setattr(SecureSeat, "_check_list", lambda *_: None)
    source = random.Random(5)
    counts = [len(Platform(tmp_path / str(number), source).play()) for number in range(SCHEDULES)]
    assert max(counts) >= 2


def test_confirmations_gathered_before_the_answer_open_no_second_list(tmp_path):
    """Two lists are certified before anybody answered; each merchant answers in the round that it opened last."""
    platform = Platform(tmp_path, random.Random(0))
    names, certificates, rounds = list(platform.merchants.homes), [], []
    for number, dropped in ((1, None), (2, names[3])):
        round_ = platform.session.open_round(number, 0, platform.terms)
        for name in names:
            report = platform.ask(name, round_.opening())
            if name != dropped:
                round_.receive_report(report)
        survivors = round_.survivors()
        for name in names:
            round_.receive_confirmation(platform.tell(name, survivors))
        rounds.append(round_)
        certificates.append(round_.certificates())
    for name in names:
        with pytest.raises(Refused, match="another round"):
            platform.tell(name, certificates[0][name])
        rounds[1].receive_answer(platform.tell(name, certificates[1][name]))
    assert rounds[1].finish().survivors == tuple(names[:3])
