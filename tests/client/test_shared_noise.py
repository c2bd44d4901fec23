# SPDX-License-Identifier: Apache-2.0
"""Mode `distributed` at the merchant: one clipped sum and a share of noise, under a mask or not at all."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from client.errors import Refused
from client.trainer import Draws, TrainingConfig, train_as_one, train_in_shares, train_locally
from data.sampling import poisson_sample
from models.parameters import load_public
from models.popularity import popularity_counts
from privacy.adaptive_clipping import SCALE, WITHIN
from privacy.clipping import PerUserGradients
from privacy.ledger import Ledger
from privacy.noised_exchange import NoisedExchange
from privacy.plan import FAMILY
from privacy.secagg.errors import RequestRefused
from privacy.secagg.merchant import RoundTerms
from privacy.secure_exchange import TRANSPORT, request_digest
from tests.client.small import POLICY, TRAINING, request
from tests.client.test_secure import League
from tests.server.plans import shared

SHARED_POLICY = POLICY.replace("false", "true").replace('["none", "local"]', '["distributed"]')
PLAN = shared(cohort=5, dropouts=1)
PROMISES = {"colluders": 1, "min_survivors": 4, "scale_log2": 16}
USERS = 2.0


class SharedLeague(League):
    """Four others whose words are zero: the sum is what `north` sent."""

    plan = PLAN
    users = USERS

    def exchange(self, asked):
        runtime = self.runtime
        shapes = {"popularity": {"buyers": (runtime.vocabulary.size + 1,)}, "gate": {"sums": (4,)}}
        trained = {name: array.shape for name, array in asked.arrays.items() if name in runtime.spec.shared}
        divisor = self.users if asked.kind == "train" else 1.0
        return NoisedExchange(self.plan, FAMILY[asked.kind], shapes.get(asked.kind, trained), divisor)

    def terms(self, asked):
        settings = {**asked.settings, "run": asked.run, "server-round": asked.round}
        return self.exchange(asked).terms(self.roster, request_digest(asked.kind, settings, asked.arrays))

    def others_report(self, round_, asked, names=None):
        exchange, terms = self.exchange(asked), self.terms(asked)
        for name in names or self.sessions:
            self.sessions[name].open_round(round_.opening(), terms)
            round_.receive_report(self.sessions[name].report(exchange.vector(bytes(4 * terms.d))))

    def sum_of(self, asked):
        round_, opening = self.open(asked)
        reply = self.worker().answer(opening)
        assert (reply.arrays, reply.statistics, reply.words) == ({}, {}, b"")
        round_.receive_report(reply.secagg)
        self.others_report(round_, asked)
        found = self.exchange(asked).opened(self.roster, self.finish(round_).vector, 5)
        return {
            name: array * 5 * (self.users if asked.kind == "train" else 1.0) for name, array in found.mean.items()
        }


def asking(runtime, kind="train", **changes):
    return request(runtime, kind, plan=changes.pop("plan", PLAN), **changes)


@pytest.fixture
def league(small, runtime):
    return SharedLeague(small, runtime, SHARED_POLICY, **PROMISES).set_up()


def test_a_histogram_leaves_with_the_merchants_share_of_the_noise(league):
    found = league.sum_of(asking(league.runtime, "popularity"))["buyers"]
    exact = popularity_counts(league.worker().histories, league.runtime.vocabulary.size, clipping_norm=1.0)
    ratio = (found - exact).std() / PLAN.merchant_noise("popularity")
    assert 0.25 < ratio < 2.1  # 13 draws: a chance of one in a million
    assert PLAN.merchant_noise("popularity") > 0


def test_a_step_leaves_as_the_downhill_sum_of_clipped_gradients_with_its_share_of_the_noise(league):
    found = league.sum_of(asking(league.runtime))
    noise = np.concatenate([array.ravel() for array in found.values()])
    deviation = PLAN.merchant_noise("training")
    assert 0.8 < noise.std() / deviation < 1.5  # some 90 draws, over gradients of norm 1
    assert set(found) == set(league.runtime.spec.shared)


def test_two_rounds_draw_different_noise_and_each_is_charged(league, small):
    first, second = (league.sum_of(asking(league.runtime, round=number)) for number in (1, 2))
    assert all(not np.array_equal(first[name], second[name]) for name in first)
    booked = Ledger(small.home / "ledger.jsonl").reservations()
    assert [(each.round, each.spent) for each in booked] == [(1, True), (2, True)]


def test_a_second_attempt_masks_the_same_words_anew_and_costs_nothing_more(league, small):
    asked = asking(league.runtime)
    _, opening = league.open(asked)
    first = league.worker().answer(opening).secagg
    round_, again = league.open(asked, attempt=1)
    second = league.worker().answer(again).secagg
    assert first != second
    round_.receive_report(second)
    league.others_report(round_, asked)
    league.finish(round_)
    assert len(Ledger(small.home / "ledger.jsonl").reservations()) == 1


@pytest.mark.parametrize("name", [*TRANSPORT, "other"])
def test_the_same_words_are_never_opened_over_two_lists_whatever_the_platform_calls_the_question(
    league, small, name
):
    """The difference of two such sums would be one merchant's words, with its share of the noise alone."""
    first = asking(league.runtime, **{name: 1})
    round_, opening = league.open(first)
    round_.receive_report(league.worker().answer(opening).secagg)
    league.others_report(round_, first)
    league.finish(round_)
    again = asking(league.runtime, **{name: 2})
    round_, opening = league.open(again)
    round_.receive_report(league.worker().answer(opening).secagg)
    league.others_report(round_, again, ["east", "south", "west"])
    booked = Ledger(small.home / "ledger.jsonl").reservations()
    if name == "other":  # another question: other words, and paid for
        assert len(booked) == 2
        return
    assert len(booked) == 1
    with pytest.raises(Refused, match="answered before over other survivors"):
        league.ask(round_.survivors())


@pytest.mark.parametrize("kind", ["train", "popularity", "gate"])
def test_no_share_leaves_without_a_mask_even_where_the_merchant_allows_plain_sums(league, small, kind):
    (small.home / "policy.toml").write_text(SHARED_POLICY.replace("true", "false"))
    with pytest.raises(Refused, match="too little noise to leave without a mask"):
        league.worker().answer(asking(league.runtime, kind))
    assert not (small.home / "ledger.jsonl").exists()


ROSTERS = {
    "fewer survivors": ({"min_survivors": 3}, "min_survivors >= 4"),
    "more colluders": ({"colluders": 2}, "colluders <= 1"),
    "another grid": ({"scale_log2": 20}, "scale_log2 16"),
}


@pytest.mark.parametrize("case", ROSTERS)
def test_a_merchant_refuses_a_plan_whose_noise_its_roster_does_not_carry(small, runtime, case):
    changes, reason = ROSTERS[case]
    league = SharedLeague(small, runtime, SHARED_POLICY, **PROMISES | changes).set_up()
    asked = asking(runtime)
    with pytest.raises(RequestRefused, match=reason):
        league.terms(asked)
    league.terms = lambda _: RoundTerms(bytes(32), bytes(32), 1, 0)  # a platform that does not check
    _, opening = league.open(asked)
    with pytest.raises(Refused, match=reason):
        league.worker().answer(opening)
    assert not (small.home / "ledger.jsonl").exists()


def test_a_plan_for_another_cohort_than_the_platforms_gives_masks_that_do_not_match(league):
    """The platform may not show one plan to merchants and another in ROUND_OPEN."""
    asked = asking(league.runtime)
    _, opening = league.open(asked)
    other = asking(league.runtime, plan=shared(cohort=5, dropouts=1, epsilon=7.0))
    with pytest.raises(Refused, match=r"names another model|gives the vector another meaning"):
        league.worker().answer(replace(opening, settings=other.settings))


def test_expected_users_of_the_training_settings_do_not_change_what_a_merchant_sends(league):
    """The divisor is the platform's: post-processing."""
    asked = asking(league.runtime, training=json.dumps({**TRAINING, "expected_users": 7.0}))
    found = league.sum_of(asked)
    assert set(found) == set(league.runtime.spec.shared)


ADAPTIVE = shared(cohort=5, dropouts=1, clipping_quantile=0.5, clipping_share=0.1)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_gradients_are_clipped_at_the_norm_that_is_sent_and_the_count_says_how_many_were_within(
    small, runtime, scale
):
    """Next to no noise: what is opened is the sum clipped at scale times the plan's norm."""
    alone = {"cohort": 1, "dropouts": 0, "colluders": 0}
    quiet = replace(ADAPTIVE, epsilon=np.inf, noise_multiplier=1e-3, clipping_norm=0.1, sampling_rate=1.0, **alone)
    roster = SimpleNamespace(members=[0], min_survivors=1, colluders=0, scale_log2=16, max_words=5000)
    load_public(runtime.model, runtime.spec, asking(runtime).arrays)
    own, draws = small.worker(runtime).histories, Draws.from_seed("scale")
    exchange = NoisedExchange(
        quiet, "training", {n: asking(runtime).arrays[n].shape for n in runtime.spec.shared}, len(own), scale
    )
    vector = exchange.vector(train_in_shares(runtime, own, quiet, draws, scale).words)
    assert len(vector.body) == exchange.terms(roster, bytes(32)).d
    found = exchange.opened(roster, vector, 1)

    engine = PerUserGradients(runtime.model, tuple(runtime.spec.shared))
    rng = draws.generator()
    drawn, negatives = poisson_sample(len(own), 1.0, rng), runtime.task.negatives(rng, runtime.device)
    with engine.record(len(drawn), [negatives]):
        batch = runtime.task.batch(own, drawn, rng, runtime.device)
        losses = runtime.task.loss_per_user(runtime.model, batch, negatives)
    expected = engine.clipped_sum(losses, 0.1 * scale)
    for name, array in found.mean.items():
        exact = -expected.tensor(name).numpy() / len(own)
        np.testing.assert_allclose(array, exact, atol=1e-3 * scale)
    within = float((expected.norms_B <= 0.1 * scale).float().mean())
    assert float(found.statistics[WITHIN]) == pytest.approx(within, abs=0.01)
    assert 0 <= within <= 1


@pytest.mark.parametrize(
    ("plan", "scale"), [(ADAPTIVE, 0.0), (ADAPTIVE, 1e9), (ADAPTIVE, float("nan")), (ADAPTIVE, "1"), (PLAN, 2.0)]
)
def test_a_clipping_norm_out_of_bounds_or_outside_the_plan_is_refused_before_anything_is_spent(
    league, small, plan, scale
):
    asked = asking(league.runtime, plan=plan, **{SCALE: scale})
    with pytest.raises(Refused, match="clipping-scale must lie in"):
        league.worker().answer(replace(league.open(asking(league.runtime))[1], settings=asked.settings))
    assert not (small.home / "ledger.jsonl").exists()


WHOLE = shared(cohort=5, dropouts=1, mode="merchant", unit="merchant", sampling_rate=1.0, gate_share=0.0)
QUIET = replace(WHOLE, epsilon=np.inf, noise_multiplier=1e-2, popularity_noise_multiplier=1e-3, clipping_norm=0.1)


class WholeLeague(SharedLeague):
    """The same in mode `merchant`, with next to no noise."""

    plan = QUIET
    users = 1.0


@pytest.fixture
def whole(small, runtime):
    allowed = SHARED_POLICY.replace("distributed", "merchant").replace("30.0", "1e12")
    return WholeLeague(small, runtime, allowed + 'units = ["merchant"]\n', **PROMISES).set_up()


def test_in_mode_merchant_the_ordinary_update_leaves_clipped_as_a_whole(whole):
    training = TRAINING | {"learning_rate": 2.0}
    asked = asking(whole.runtime, plan=QUIET, training=json.dumps(training))
    found = whole.sum_of(asked)
    load_public(whole.runtime.model, whole.runtime.spec, asked.arrays)
    worker = whole.worker()
    draws = worker._draws(asked, worker._inputs(asked))
    config = TrainingConfig(**training)
    update = train_locally(whole.runtime, worker.histories, config, draws).arrays
    norm = np.linalg.norm(np.concatenate([array.ravel() for array in update.values()]))
    assert norm > 0.1
    for name, array in found.items():
        np.testing.assert_allclose(array, update[name] * 0.1 / norm, atol=3e-3)


def test_in_mode_merchant_the_whole_histogram_is_clipped(whole):
    found = whole.sum_of(asking(whole.runtime, "popularity", plan=QUIET))["buyers"]
    counts = popularity_counts(whole.worker().histories, whole.runtime.vocabulary.size)
    np.testing.assert_allclose(found, counts / np.linalg.norm(counts), atol=0.01)


def test_in_mode_merchant_there_is_no_gate_and_a_merchant_without_users_sends_noise(whole, small, runtime):
    asked = asking(runtime, "gate", plan=QUIET)
    whole.terms = lambda _: RoundTerms(bytes(32), bytes(32), 4, 0)  # a platform that does not check
    with pytest.raises(Refused, match="the release 'gate' shares no noise"):
        whole.worker().answer(whole.open(asked)[1])
    config = TrainingConfig(**TRAINING)
    reply = train_as_one(runtime, whole.worker().histories.take([]), QUIET, config, Draws.from_seed("nobody"))
    words = np.frombuffer(reply.words, "<u4").view(np.int32)
    assert 0.8 < words.std() / QUIET.share("training").deviation_grid < 1.2
