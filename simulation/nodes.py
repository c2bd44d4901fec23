# SPDX-License-Identifier: Apache-2.0
"""The merchants' side of a simulated league: homes on disk, and the answers of their workers in one process.

Guarantees:
- A process keeps workers of merchants with at most so many events in all, however large the league.
- A worker that is opened anew answers as one that was kept.
- Answers do not depend on how many processes or cores there are: torch computes on one thread in each.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch

from client.home import MerchantSettings, create_home, open_home
from client.runtime import Runtime, RuntimeSettings, open_runtime, read_runtime, write_runtime
from client.wire import Reply, Request
from client.worker import Worker
from simulation.league import Merchant, PreparedLeague, events_file, home_file, open_league
from simulation.pool import Answerer, Factory
from simulation.research import KINDS, Researcher
from simulation.shelf import HELD_EVENTS, Shelf

RUNTIME = "runtime.json"


@dataclass(frozen=True, slots=True)
class NodesSpec:
    """Where a process finds everything to answer for any merchant of a run.

    Attributes:
        league: folder of the prepared league.
        homes: folder of this run's homes, one per merchant, with their common `runtime.json`.
    """

    league: Path
    homes: Path


def create_homes(
    spec: NodesSpec,
    league: PreparedLeague,
    runtime: RuntimeSettings,
    seed: int,
    policy: str,
    home_users: bool = False,
) -> None:
    """One home per merchant; its secret follows from the seed, so that a simulation repeats itself.

    `home_users`: a merchant's worker sees its home users alone; the league must have been prepared with them.
    """
    events_of = home_file if home_users else events_file
    spec.homes.mkdir(parents=True, exist_ok=True)
    write_runtime(spec.homes / RUNTIME, runtime)
    for merchant in league.merchants:
        settings = MerchantSettings(
            name=merchant.name,
            events=str(events_of(spec.league, merchant).resolve()),
            train_until=league.split.train_end,
            gate_until=league.split.valid_end,
            max_events=league.max_events,
        )
        secret = hashlib.sha256(f"hansa.simulated/1|{seed}|{merchant.name}".encode()).digest()
        create_home(home_path(spec, merchant), settings, policy, secret)


def home_path(spec: NodesSpec, merchant: Merchant) -> Path:
    """A merchant's home; its name never becomes a file name."""
    return spec.homes / Path(merchant.file).stem


def nodes(spec: NodesSpec, held_events: int = HELD_EVENTS) -> Factory:
    """A factory for `simulation.pool`: opens the league in whatever process it is called.

    Each process keeps what its workers and its researcher read of `held_events` events each.
    """
    return partial(_open, spec, held_events)


def _open(spec: NodesSpec, held_events: int) -> Answerer:
    torch.set_num_threads(1)
    return _Nodes(spec, held_events).answer


class _Nodes:
    """Workers of one process, opened when first asked; they share one model."""

    def __init__(self, spec: NodesSpec, held_events: int) -> None:
        self._spec = spec
        self._held_events = held_events
        self._workers = Shelf(held_events)
        self._league = open_league(spec.league)
        self._by_name = {merchant.name: merchant for merchant in self._league.merchants}

    @cached_property
    def _runtime(self) -> Runtime:
        return open_runtime(read_runtime(self._spec.homes / RUNTIME))

    @cached_property
    def _researcher(self) -> Researcher:
        return Researcher(self._spec.league, self._league, self._runtime, self._held_events)

    def answer(self, merchant: str, request: Request) -> Reply:
        if request.kind in KINDS:
            return self._researcher.answer(self._by_name.get(merchant), request)
        asked = self._by_name[merchant]
        return self._workers.get(merchant, asked.events, lambda: self._worker(asked)).answer(request)

    def _worker(self, merchant: Merchant) -> Worker:
        return Worker(open_home(home_path(self._spec, merchant)), self._runtime)
