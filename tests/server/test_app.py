# SPDX-License-Identifier: Apache-2.0
"""The run folder that the ServerApp reads."""

import pytest

from server.app import RunFile, read_run, write_run
from server.errors import ServerError
from server.rounds import RoundsConfig
from strategies.build import StrategyConfig

RUN = RunFile(
    run="run-1",
    config_hash="c",
    strategy=StrategyConfig("fedavg", 1.0, {}),
    rounds=RoundsConfig(3, seed=0, round_timeout_s=1, gather_timeout_s=1, min_merchants=2),
    min_survivors=0.5,
    plan={},
    training={},
    popularity="",
    aggregation="plain",
    vocabulary="0" * 64,
)


def test_a_run_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_run(tmp_path, RUN)
    before = (tmp_path / "run.json").read_bytes()

    def full(handle):
        raise OSError("the disk is full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="full"):
        write_run(tmp_path, RunFile(**{name: getattr(RUN, name) for name in RUN.__struct_fields__} | {"run": "2"}))
    assert (tmp_path / "run.json").read_bytes() == before
    assert read_run(tmp_path) == RUN


def test_a_folder_without_a_run_or_with_a_damaged_one_is_refused_with_its_path(tmp_path):
    with pytest.raises(ServerError, match="no prepared run"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ServerError, match=r"run\.json"):
        read_run(tmp_path)
