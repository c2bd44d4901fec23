# SPDX-License-Identifier: Apache-2.0
"""What one or two merchants carry stays with them: no vocabulary, no row of a model and no release holds it."""

import importlib.util
import json

import numpy as np
import polars as pl
import pytest
from flwr.app import Context, RecordDict
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from client.wire import encode_reply
from data.catalogue import Vocabulary
from server.app import app, write_run
from server.checkpoints import read_checkpoint
from server.vocabulary import Count, read_shared
from simulation import plans
from simulation import vocabulary as counting
from simulation.config import register
from simulation.federation import open_homes, run_file
from simulation.grid import InProcessGrid
from simulation.league import catalogue_file, prepare, vocabulary_file
from simulation.nodes import nodes
from simulation.pool import InProcess
from simulation.vocabulary import agreed
from tests.flow.conftest import ROOT, SMALL, start_job

RARE = {"rare-one": 1, "rare-two": 2, "rare-three": 3}
"""Items, and how many of the four merchants carry them."""


@pytest.fixture(scope="module")
def rare_files(own_files, tmp_path_factory):
    """The tiny league with three more items, each of a shelf and a maker of its own."""
    folder = tmp_path_factory.mktemp("rare items")
    events = pl.read_csv(own_files / "events.csv")
    mine = [
        events.filter(pl.col("merchant_id") == f"shop-{merchant}")
        .head(30)
        .unique("timestamp")
        .with_columns(item_id=pl.lit(item))
        for item, carriers in RARE.items()
        for merchant in range(carriers)
    ]
    pl.concat([events, *mine]).write_csv(folder / "events.csv")
    items = pl.read_csv(own_files / "catalogue.csv")
    more = pl.DataFrame([(item, item.title(), f"shelf of {item}") for item in RARE], items.columns, orient="row")
    pl.concat([items, more]).write_csv(folder / "catalogue.csv")
    return folder


def settings(files, *overrides):
    register()
    sources = f"data.events='{files / 'events.csv'}'", f"data.catalogue='{files / 'catalogue.csv'}'"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = OmegaConf.to_object(
            compose("config", [*SMALL, *sources, "compare.non_private=false", *overrides])
        )
    return config


def count(files, folder, monkeypatch, *overrides):
    """The shared vocabulary, and every reply of every merchant as bytes."""
    config, wire = settings(files, *overrides), []

    class Watched(InProcessGrid):
        def __init__(self, merchants, executor):
            super().__init__(merchants, executor)
            run = executor.run

            def watched(jobs, timeout_s):
                for outcome in run(jobs, timeout_s):
                    wire.append(outcome.reply)
                    yield outcome

            executor.run = watched

    monkeypatch.setattr(counting, "InProcessGrid", Watched)
    league = agreed(config, folder, prepare(config.data, folder / "league"))
    found = Vocabulary.load(vocabulary_file(folder / "league"))
    assert (league.items, found.carriers) == (found.size, config.data.min_merchants)
    return found, wire


def presence(folder, files):
    """Each merchant's answer in clear, by the events."""
    candidates = Vocabulary.load(catalogue_file(folder / "league")).item_ids
    events = pl.read_csv(files / "events.csv")
    sold = events.group_by("merchant_id").agg("item_id").sort("merchant_id")["item_id"]
    return [np.isin(candidates, list(items)) for items in sold]


def test_a_secure_count_shares_what_three_merchants_carry_and_shows_no_presence_on_the_wire(
    rare_files, tmp_path, monkeypatch
):
    found, wire = count(rare_files, tmp_path, monkeypatch)
    assert {item for item in found.item_ids if item.startswith("rare")} == {"rare-three"}
    assert found.size == 46
    assert [value for value in found.attribute_values[0] if "rare" in value] == ["shelf of rare-three"]
    assert all((reply.arrays, reply.statistics, reply.weight) == ({}, {}, 0) for reply in wire)
    everything = b"".join(encode_reply(reply) for reply in wire)
    assert len(everything) > 10_000
    for bits in presence(tmp_path, rare_files):
        assert not any(form in everything for form in forms(bits))


def test_a_plain_count_gives_the_same_vocabulary_and_shows_who_carries_what(rare_files, tmp_path, monkeypatch):
    secure, _ = count(rare_files, tmp_path / "secure", monkeypatch)
    plain, wire = count(rare_files, tmp_path / "plain", monkeypatch, "experiment=open")
    assert plain == secure
    everything = b"".join(encode_reply(reply) for reply in wire)
    for bits in presence(tmp_path / "plain", rare_files):
        assert any(form in everything for form in forms(bits))


def test_the_server_app_counts_over_the_grid_and_asks_a_finished_count_no_second_time(rare_files, tmp_path):
    config = settings(rare_files)
    league = prepare(config.data, tmp_path / "league")
    run = plans.counting(config, tmp_path, league)
    open_homes(run, league, catalogue_file(run.league))
    candidates = Vocabulary.load(catalogue_file(run.league))
    write_run(run.folder, run_file(run, Count(candidates.size, 3)))
    context = Context(1, 1, {}, RecordDict(), {"league": str(run.folder)})
    for grid in (InProcessGrid(league.names, InProcess(nodes(run.nodes))), None):
        app(grid, context)
    shared = read_shared(run.folder)
    assert (shared.catalogue, shared.carriers, len(shared.items)) == (candidates.digest, 3, 46)
    rare = {item for item in RARE if candidates.item_ids.index(item) + 1 in shared.items}
    assert rare == {"rare-three"}
    assert not list(run.folder.glob("checkpoints/round*"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra hansa[ray]")
def test_flowers_runtime_counts_the_same_vocabulary_as_the_in_process_engine(rare_files, tmp_path, monkeypatch):
    config = settings(rare_files, "engine=ray")
    agreed(config, tmp_path / "ray", prepare(config.data, tmp_path / "ray" / "league"))
    found = Vocabulary.load(vocabulary_file(tmp_path / "ray" / "league"))
    assert (tmp_path / "ray" / "runs" / "vocabulary" / "flower.log").exists()
    assert found == count(rare_files, tmp_path / "in process", monkeypatch)[0]


def forms(bits):
    wide = [(bits * scale).astype(kind).tobytes() for scale in (1, 2**24) for kind in ("<f4", "<u4", "<u8", "<f8")]
    return [*wide, bits.astype("u1").tobytes(), b"".join(b"%d" % bit for bit in bits)]


@pytest.mark.parametrize(("carriers", "shared"), [(1, 48), (2, 47), (4, 45)])
def test_m_decides_what_is_shared(rare_files, tmp_path, monkeypatch, carriers, shared):
    found, _ = count(rare_files, tmp_path, monkeypatch, "experiment=open", f"data.min_merchants={carriers}")
    assert found.size == shared


def test_what_one_or_two_merchants_carry_is_in_no_model_and_no_release(rare_files, tmp_path):
    alone = [f"compare.{name}=false" for name in ("non_private", "baselines", "local_only", "centralised")]
    process = start_job(rare_files, tmp_path, "privacy.rounds=1", *alone)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    [folder] = [path.parent for path in tmp_path.glob("*/results.json")]
    assert json.loads((folder / "results.json").read_text())["league"]["items"] == 46
    model = read_checkpoint(next((folder / "runs").glob("*/start.safetensors")))
    assert model.arrays["tower.attributes.weight"].shape[0] == 1 + 3 + 1  # shelf: unknown, three tastes, one rare
    released = [path for path in (folder / "platform").rglob("*") if path.is_file()]
    assert [path for path in released if path.name.endswith("catalogue.parquet")]
    for path in released:
        held = path.read_bytes()
        assert not any(item.encode() in held for item in ("rare-one", "rare-two"))
        if path.name.endswith("catalogue.parquet"):
            assert "rare-three" in pl.read_parquet(path)["item_id"]
            assert not {"rare-one", "rare-two"} & set(pl.read_parquet(path)["item_id"])
