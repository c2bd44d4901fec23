# SPDX-License-Identifier: Apache-2.0
"""The secure cohort over real merchants' seats: the same means as in clear, drop-outs at every step, retries."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord

from client.wire import Reply
from privacy.secure_exchange import WIDE_GRID, Exchange
from simulation.rosters import BOUND
from strategies.build import AVERAGING, StrategyConfig, build
from strategies.cohort import Expected
from strategies.cohort_grid import CohortGrid
from strategies.errors import CohortFailed, NeedsSingleUpdates
from strategies.plain_cohort import PlainCohort
from strategies.secure_cohort import PATIENCE
from tests.strategies.league import (
    NAMES,
    STATISTICS,
    Counting,
    Merchants,
    Wire,
    answers,
    cohort_of,
    expected_of,
    question,
)

KEYS, KEM, READY, REPORT, CONFIRM, UNMASK = 1, 3, 5, 7, 9, 11  # kinds of the messages that are answered
STEPS = {"keys": 1, "kem": 3, "ready": 5, "report": 7, "confirm": 9, "unmask": 11}


def losing(step, *lost):
    """A wire that loses the answers of these merchants at one step."""
    return lambda at, name, reply: None if at == STEPS[step] and name in lost else reply


def same(one, other):
    return one.keys() == other.keys() and all(one[k].tobytes() == other[k].tobytes() for k in one)


def plain_sum(merchants, names=None):
    wire = Wire(merchants)
    nodes = [node for node, name in wire.names.items() if name in (names or NAMES)]
    return PlainCohort(0.1).sum(wire, question(wire, nodes=nodes), expected_of(merchants), 5.0)


def secure_sum(merchants, faults=None, numbers=None, round=1):
    wire = Wire(merchants, faults)
    return cohort_of(merchants, numbers=numbers).sum(
        wire, question(wire, round=round), expected_of(merchants), 5.0
    )


def test_on_values_of_the_grid_the_sum_is_the_plain_one_bit_for_bit(tmp_path):
    merchants = Merchants(tmp_path, answers(grid_bits=16))
    merchants.exchange = replace(merchants.exchange, max_weight=1)
    wire = Wire(merchants)
    asked = question(wire, **{"max-weight": 1})
    secure = cohort_of(merchants).sum(wire, asked, expected_of(merchants), 5.0)
    plain = plain_sum(merchants)
    assert same(secure.mean, plain.mean)
    assert same(secure.statistics, plain.statistics)
    assert (secure.weight, secure.survivors, secure.dropped) == (plain.weight, plain.survivors, plain.dropped)
    assert all(array.dtype == np.float32 for array in secure.mean.values())


def test_weights_statistics_and_counts_are_exact_and_updates_within_one_step_of_the_grid_a_merchant(tmp_path):
    given = {name: replace(reply, weight=1 + 37 * i) for i, (name, reply) in enumerate(answers().items())}
    merchants = Merchants(tmp_path, given)
    secure, plain = secure_sum(merchants), plain_sum(merchants)
    assert same(secure.statistics, plain.statistics)
    assert secure.weight == plain.weight == sum(reply.weight for reply in given.values())
    step = 2.0**-merchants.roster.scale_log2 * merchants.exchange.max_weight / secure.weight
    for name in secure.mean:
        error = np.abs(secure.mean[name].astype(np.float64) - plain.mean[name])
        assert error.max() <= len(NAMES) * step + 2**-24 * np.abs(plain.mean[name]).max()


def test_the_decoded_sum_is_the_sum_of_the_quantised_inputs_bit_for_bit(tmp_path):
    merchants = Merchants(tmp_path, answers())
    secure = secure_sum(merchants)
    vectors = []
    for name, reply in merchants.answers.items():
        dither = name.encode().ljust(32, b".")
        args = (reply.arrays, reply.statistics, reply.weight, dither)
        vectors.append(merchants.exchange.vector(merchants.roster, *args))
    total = vectors[0]
    for vector in vectors[1:]:
        total.add(vector)
    assert same(secure.mean, merchants.exchange.opened(merchants.roster, total, len(NAMES)).mean)


@pytest.mark.parametrize("purpose", ["popularity", "gate"])
def test_histograms_and_gate_sums_are_the_plain_ones_bit_for_bit(tmp_path, purpose):
    rng = np.random.default_rng(3)
    given = {name: Reply({"sums": rng.normal(0, 900, 50).astype(np.float32)}, {}, 1) for name in NAMES}
    merchants = Merchants(tmp_path, given, exchange=Exchange(purpose, {"sums": (50,)}, {}))
    wire = Wire(merchants)
    asked = question(wire, model={}, kind=f"query.{purpose}", **{"max-weight": 1})
    expected = Expected({"sums": (50,)}, {}, max_weight=1)
    secure = cohort_of(merchants).sum(wire, asked, expected, 5.0)
    plain = PlainCohort(0.5).sum(wire, question(wire, model={}, kind=f"query.{purpose}"), expected, 5.0)
    assert same(secure.mean, plain.mean)
    assert secure.weight == plain.weight


@pytest.mark.parametrize("step", STEPS)
def test_who_drops_out_at_any_step_is_left_out_with_a_reason_and_the_sum_stays_exact(tmp_path, step):
    merchants = Merchants(tmp_path, answers())
    gone = NAMES[2]
    found = secure_sum(merchants, losing(step, gone))
    in_the_sum = step in ("confirm", "unmask")  # its vector arrived: its masks are taken off by the others
    expected = plain_sum(merchants, NAMES if in_the_sum else [name for name in NAMES if name != gone])
    assert found.survivors == expected.survivors == len(NAMES) - (not in_the_sum)
    assert same(found.statistics, expected.statistics)
    assert found.weight == expected.weight
    assert list(found.dropped) == ([] if in_the_sum else [3])
    assert all(reason for reason in found.dropped.values())


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_released_below_the_rosters_n_min_and_threshold(tmp_path, step):
    merchants = Merchants(tmp_path, answers())
    assert merchants.roster.drops_tolerated == 1
    with pytest.raises(CohortFailed) as failed:
        secure_sum(merchants, losing(step, NAMES[0], NAMES[4]))
    assert failed.value.required == merchants.roster.min_survivors
    assert failed.value.survivors < failed.value.required
    assert set(failed.value.dropped) >= {1, 5}


def test_a_second_attempt_follows_a_first_that_failed_before_anything_was_opened(tmp_path):
    merchants = Merchants(tmp_path, answers())
    left = {NAMES[1], NAMES[3]}

    def once(step, name, reply):
        if step == REPORT and name in left:
            left.discard(name)
            return None
        return reply

    found = secure_sum(merchants, once)
    assert found.survivors == len(NAMES)
    assert found.dropped == {}


def test_a_failed_sum_leaves_the_next_one_working(tmp_path):
    merchants = Merchants(tmp_path, answers())
    numbers, ill = Counting(), {NAMES[0], NAMES[4]}
    wire = Wire(merchants, lambda step, name, reply: None if step == REPORT and name in ill else reply)
    cohort = cohort_of(merchants, numbers=numbers)
    with pytest.raises(CohortFailed):
        cohort.sum(wire, question(wire), expected_of(merchants), 5.0)
    ill.clear()
    assert cohort.sum(wire, question(wire, round=2), expected_of(merchants), 5.0).survivors == len(NAMES)


def test_rounds_of_one_epoch_need_one_set_up(tmp_path):
    merchants = Merchants(tmp_path, answers())
    wire, numbers = Wire(merchants), Counting()
    cohort = cohort_of(merchants, numbers=numbers)
    for round in (1, 2, 3):
        cohort.sum(wire, question(wire, round=round), expected_of(merchants), 5.0)
    assert numbers.epoch == 1
    steps = [step for step, _, _ in wire.sent]
    assert steps.count(KEYS) == 2 * len(NAMES)
    assert steps.count(REPORT) == 3 * 2 * len(NAMES)


@pytest.mark.parametrize("step", ["nowhere", "report", "confirm", "unmask"])
def test_a_round_takes_three_exchanges_whoever_drops_out_within_the_threshold(tmp_path, step):
    exchanges = []

    class Counted(Wire):
        def send_and_receive(self, messages, *, timeout=None):
            exchanges.append(timeout)
            return super().send_and_receive(messages, timeout=timeout)

    merchants = Merchants(tmp_path, answers())
    wire, cohort = Counted(merchants), cohort_of(merchants)
    cohort.sum(wire, question(wire), expected_of(merchants), 5.0)
    assert len(exchanges) == 3 + 3  # a set-up, once in an epoch
    wire.faults = losing(step, NAMES[2]) if step in STEPS else wire.faults
    cohort.sum(wire, question(wire, round=2), expected_of(merchants), 5.0)
    assert len(exchanges) == 3 + 3 + 3


def test_a_merchant_that_missed_the_set_up_is_left_out_with_the_reason_and_taken_in_again_soon(tmp_path):
    away = {NAMES[1]}
    wire = Wire(
        Merchants(tmp_path, answers()), lambda step, name, reply: None if step == KEYS and name in away else reply
    )
    numbers = Counting()
    cohort = cohort_of(wire.merchants, numbers=numbers)

    def sum_of(round):
        return cohort.sum(wire, question(wire, round=round), expected_of(wire.merchants), 5.0)

    first = sum_of(1)
    [reason] = first.dropped.values()
    assert "no answer" in reason
    away.clear()
    later = [sum_of(round) for round in range(2, PATIENCE + 2)]
    assert "missed the set-up of this epoch: no answer" in str(later[0].dropped)
    assert [found.survivors for found in later[:-1]] == [len(NAMES) - 1] * (PATIENCE - 1)
    assert later[-1].survivors == len(NAMES)
    assert numbers.epoch == 2


def test_a_restarted_platform_sets_up_anew_and_goes_on(tmp_path):
    merchants, numbers = Merchants(tmp_path, answers()), Counting()
    first = secure_sum(merchants, numbers=numbers)
    again = secure_sum(merchants, numbers=numbers)  # another session, as after a crash before the checkpoint
    assert same(first.mean, again.mean)
    assert numbers.epoch == 2


def test_what_was_answered_is_opened_over_one_list_of_survivors_only(tmp_path):
    merchants, numbers = Merchants(tmp_path, answers()), Counting()
    secure_sum(merchants, numbers=numbers)
    with pytest.raises(CohortFailed, match="answered before over other survivors"):
        secure_sum(merchants, losing("report", NAMES[2]), numbers)
    assert secure_sum(merchants, losing("report", NAMES[2]), numbers, round=2).survivors == len(NAMES) - 1


def test_all_merchants_are_asked_the_same(tmp_path):
    merchants = Merchants(tmp_path, answers())
    wire = Wire(merchants)
    asked = [*question(wire, nodes=[1, 2, 3]), *question(wire, nodes=[4, 5, 6], round=2)]
    with pytest.raises(ValueError, match="2 different questions"):
        cohort_of(merchants).sum(wire, asked, expected_of(merchants), 5.0)


def test_a_merchant_that_was_asked_another_question_spoils_no_sum(tmp_path):
    """An altered model on the way to one merchant: it refuses, the others' sum is exact."""
    merchants = Merchants(tmp_path, answers())
    honest = merchants.answer

    def misled(name, request):
        if name == NAMES[5] and request.kind == "train":
            request = replace(request, arrays={"tower": np.ones(3, np.float32)})
        return honest(name, request)

    merchants.answer = misled
    found = secure_sum(merchants)
    assert found.survivors == len(NAMES) - 1
    assert "another model" in found.dropped[6]


@pytest.mark.parametrize("value", [np.nan, np.inf, 2 * BOUND])
def test_an_update_that_is_nan_infinite_or_out_of_range_is_refused_at_the_merchant(tmp_path, value):
    given = answers()
    given[NAMES[0]].arrays["tower"][1, 1] = value
    given = {name: replace(reply, weight=1 << 10) for name, reply in given.items()}
    merchants = Merchants(tmp_path, given)
    wire = Wire(merchants)
    found = cohort_of(merchants).sum(wire, question(wire), expected_of(merchants), 5.0)
    assert found.survivors == len(NAMES) - 1
    assert "tower" in found.dropped[1]
    assert not any(step == REPORT and name == NAMES[0] and len(data) > 400 for step, name, data in wire.sent)


def test_no_message_of_a_run_holds_an_update_weight_count_or_statistic_in_clear(tmp_path):
    given = {name: replace(reply, weight=500 + i) for i, (name, reply) in enumerate(answers(size=64).items())}
    merchants = Merchants(tmp_path, given)
    wire = Wire(merchants)
    cohort = cohort_of(merchants)
    for round in (1, 2):
        cohort.sum(wire, question(wire, round=round), expected_of(merchants), 5.0)
    assert len(wire.sent) == 2 * len(NAMES) * (3 + 2 * 3)
    dump = b"".join(data for _, _, data in wire.sent)
    for name, reply in given.items():
        args = (reply.arrays, reply.statistics, reply.weight, name.encode().ljust(32, b"."))
        vector = merchants.exchange.vector(merchants.roster, *args)
        tower = reply.arrays["tower"]
        secrets = [
            *(tower[at : at + 2].tobytes() for at in range(0, 64, 2)),
            *(vector.body[at : at + 2].tobytes() for at in range(0, 64, 2)),
            *(word.tobytes() for word in vector.tail),
            *(int(reply.weight).to_bytes(8, order) for order in ("little", "big")),
            *(np.float64(statistic).tobytes() for statistic in reply.statistics.values()),
            *(
                np.rint(np.float64(statistic) * WIDE_GRID).astype("<i8").tobytes()
                for statistic in reply.statistics.values()
            ),
        ]
        assert not [secret for secret in secrets if secret in dump]


def test_the_same_search_finds_everything_in_a_plain_run(tmp_path):
    merchants = Merchants(tmp_path, answers(size=64))
    wire = Wire(merchants)
    PlainCohort(0.5).sum(wire, question(wire), expected_of(merchants), 5.0)
    dump = b"".join(data for _, _, data in wire.sent)
    for reply in merchants.answers.values():
        assert reply.arrays["tower"][4:6].tobytes() in dump
        assert reply.statistics["loss"].tobytes() in dump


@pytest.mark.parametrize("strategy", sorted(AVERAGING))
def test_every_averaging_strategy_runs_over_it_unchanged(tmp_path, strategy):
    model = {"tower": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "mix": np.array(0.5, np.float32)}
    merchants = Merchants(tmp_path, answers(grid_bits=16))
    ended = []
    for cohort in (cohort_of(merchants), PlainCohort(0.5)):
        grid = CohortGrid(Wire(merchants), cohort, STATISTICS, 1 << 10, {})
        grid.gather([1, 2, 3, 4, 5, 6])
        chosen = build(StrategyConfig(strategy, options={"proximal_mu": 0.1} if strategy == "fedprox" else {}))
        arrays = ArrayRecord({name: Array(array) for name, array in model.items()})
        for number in (1, 2):
            config = ConfigRecord({"run": "test", "max-weight": 1 << 10})
            messages = chosen.configure_train(number, arrays, config, grid)
            arrays, _ = chosen.aggregate_train(number, grid.send_and_receive(messages, timeout=5.0))
        ended.append({name: array.numpy() for name, array in arrays.items()})
    secure, plain = ended
    assert not np.allclose(plain["tower"], model["tower"])
    for name in plain:
        np.testing.assert_allclose(
            secure[name], plain[name], atol=2e-3 if "ada" in strategy or "yogi" in strategy else 1e-4
        )


def test_a_strategy_that_needs_single_updates_is_refused_by_name():
    with pytest.raises(NeedsSingleUpdates, match="krum"):
        build(StrategyConfig("krum"))
