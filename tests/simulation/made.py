# SPDX-License-Identifier: Apache-2.0
"""A tiny prepared league with homes, and requests to its merchants."""

from dataclasses import dataclass, replace
from pathlib import Path

from client.runtime import Runtime, RuntimeSettings, open_runtime, read_runtime
from client.wire import Request
from models.parameters import public_arrays
from simulation.config import DataConfig
from simulation.league import PreparedLeague, prepare, vocabulary_file
from simulation.nodes import RUNTIME, NodesSpec, create_homes
from tests.client.small import ITEMS, OPTIONS, POLICY, catalogue, events, vocabulary


@dataclass(frozen=True)
class Made:
    """Two merchants of 20 users each."""

    spec: NodesSpec
    league: PreparedLeague

    def runtime(self) -> Runtime:
        return open_runtime(read_runtime(self.spec.homes / RUNTIME))

    def request(self, kind: str, **settings: str | int) -> Request:
        runtime = self.runtime()
        return Request(kind, "", 0, public_arrays(runtime.model, runtime.spec), settings)


def make(folder: Path, *, home_users: bool = False) -> Made:
    """Write the league and its homes."""
    events(seed=1).write_csv(folder / "events.csv")
    catalogue().write_csv(folder / "catalogue.csv")
    data = DataConfig(
        *("files", str(folder / "events.csv"), str(folder / "catalogue.csv")),
        min_users=2,
        min_merchants=3,
        valid_weeks=3,
        test_weeks=3,
        max_events=16,
    )
    league = replace(prepare(data, folder / "league", home_users=home_users), items=ITEMS)
    vocabulary().save(vocabulary_file(folder / "league"))
    spec = NodesSpec(folder / "league", folder / "homes")
    path = str(vocabulary_file(spec.league).resolve())
    runtime = RuntimeSettings("recommendation", OPTIONS, path, "cpu", durable=False)
    create_homes(spec, league, runtime, seed=0, policy=POLICY, home_users=home_users)
    return Made(spec, league)
