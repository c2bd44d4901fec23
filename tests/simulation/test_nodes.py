# SPDX-License-Identifier: Apache-2.0
"""What a process keeps of a league's workers, and that keeping or not keeping changes no answer."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import client.worker
from client.wire import Reply
from simulation.nodes import nodes
from simulation.shelf import Shelf
from tests.client.small import OPEN_PLAN, request
from tests.simulation.made import Made


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    load = client.worker.load_merchant

    def watched(source: str, **options: bool) -> Any:
        seen.append(Path(source).stem)
        return load(source, **options)

    monkeypatch.setattr("client.worker.load_merchant", watched)
    return seen


def two_rounds(made: Made, held_events: int) -> list[Reply]:
    answer = nodes(made.spec, held_events)()
    first = request(made.runtime(), plan=OPEN_PLAN)
    rounds = (first, replace(first, round=2))
    return [answer(name, asked) for asked in rounds for name in made.league.names]


def test_a_process_keeps_workers_of_merchants_with_at_most_so_many_events_in_all(
    made: Made, reads: list[str]
) -> None:
    two_rounds(made, held_events=made.league.merchants[0].events)
    assert reads == ["00000", "00001", "00001"]


def test_a_league_that_finds_room_is_read_once(made: Made, reads: list[str]) -> None:
    two_rounds(made, held_events=10_000)
    assert reads == ["00000", "00001"]


def test_a_worker_that_is_opened_anew_answers_as_one_that_was_kept(made: Made) -> None:
    for kept, anew in zip(two_rounds(made, 10_000), two_rounds(made, 0), strict=True):
        for name, values in kept.arrays.items():
            np.testing.assert_array_equal(values, anew.arrays[name])


def test_the_processes_of_a_league_share_the_cores_instead_of_each_taking_all(made: Made) -> None:
    code = """
import sys, torch
from pathlib import Path
from simulation.nodes import NodesSpec, nodes
nodes(NodesSpec(Path(sys.argv[1]), Path(sys.argv[2])))()
print(torch.get_num_threads())
"""
    cores = {**os.environ, "OMP_NUM_THREADS": "4"}
    command = [sys.executable, "-c", code, str(made.spec.league), str(made.spec.homes)]
    assert subprocess.run(command, env=cores, check=True, capture_output=True, text=True).stdout == "1\n"


def test_what_is_kept_was_made_of_no_more_events_than_there_is_room_for() -> None:
    shelf, made = Shelf(room=10), []
    for _ in range(2):
        for key, events in (("a", 6), ("b", 5), ("c", 4), ("d", 1)):
            assert shelf.get(key, events, lambda key=key: made.append(key) or key) == key  # type: ignore[misc]
    assert made == ["a", "b", "c", "d", "b", "d"]
