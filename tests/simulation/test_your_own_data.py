# SPDX-License-Identifier: Apache-2.0
"""What docs/your-own-data.md says of a run: its defaults, and how its ten rows are refused."""

import io
import re

from rich.console import Console

from simulation.job import WRONG_INPUT, run_job
from tests.data.test_your_own_data import PAGE, bring
from tests.simulation.test_config import OWN_FILES, composed


def test_the_numbers_in_brackets_are_the_defaults_of_data_files():
    stated = dict(re.findall(r"`data\.(\w+)`[^()\n]*\((\d+)\)", PAGE))
    data = composed("data=files", *OWN_FILES).data
    assert stated == {name: str(getattr(data, name)) for name in stated}
    assert len(stated) == 5


def test_the_ten_rows_are_refused_with_the_remedy_that_the_page_names(tmp_path):
    events, catalogue = bring(tmp_path)
    sources = (f"data.events='{events}'", f"data.catalogue='{catalogue}'")
    said, remedy = io.StringIO(), "experiment=open data.min_merchants=2"
    assert run_job(composed("data=files", *sources, f"output='{tmp_path}/out'"), Console(file=said)) == WRONG_INPUT
    assert remedy in " ".join(said.getvalue().split())
    assert f"`{remedy}`, runs them to the end" in PAGE


def test_the_ten_rows_run_with_that_remedy_and_west_is_reported_as_left_out(tmp_path):
    events, catalogue = bring(tmp_path)
    sources = (f"data.events='{events}'", f"data.catalogue='{catalogue}'")
    quick = (
        "experiment=open",
        "data.min_merchants=2",
        "rounds=1",
        "serve=false",
        *(f"compare.{name}=false" for name in ("local_only", "centralised")),
    )
    said = io.StringIO()
    assert run_job(composed("data=files", *sources, *quick, f"output='{tmp_path}/out'"), Console(file=said)) == 0
    assert "2 merchants, 1 items, 9 events; 1 left out, under 2 users" in " ".join(said.getvalue().split())
    assert "train references" not in said.getvalue()
