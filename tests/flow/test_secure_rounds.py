# SPDX-License-Identifier: Apache-2.0
"""Whole runs over secure aggregation: one and two workers, kill -9, drop-outs, and the plain run beside it."""

import importlib.util
import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from client.home import open_home
from privacy.adaptive_clipping import WITHIN, scale_after
from privacy.ledger import Ledger
from server.checkpoints import model_hash, write_checkpoint
from simulation.config import register
from simulation.federation import federate, set_up
from simulation.league import prepare
from simulation.nodes import nodes
from simulation.plans import ORDINARY, PRIVATE, federations
from simulation.pool import executor
from simulation.vocabulary import agreed
from tests.flow.conftest import ROOT, SMALL

QUICK = (
    *("compare.local_only=false", "compare.centralised=false", "compare.baselines=false", "serve=false"),
    *("compare.non_private=false", "cohort.aggregation=secure"),
)


def tiny(own_files, folder: Path, *settings: str):
    """The tiny league, prepared: its folder, settings and merchants."""
    register()
    files = f"data.events='{own_files / 'events.csv'}'", f"data.catalogue='{own_files / 'catalogue.csv'}'"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", [*SMALL, *files, *settings]))
    return folder, config, agreed(config, folder, prepare(config.data, folder / "league"))


@pytest.fixture(scope="module")
def league(own_files, tmp_path_factory):
    """With local noise: each answer could leave by itself, so that masked and plain sums can be compared."""
    local = ("privacy=local", "privacy.rounds=3", "privacy.steps_per_round=2", "strategy=fedavg")
    return tiny(own_files, tmp_path_factory.mktemp("secure rounds"), *local)


@pytest.fixture(scope="module")
def sharing(own_files, tmp_path_factory):
    """With shared noise, the default."""
    return tiny(own_files, tmp_path_factory.mktemp("shared noise"))


def run(league, folder: Path, name: str, aggregation: str, *, workers=1, spoil=None, rounds=3):
    """One federated run; runs of one test have one name, so that merchants draw alike."""
    prepared, config, merchants = league
    planned = federations(config, prepared, merchants)[name]
    count = replace(planned.settings.rounds, rounds=rounds)
    settings = replace(planned.settings, run="the same", aggregation=aggregation, rounds=count)
    federation = replace(planned, folder=folder, settings=settings)
    pool = executor(nodes(federation.nodes), workers)
    try:
        return federate(federation, merchants, pool, spoil(federation) if spoil else lambda state: None)
    finally:
        pool.close()


def seat_gone(federation):
    """One merchant's key store is lost after the first round."""

    def observe(state):
        if state.round == 1:
            [stored] = (federation.nodes.homes / "00002" / "secagg").glob("state-*.bin")
            stored.unlink()

    return observe


@pytest.mark.parametrize(("name", "grid"), [(ORDINARY, 1e-4), (PRIVATE, 1e-6)])
def test_a_secure_round_ends_in_the_plain_rounds_model_up_to_the_grid(league, tmp_path, name, grid):
    """One round: later ones draw by the model that was received, which differs in its last bits."""
    secure, plain = (run(league, tmp_path / kind, name, kind, rounds=1) for kind in ("secure", "plain"))
    assert {k: v.tobytes() for k, v in secure.fixed.items()} == {k: v.tobytes() for k, v in plain.fixed.items()}
    for array in plain.arrays:
        np.testing.assert_allclose(secure.arrays[array], plain.arrays[array], rtol=0, atol=grid)
    [one], [other] = secure.history, plain.history
    assert (one.survivors, one.dropped, one.failure) == (4, {}, "")
    assert one.statistics == other.statistics
    assert set(one.statistics) == ({"loss", "users"} if name == ORDINARY else set())


def test_a_run_starts_from_the_model_that_it_wrote_whatever_machine_goes_on_with_it(league, tmp_path):
    prepared, config, merchants = league
    federation = replace(federations(config, prepared, merchants)[ORDINARY], folder=tmp_path)
    written = set_up(federation, merchants)
    elsewhere = {name: np.nextafter(array, np.float32(9)) for name, array in written.arrays.items()}
    write_checkpoint(tmp_path / "start.safetensors", replace(written, arrays=elsewhere))
    assert model_hash(set_up(federation, merchants).arrays) == model_hash(elsewhere) != model_hash(written.arrays)


def test_one_worker_and_two_give_the_same_model(sharing, tmp_path):
    one, two = (run(sharing, tmp_path / str(count), PRIVATE, "secure", workers=count) for count in (1, 2))
    assert model_hash(one.model) == model_hash(two.model)
    assert not any(record.failure for record in one.history)


def test_a_round_in_which_more_drop_out_than_the_noise_is_laid_out_for_fails_and_releases_nothing(
    sharing, tmp_path
):
    final = run(sharing, tmp_path, PRIVATE, "secure", spoil=seat_gone)
    assert [bool(record.failure) for record in final.history] == [False, True, False]
    assert final.history[1].survivors == 3


def test_the_clipping_norm_follows_the_released_count_through_a_run_at_the_plans_price(own_files, tmp_path):
    made = tiny(own_files, tmp_path / "made", "privacy.clipping_quantile=0.5", "privacy.clipping_share=0.1")
    plan = federations(made[1], made[0], made[2])[PRIVATE].settings.plan
    final = run(made, tmp_path / "run", PRIVATE, "secure")
    assert [set(record.statistics) for record in final.history] == [{WITHIN}] * 3
    assert scale_after(0.5, (record.statistics[WITHIN] for record in final.history)) != 1.0
    booked = Ledger(tmp_path / "run" / "homes" / "00000" / "ledger.jsonl").reservations()
    trained = [event for each in booked if each.purpose == "training" for event in each.events]
    assert trained == list(plan.release_events("training")) * 3


def test_mode_merchant_trains_a_league_and_charges_each_round_whole(own_files, tmp_path):
    made = tiny(own_files, tmp_path / "made", "privacy=merchant")
    final = run(made, tmp_path / "run", PRIVATE, "secure")
    assert [(record.survivors, record.statistics, record.failure) for record in final.history] == [(4, {}, "")] * 3
    assert any(array.any() for array in final.fixed.values())
    for home in sorted((tmp_path / "run" / "homes").glob("0*")):
        booked = Ledger(home / "ledger.jsonl").reservations()
        assert [each.purpose for each in booked] == ["popularity", "training", "training", "training"]
        assert open_home(home).policy.units == ("merchant",)


def test_a_merchant_whose_seat_is_gone_is_left_out_and_the_run_goes_on(league, tmp_path):
    final = run(league, tmp_path, PRIVATE, "secure", spoil=seat_gone)
    assert [record.survivors for record in final.history] == [4, 3, 3]
    assert "set up anew" in final.history[1].dropped[3]


def test_every_merchant_of_a_secure_run_requires_it_and_keeps_one_reservation_a_round(league, tmp_path):
    run(league, tmp_path, PRIVATE, "secure")
    for home in sorted((tmp_path / "homes").glob("0*")):
        assert open_home(home).policy.secure_aggregation_required
        reservations = Ledger(home / "ledger.jsonl").reservations()
        assert [r.purpose for r in reservations] == ["popularity", "training", "training", "training"]
        assert all(r.spent for r in reservations)


def results(output):
    return json.loads(next(output.glob("*/results.json")).read_text("utf-8"))


@pytest.fixture(scope="module")
def undisturbed(run_job, tmp_path_factory):
    """The model's hash of a whole secure run."""
    output = tmp_path_factory.mktemp("whole secure run")
    code, text = run_job(output, *QUICK)
    assert code == 0, text
    return results(output)["model_hash"]


@pytest.mark.parametrize(
    "pattern",
    [
        "*/runs/*/homes/*/answers/*-train.answer",
        pytest.param("*/runs/numbers/*.json", marks=pytest.mark.slow),
        pytest.param("*/runs/*/checkpoints/round-00001*", marks=pytest.mark.slow),
    ],
)
def test_a_secure_run_killed_anywhere_resumes_to_the_same_model(
    run_job, begin_job, undisturbed, tmp_path, pattern
):
    process = begin_job(tmp_path, *QUICK)
    while not list(tmp_path.glob(pattern)) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("*/results.json")), "the run was over before it could be killed"
    code, text = run_job(tmp_path, *QUICK, "resume=true")
    assert code == 0, text
    assert "going on in" in text
    assert results(tmp_path)["model_hash"] == undisturbed


def test_an_unknown_aggregation_is_named(run_job, tmp_path):
    code, text = run_job(tmp_path, "cohort.aggregation=blind")
    assert code == 2
    assert "choose one of plain, secure" in text


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra hansa[ray]")
def test_flowers_runtime_gives_the_same_secure_model_as_the_in_process_engine(run_job, undisturbed, tmp_path):
    code, text = run_job(tmp_path, *QUICK, "engine=ray")
    assert code == 0, text
    assert results(tmp_path)["model_hash"] == undisturbed


@pytest.mark.slow
def test_a_run_over_home_users_says_so_in_report_and_model_card(run_job, tmp_path):
    served = [setting for setting in QUICK if setting != "serve=false"]
    code, text = run_job(tmp_path, *served, "privacy.unit=home_user")
    assert code == 0, text
    assert "home merchant only" in results(tmp_path)["privacy"]["statement"]
    assert "home merchant only" in next(tmp_path.glob("*/report.html")).read_text("utf-8")
    cards = [path for path in tmp_path.glob("**/*README.md") if path.is_file()]
    assert any("home merchant only" in path.read_text("utf-8") for path in cards)
