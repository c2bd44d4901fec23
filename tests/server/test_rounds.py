# SPDX-License-Identifier: Apache-2.0
"""Rounds over the in-process engine: resume, failures, deadlines; the workers answer with real arrays."""

import functools
import time

import numpy as np
import pytest

from client.errors import Refused
from client.wire import Reply
from privacy.adaptive_clipping import SCALE, WITHIN, scale_after
from server.checkpoints import Checkpoint, CheckpointFolder, model_hash
from server.errors import CheckpointMismatch, RunFailed
from server.rounds import RoundsConfig, run_rounds
from simulation.grid import InProcessGrid
from simulation.pool import executor
from strategies.build import AVERAGING, StrategyConfig
from strategies.cohort_grid import CohortGrid
from strategies.plain_cohort import PlainCohort

NAMES = [f"merchant-{i}" for i in range(6)]
START = {"tower": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "mix": np.array(0.5, np.float32)}


def pull_towards_own_point(merchant, request):
    """A worker whose optimum depends on its name: enough for strategies to move and disagree."""
    target = np.float32(sum(merchant.encode()) % 7 - 3)
    update = {k: (0.3 * (target - v)).astype(np.float32) for k, v in request.arrays.items() if k in START}
    return Reply(update, {"loss": np.array(abs(target), np.float32)}, weight=1 + int(target) % 3)


def within_the_norm(merchant, request):
    """A worker whose answer and share of users within the norm hang on the norm that it is sent."""
    scale = np.float32(request.settings[SCALE])
    update = {k: np.full_like(v, scale) for k, v in request.arrays.items() if k in START}
    return Reply(update, {WITHIN: np.asarray(scale / 5, np.float32)}, weight=1)


def answerer(faults):
    def answer(merchant, request):
        if SCALE in request.settings:
            return within_the_norm(merchant, request)
        fault = faults.get(merchant)
        if fault == "raises":
            raise ValueError("out of memory")
        if fault == "refuses":
            raise Refused("epsilon is spent")
        if fault == "hangs":
            time.sleep(60)
        reply = pull_towards_own_point(merchant, request)
        if fault == "nan":
            reply.arrays["tower"][0, 0] = np.nan
        if fault == "inf":
            reply.arrays["tower"][0, 0] = np.inf
        if fault == "shape":
            reply.arrays["tower"] = reply.arrays["tower"][:2]
        return reply

    return answer


def run(
    folder,
    *,
    strategy="fedavg",
    rounds=4,
    faults=None,
    start=None,
    timeout_s=60.0,
    workers=1,
    stop_after=None,
    averaging=0.0,
    quantile=0.0,
):
    pool = executor(functools.partial(answerer, faults or {}), workers)
    league = InProcessGrid(NAMES, pool)
    grid = CohortGrid(
        league, PlainCohort(0.5), {WITHIN if quantile else "loss": ()}, 10, {"prior": np.ones(3, np.float32)}
    )
    checkpoints = CheckpointFolder(folder, "config")
    config = RoundsConfig(
        stop_after or rounds, seed=1, round_timeout_s=timeout_s, gather_timeout_s=1, min_merchants=2
    )
    begin = start or checkpoints.newest() or Checkpoint(0, "config", START)
    try:
        return run_rounds(
            StrategyConfig(strategy, fraction_train=0.8, averaging=averaging),
            league,
            grid,
            begin,
            config,
            {"run": "test"},
            checkpoints,
            lambda c: None,
            quantile,
        )
    finally:
        pool.close()


@pytest.mark.parametrize("averaging", [0.0, 3.0])
@pytest.mark.parametrize("strategy", sorted(AVERAGING))
def test_a_resumed_run_draws_the_same_cohorts_as_an_undisturbed_one_and_ends_in_the_same_model(
    tmp_path, strategy, averaging
):
    asked = {"strategy": strategy, "averaging": averaging}
    undisturbed = run(tmp_path / "a", **asked, rounds=5)
    run(tmp_path / "b", **asked, stop_after=2)
    resumed = run(tmp_path / "b", **asked, rounds=5)
    assert model_hash(resumed.arrays) == model_hash(undisturbed.arrays)
    assert model_hash(resumed.model) == model_hash(undisturbed.model)
    assert (model_hash(resumed.model) == model_hash({**resumed.arrays, **resumed.fixed})) == (not averaging)
    assert [r.round for r in resumed.history] == [1, 2, 3, 4, 5]


def test_every_finished_round_is_on_disk_before_the_next_one_starts(tmp_path, monkeypatch):
    newest, opened = {}, answerer

    def looking(faults):
        answer = opened(faults)

        def look(merchant, request):
            newest[request.round] = max((path.name for path in tmp_path.glob("round-*")), default="")[:11]
            return answer(merchant, request)

        return look

    monkeypatch.setitem(globals(), "answerer", looking)
    run(tmp_path, rounds=4)
    assert newest == {1: "", 2: "round-00001", 3: "round-00002", 4: "round-00003"}


def test_a_run_that_resumes_asks_for_the_clipping_norm_that_an_undisturbed_one_asks_for(tmp_path):
    undisturbed = run(tmp_path / "a", rounds=6, quantile=0.5)
    run(tmp_path / "b", stop_after=3, quantile=0.5)
    resumed = run(tmp_path / "b", rounds=6, quantile=0.5)
    assert [r.statistics for r in resumed.history] == [r.statistics for r in undisturbed.history]
    assert model_hash(resumed.arrays) == model_hash(undisturbed.arrays)
    released = [record.statistics[WITHIN] for record in resumed.history]
    asked = [scale_after(0.5, released[:i]) for i in range(6)]
    assert released == pytest.approx([4 * scale / 5 for scale in asked], rel=1e-4)
    assert len(set(asked)) > 3


def test_one_worker_equals_two_workers(tmp_path):
    one, two = run(tmp_path / "a", workers=1), run(tmp_path / "b", workers=2)
    assert model_hash(one.arrays) == model_hash(two.arrays)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raises", "out of memory"),
        ("refuses", "epsilon is spent"),
        ("nan", "NaN"),
        ("inf", "infinity"),
        ("shape", "expected float32"),
    ],
)
def test_a_merchant_that_fails_is_dropped_from_the_round_with_a_reason(tmp_path, fault, reason):
    end = run(tmp_path, rounds=1, faults={"merchant-2": fault, "merchant-3": fault})
    record = end.history[0]
    assert record.failure == ""
    assert record.survivors + len(record.dropped) == 4
    assert all(reason in why for why in record.dropped.values())
    assert np.isfinite(end.arrays["tower"]).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_merchant_that_hangs_is_dropped_at_the_deadline(tmp_path, workers):
    began = time.monotonic()
    end = run(tmp_path, rounds=1, faults={"merchant-5": "hangs"}, timeout_s=4.0, workers=workers)
    assert time.monotonic() - began < 30
    dropped = end.history[0].dropped
    assert not dropped or any("deadline" in why for why in dropped.values())


def test_a_failed_round_leaves_the_model_as_it_was_and_a_run_in_which_every_round_failed_raises(tmp_path):
    faults = dict.fromkeys(NAMES, "raises")
    with pytest.raises(RunFailed, match="all 3 rounds failed"):
        run(tmp_path, rounds=3, faults=faults)
    newest = CheckpointFolder(tmp_path, "config").newest()
    assert newest is not None
    assert model_hash(newest.arrays) == model_hash(START)
    assert all(record.failure for record in newest.history)


def test_a_run_recovers_when_merchants_come_back(tmp_path):
    with pytest.raises(RunFailed):
        run(tmp_path, stop_after=2, faults=dict.fromkeys(NAMES, "raises"))
    end = run(tmp_path, rounds=4)
    assert [bool(record.failure) for record in end.history] == [True, True, False, False]


def test_a_run_never_resumes_from_another_configurations_checkpoints(tmp_path):
    run(tmp_path, rounds=1)
    with pytest.raises(CheckpointMismatch, match="resume=false"):
        CheckpointFolder(tmp_path, "another").newest()


@pytest.mark.parametrize("damage", [lambda d: d[:-9], lambda d: d[:40] + b"x" + d[41:], lambda d: b""])
def test_a_damaged_or_half_written_checkpoint_is_never_loaded_the_newest_whole_one_is(tmp_path, damage):
    run(tmp_path, rounds=3)
    newest = sorted(tmp_path.glob("round-*"))[-1]
    newest.write_bytes(damage(newest.read_bytes()))
    loaded = CheckpointFolder(tmp_path, "config").newest()
    assert loaded is not None
    assert loaded.round == 2


class Vanishing(InProcessGrid):
    """A league whose merchants leave after some looks at who is online."""

    looks = 3

    def get_node_ids(self):
        self.looks -= 1
        return super().get_node_ids() if self.looks > 0 else []


def test_a_round_for_which_the_league_does_not_gather_fails_by_the_deadline(tmp_path):
    pool = executor(functools.partial(answerer, {}), 1)
    league = Vanishing(NAMES, pool)
    grid = CohortGrid(league, PlainCohort(0.5), {"loss": ()}, 10, {})
    config = RoundsConfig(4, seed=1, round_timeout_s=5, gather_timeout_s=0.3, min_merchants=2)
    end = run_rounds(
        StrategyConfig(),
        league,
        grid,
        Checkpoint(0, "config", START),
        config,
        {},
        CheckpointFolder(tmp_path, "config"),
        lambda c: None,
    )
    assert [bool(record.failure) for record in end.history] == [False, False, True, True]
    assert "0 merchants online" in end.history[-1].failure
