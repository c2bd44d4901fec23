# SPDX-License-Identifier: Apache-2.0
"""A merchant says which candidates it carries, trains on its own vocabulary alone, where enough carry it."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from client.errors import Refused
from client.runtime import open_runtime, read_runtime
from client.vocabulary import carried
from privacy.ledger import Ledger
from tests.client.small import ITEMS, POLICY, TRAIN_UNTIL, request, vocabulary
from tests.client.test_secure import League

TRAINS = ("train", "popularity", "gate")


@pytest.fixture
def uncounted(small):
    """The runtime of a home whose list nobody has counted yet."""
    replace(vocabulary(), carriers=0).save(small.folder / "vocabulary.parquet")
    return open_runtime(read_runtime(small.home / "runtime.json"))


def held(small):
    """What is in this merchant's events before the cut, by the events file itself."""
    sold = pl.read_parquet(small.events).filter(pl.col("timestamp") < TRAIN_UNTIL)["item_id"].unique()
    return [float(item in set(sold)) for item in vocabulary().item_ids]


def test_the_answer_holds_zeros_and_ones_and_nothing_else(small, uncounted):
    path = small.events
    pl.read_parquet(path).filter(~pl.col("item_id").is_in(["item-03", "item-07"])).write_parquet(path)
    worker = small.worker(uncounted)
    reply = worker.answer(request(uncounted, "vocabulary"))
    assert (set(reply.arrays), reply.statistics, reply.weight) == ({"carried"}, {}, 1)
    assert reply.arrays["carried"].tolist() == held(small) == [float(i not in (3, 7)) for i in range(12)]
    nobody = carried(worker.histories.take([]), ITEMS)
    assert nobody.arrays["carried"].tolist() == [0.0] * ITEMS


def test_what_a_merchant_carries_is_in_no_budget(small, uncounted):
    small.worker(uncounted).answer(request(uncounted, "vocabulary"))
    assert Ledger(small.home / "ledger.jsonl").reservations() == ()


@pytest.mark.parametrize("kind", [*TRAINS, "vocabulary"])
@pytest.mark.parametrize("named", ["", "0" * 64])
def test_a_run_over_another_vocabulary_than_this_homes_is_refused(small, runtime, kind, named):
    with pytest.raises(Refused, match="the run is over vocabulary"):
        small.worker(runtime).answer(request(runtime, kind, vocabulary=named))


@pytest.mark.parametrize("kind", TRAINS)
def test_a_policy_with_a_larger_m_than_the_run_refuses(small, runtime, kind):
    (small.home / "policy.toml").write_text(POLICY + "min_carriers = 4\n")
    worker = small.worker(runtime)
    with pytest.raises(Refused, match="items of 3 merchants, at least 4 must carry each"):
        worker.answer(request(runtime, kind))


@pytest.mark.parametrize("kind", TRAINS)
def test_nobody_trains_on_a_list_that_nobody_counted(small, uncounted, kind):
    with pytest.raises(Refused, match="items of 0 merchants"):
        small.worker(uncounted).answer(request(uncounted, kind))


def report_of(league, asked):
    round_, opening = league.open(asked)
    round_.receive_report(league.worker().answer(opening).secagg)
    return round_


def test_what_a_merchant_carries_is_opened_over_one_list_of_survivors_ever_whatever_the_run(small, uncounted):
    league = League(small, uncounted).set_up()
    first = request(uncounted, "vocabulary")
    round_ = report_of(league, first)
    league.others_report(round_, first)
    league.finish(round_)
    again = replace(first, run="run-2", settings={**first.settings, "cohort-size": 4})
    round_ = report_of(league, again)
    league.others_report(round_, again, ["east", "south", "west"])
    with pytest.raises(Refused, match="answered before over other survivors"):
        league.ask(round_.survivors())


def test_a_league_that_has_its_vocabulary_is_not_counted_again_over_it(small, runtime):
    """Both counts together would show what a merchant carries that answered the first one alone."""
    replace(runtime.vocabulary, carriers=3).save(small.folder / "vocabulary.parquet")
    counted = open_runtime(read_runtime(small.home / "runtime.json"))
    with pytest.raises(Refused, match="has its vocabulary"):
        small.worker(counted).answer(request(counted, "vocabulary"))


def test_of_what_a_merchant_carries_nothing_leaves_in_clear(small, uncounted):
    league = League(small, uncounted).set_up()
    path = small.events
    pl.read_parquet(path).filter(pl.col("item_id") < "item-07").write_parquet(path)
    with pytest.raises(Refused, match="secure aggregation is required"):
        league.worker().answer(request(uncounted, "vocabulary"))
    _, opening = league.open(request(uncounted, "vocabulary"))
    reply = league.worker().answer(opening)
    assert (reply.arrays, reply.statistics, reply.weight) == ({}, {}, 0)
    bits = np.array([1.0] * 7 + [0.0] * 5)
    for plain in (bits.astype("<f4"), bits.astype("<u4"), bits.astype("<u8"), (bits * 2**24).astype("<i8")):
        assert plain.tobytes() not in reply.secagg
