# SPDX-License-Identifier: Apache-2.0
"""Which folder a run works in: its own, or an unfinished one."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from simulation.job import WRONG_INPUT, run_job
from simulation.outputs import RESULTS, finish, run_folder
from tests.simulation.test_config import composed

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)


def test_two_runs_in_the_same_second_have_folders_of_their_own(tmp_path):
    config = composed(f"output='{tmp_path}'")
    folders = [run_folder(config, NOW)[0] for _ in range(3)]
    assert len(set(folders)) == 3
    assert all((folder / "config.json").exists() for folder in folders)


def test_a_run_goes_on_until_it_is_finished_even_with_a_report_on_disk(tmp_path):
    config = composed(f"output='{tmp_path}'", "resume=true")
    folder, resumed = run_folder(config, NOW)
    assert not resumed
    (folder / RESULTS).write_text("{}")
    assert run_folder(config, NOW) == (folder, True)
    finish(folder)
    assert run_folder(config, NOW)[1] is False


@pytest.mark.parametrize("resume", ["false", "true"])
def test_a_refused_run_leaves_no_folder_and_takes_none_that_it_did_not_make(tmp_path, resume):
    def ask(*overrides):
        files = (f"data.events='{tmp_path / 'none.csv'}'", f"data.catalogue='{tmp_path / 'none.csv'}'")
        return composed("data=files", *files, f"output='{tmp_path / 'out'}'", f"resume={resume}", *overrides)

    before, _ = run_folder(ask("seed=1"), NOW)
    said = io.StringIO()
    assert run_job(ask(), Console(file=said)) == WRONG_INPUT
    assert "there is no such file" in " ".join(said.getvalue().split())
    assert list((tmp_path / "out").iterdir()) == [before]
    assert run_job(ask("seed=1", "resume=true"), Console(file=said)) == WRONG_INPUT
    assert list((tmp_path / "out").iterdir()) == [before], "an unfinished run stays"
