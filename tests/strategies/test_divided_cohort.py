# SPDX-License-Identifier: Apache-2.0
"""A league of several rosters: their sums add up exactly, each keeps its thresholds, nobody is asked twice."""

import json
from functools import reduce
from operator import add

import msgspec
import numpy as np
import pytest

from client.wire import Reply
from privacy.adaptive_clipping import WITHIN
from privacy.noised_exchange import NoisedExchange
from privacy.secure_exchange import MAX_WEIGHT, Exchange
from server.errors import ServerError
from server.rounds import RoundsConfig
from server.run import RunSettings
from server.vocabulary import Count, count_vocabulary, read_shared
from simulation.rosters import divided, sizes
from strategies.build import StrategyConfig
from strategies.cohort import Expected
from strategies.errors import CohortFailed
from strategies.plain_cohort import PlainCohort
from tests.server.plans import OPEN, shared
from tests.strategies.league import (
    SHAPES,
    Merchants,
    Wire,
    answers,
    cohort_of,
    divided_of,
    expected_of,
    question,
)

KEYS, REPORT = 1, 7  # kinds of the messages that are answered
NAMES = tuple(f"merchant-{number:02d}" for number in range(13))
MOST = 7  # so that 13 merchants are a roster of seven and one of six


def members(merchants, number):
    return [member.name for member in merchants.rosters[number].members]


def losing(*lost, step=REPORT):
    return lambda at, name, reply: None if at == step and name in lost else reply


def league(folder, **options):
    return Merchants(folder, answers(NAMES, **options), most=MOST)


def sum_of(merchants, faults=None, cohort=None):
    wire = Wire(merchants, faults)
    cohort = cohort or divided_of(merchants)
    return cohort.sum(wire, question(wire), expected_of(merchants), 5.0)


def plain_sum(merchants, names=NAMES):
    wire = Wire(merchants)
    nodes = [node for node, name in wire.names.items() if name in names]
    return PlainCohort(0.1).sum(wire, question(wire, nodes=nodes), expected_of(merchants), 5.0)


def same(one, other):
    return one.keys() == other.keys() and all(one[k].tobytes() == other[k].tobytes() for k in one)


def test_a_league_is_divided_by_lot_evenly_into_as_few_rosters_as_there_can_be():
    found = divided(NAMES, 0, MOST)
    assert [len(part) for part in found] == [7, 6]
    assert sizes(13, MOST) == (6, 7)
    assert sorted(name for part in found for name in part) == list(NAMES)
    assert all(part == sorted(part) for part in found)
    assert divided(NAMES[::-1], 0, MOST) == found != divided(NAMES, 1, MOST)
    assert divided(NAMES, 0) == [list(NAMES)]
    assert (sizes(255), sizes(256), sizes(1000)) == ((255, 255), (128, 128), (250, 250))


def test_on_values_of_the_grid_the_sum_of_two_rosters_is_the_plain_one_bit_for_bit(tmp_path):
    merchants = league(tmp_path, grid_bits=16)
    merchants.exchange = Exchange("train", SHAPES, {"loss": (), "users": ()})
    wire = Wire(merchants)
    divided_sum = divided_of(merchants).sum(wire, question(wire, **{"max-weight": 1}), expected_of(merchants), 5.0)
    plain = plain_sum(merchants)
    assert same(divided_sum.mean, plain.mean)
    assert same(divided_sum.statistics, plain.statistics)
    assert (divided_sum.weight, divided_sum.survivors, divided_sum.dropped) == (13, 13, {})


def test_what_is_added_are_the_opened_sums_before_anything_is_rounded(tmp_path):
    merchants = league(tmp_path)
    found = sum_of(merchants)
    opened = []
    for roster in merchants.rosters:
        vectors = [
            merchants.exchange.vector(
                roster, reply.arrays, reply.statistics, reply.weight, name.encode().ljust(32, b".")
            )
            for name, reply in merchants.answers.items()
            if name in [member.name for member in roster.members]
        ]
        for vector in vectors[1:]:
            vectors[0].add(vector)
        opened.append(merchants.exchange.opened(roster, vectors[0], len(vectors)))
    assert same(found.mean, reduce(add, opened).mean)


def test_one_roster_gives_the_same_bits_divided_or_not(tmp_path):
    alone, divided_in_one = (Merchants(tmp_path / name, answers()) for name in ("alone", "divided"))
    one, other = sum_of(alone, cohort=cohort_of(alone)), sum_of(divided_in_one)
    assert same(one.mean, other.mean)
    assert same(one.statistics, other.statistics)
    assert (one.weight, one.survivors, one.dropped) == (other.weight, other.survivors, other.dropped)


def test_who_drops_out_of_one_roster_is_left_out_with_a_reason_and_the_sum_stays_exact(tmp_path):
    merchants = league(tmp_path)
    gone = members(merchants, 0)[2]
    found = sum_of(merchants, losing(gone))
    expected = plain_sum(merchants, [name for name in NAMES if name != gone])
    assert same(found.statistics, expected.statistics)
    assert (found.weight, found.survivors) == (expected.weight, 12)
    assert list(found.dropped) == [NAMES.index(gone) + 1]
    assert "no answer" in found.dropped[NAMES.index(gone) + 1]


def test_a_roster_below_its_threshold_is_left_out_whole_and_the_others_sum_stands(tmp_path):
    merchants = league(tmp_path)
    ill = {*members(merchants, 0)[:4]}
    wire, cohort = Wire(merchants, lambda *of: losing(*ill)(*of)), divided_of(merchants)

    def ask(round):
        return cohort.sum(wire, question(wire, round=round), expected_of(merchants), 5.0)

    found = ask(1)
    assert same(found.statistics, plain_sum(merchants, members(merchants, 1)).statistics)
    assert {NAMES[node - 1] for node in found.dropped} == set(members(merchants, 0))
    assert "no answer" in found.dropped[NAMES.index(members(merchants, 0)[0]) + 1]
    [others] = {found.dropped[NAMES.index(name) + 1] for name in members(merchants, 0)[4:]}
    assert "its roster's sum failed: 3 of its merchants answered, 5 are required" in others
    ill.clear()
    assert (ask(2).survivors, ask(3).dropped) == (13, {})


def test_with_every_roster_below_its_threshold_nothing_is_released(tmp_path):
    merchants = league(tmp_path)
    with pytest.raises(CohortFailed) as failed:
        sum_of(merchants, losing(*members(merchants, 0)[:4], *members(merchants, 1)[:4]))
    assert set(failed.value.dropped) == set(range(1, 14))


def test_each_node_answers_its_own_roster_and_is_asked_by_no_other_once_it_is_known(tmp_path):
    merchants = league(tmp_path)
    wire, cohort = Wire(merchants), divided_of(merchants)
    for round in (1, 2):
        cohort.sum(wire, question(wire, round=round), expected_of(merchants), 5.0)
    refused = [name for step, name, data in wire.sent if step == KEYS and b"roster" in data]
    assert sorted(refused) == sorted(members(merchants, 1))  # by the first roster's set-up, once
    assert merchants.trained == dict.fromkeys(NAMES, 2)


def test_a_merchant_that_comes_later_finds_its_roster(tmp_path):
    merchants = league(tmp_path)
    away = {members(merchants, 1)[0]}
    wire, cohort = Wire(merchants, lambda *of: losing(*away, step=KEYS)(*of)), divided_of(merchants)
    found = [cohort.sum(wire, question(wire, round=1), expected_of(merchants), 5.0)]
    away.clear()
    found += [cohort.sum(wire, question(wire, round=n), expected_of(merchants), 5.0) for n in range(2, 12)]
    assert (found[0].survivors, found[-1].survivors, found[-1].dropped) == (12, 13, {})


PLAN = shared(cohort=7, dropouts=1, clipping_quantile=0.5, clipping_share=0.1)
"""Laid out for the larger roster; the smaller one has as many merchants as must survive."""


class Sharing(Merchants):
    """Merchants that answer with words."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        self.words = {name: rng.integers(-(2**18), 2**18, 14).astype(np.int32) for name in NAMES}
        replies = {name: Reply({}, {}, 1, words=words.tobytes()) for name, words in self.words.items()}
        exchange = NoisedExchange(PLAN, "training", SHAPES, PLAN.sampling_rate * 70.0)
        policy = 'modes = ["distributed"]\n'
        super().__init__(folder, replies, policy=policy, exchange=exchange, sharing=PLAN.sharing, most=MOST)

    def _vector(self, name, roster):
        return self.exchange.vector(self.answers[name].words)

    def total(self, faults=None):
        wire = Wire(self, faults)
        settings = {"plan": json.dumps(PLAN.to_dict()), "training": json.dumps({"expected_users": 70.0})}
        return divided_of(self).sum(wire, question(wire, **settings), Expected(SHAPES, {}, 1), 5.0)


def test_noised_words_of_two_rosters_are_added_and_divided_by_all_survivors(tmp_path):
    merchants = Sharing(tmp_path)
    found = merchants.total()
    words = np.sum(list(merchants.words.values()), axis=0) / 2.0**PLAN.scale_log2
    expected = words / (PLAN.sampling_rate * 70.0 * 13)
    np.testing.assert_array_equal(found.mean["mix"], expected[0].astype(np.float32))
    np.testing.assert_array_equal(found.mean["tower"].ravel(), expected[1:13].astype(np.float32))
    assert found.survivors == found.weight == 13
    each = merchants.exchange.opened(merchants.rosters[0], merchants.exchange.vector(bytes(4 * 14)), 7)
    assert each.statistics[WITHIN] == 0.5
    assert abs(found.statistics[WITHIN] - 0.5) > 0


def test_a_roster_with_too_few_for_its_own_noise_is_not_opened_however_many_the_others_are(tmp_path):
    merchants = Sharing(tmp_path)
    gone = members(merchants, 1)[0]  # six of six must survive, though 12 of 13 do
    found = merchants.total(losing(gone))
    assert found.survivors == 7
    assert {NAMES[node - 1] for node in found.dropped} == set(members(merchants, 1))


CARRIED = {  # by how many of the first roster's merchants, and of the second's
    "by enough of both": (3, 3),
    "by many of one alone": (7, 0),
    "by a single one of the second": (7, 1),
    "by one short of enough": (3, 2),
    "by all": (7, 6),
}


def carriers(folder):
    named = Merchants(folder / "names", dict.fromkeys(NAMES, Reply({"carried": np.zeros(5)}, {}, 1)), most=MOST)
    counts = np.array(list(CARRIED.values()))
    replies = {}
    for number in (0, 1):
        for place, name in enumerate(members(named, number)):
            replies[name] = Reply({"carried": (place < counts[:, number]).astype(np.float32)}, {}, 1)
    exchange = Exchange("vocabulary", {"carried": (len(CARRIED),)}, {}, MAX_WEIGHT)
    return Merchants(folder / "league", replies, exchange=exchange, most=MOST)


def counted(merchants, folder, cohort=None, faults=None):
    """The names of the items that a count over the league shares."""
    rounds = RoundsConfig(1, seed=0, round_timeout_s=5, gather_timeout_s=1, min_merchants=3)
    settings = RunSettings("test", "c", StrategyConfig(), rounds, OPEN, {}, "", "secure", "candidates")
    cohort = cohort or divided_of(merchants)
    count_vocabulary(Wire(merchants, faults), cohort, settings, Count(len(CARRIED), 3), folder)
    return [list(CARRIED)[number - 1] for number in read_shared(folder).items]


def test_the_vocabulary_holds_what_enough_merchants_of_every_roster_carry(tmp_path):
    merchants = carriers(tmp_path)
    assert counted(merchants, tmp_path) == ["by enough of both", "by all"]


def test_without_one_rosters_count_there_is_no_vocabulary_and_the_others_is_not_asked_again(tmp_path):
    merchants = carriers(tmp_path)
    cohort = divided_of(merchants)
    with pytest.raises(CohortFailed):
        counted(merchants, tmp_path, cohort, losing(*members(merchants, 1)[:4]))
    with pytest.raises(ServerError, match="nothing was counted"):
        read_shared(tmp_path)
    gone = members(merchants, 0)[0]  # another list of survivors, which its roster would refuse [T3]
    assert counted(merchants, tmp_path, cohort, losing(gone)) == ["by enough of both", "by all"]
    assert [merchants.trained[name] for name in members(merchants, 0)] == [1] * 7


def test_a_count_over_a_roster_that_was_drawn_anew_is_not_taken_for_this_one(tmp_path):
    merchants = carriers(tmp_path)
    with pytest.raises(CohortFailed):
        counted(merchants, tmp_path, faults=losing(*members(merchants, 1)[:4]))
    again = Merchants(tmp_path / "again", merchants.answers, exchange=merchants.exchange, most=5)
    with pytest.raises(ServerError, match="another roster"):
        counted(again, tmp_path)


@pytest.mark.parametrize("wrong", [{"candidates": 0, "carriers": 3}, {"candidates": 5, "carriers": 0}])
def test_a_count_of_nothing_or_by_nobody_is_refused_before_it_is_asked(wrong):
    with pytest.raises(msgspec.ValidationError, match=">= 1"):
        msgspec.json.decode(msgspec.json.encode(wrong), type=Count)


def test_the_count_of_another_catalogue_is_not_taken_for_this_one(tmp_path):
    merchants = carriers(tmp_path)
    counted(merchants, tmp_path)
    (part,) = tmp_path.glob("shared-001.json")
    part.write_bytes(part.read_bytes().replace(b"candidates", b"older"))
    with pytest.raises(ServerError, match="counts another catalogue"):
        counted(merchants, tmp_path)
