# SPDX-License-Identifier: Apache-2.0
"""What only a researcher may ask, who owns the whole league: figures per user, and local-only models.

No node answers these requests and no platform can send them: they exist in the simulation's processes alone.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from client.runtime import Runtime
from client.trainer import Draws, TrainingConfig, train_locally
from client.wire import Array, Reply, Request
from data.files import load_merchant
from data.samples import EvaluationSet, UserHistories, evaluation_set, histories, merge_histories
from models.metrics import ViewMetrics
from models.parameters import load_arrays, load_public, public_arrays
from models.popularity import log_popularity, popularity_counts
from simulation.league import Merchant, PreparedLeague, events_file
from simulation.shelf import HELD_EVENTS, Shelf

KS = (10, 20)
EVALUATE, LOCAL_ONLY, CENTRALISED = "research.evaluate", "research.local_only", "research.centralised"
KINDS = frozenset({EVALUATE, LOCAL_ONLY, CENTRALISED})
VALID, TEST = "valid", "test"
LEAGUE = "*"


class Researcher:
    """Evaluates and trains reference models on merchants' files, in one process.

    It keeps the validation weeks of merchants with at most `held_events` events in all: a run's curve is measured
    on them several times. Everything else is read when it is asked for.
    """

    def __init__(
        self, folder: Path, league: PreparedLeague, runtime: Runtime, held_events: int = HELD_EVENTS
    ) -> None:
        self._folder = folder
        self._league = league
        self._runtime = runtime
        self._shelf = Shelf(held_events)

    def answer(self, merchant: Merchant | None, request: Request) -> Reply:
        """Figures per user of the model that was sent or of one trained from it here; or the centralised model."""
        runtime = self._runtime
        load_public(runtime.model, runtime.spec, request.arrays)
        if merchant is None:
            everybody = merge_histories(self.known(each, VALID) for each in self._league.merchants)
            self._train(everybody, request)
            return Reply(public_arrays(runtime.model, runtime.spec), {}, weight=1)
        if request.kind == LOCAL_ONLY:
            own = self.known(merchant, VALID)
            self._forget_the_league(own, request)
            self._train(own, request)
        known, weeks = self._asked(merchant, str(request.settings["window"]))
        if request.kind == LOCAL_ONLY:
            self._forget_the_league(known, request)
        runtime.task.fit_local(runtime.model, known)
        return Reply(pack_views(runtime.task.evaluate(runtime.model, weeks, KS)), {}, weight=1)

    def _asked(self, merchant: Merchant, window: str) -> tuple[UserHistories, EvaluationSet]:
        def read() -> tuple[UserHistories, EvaluationSet]:
            return self.known(merchant, window), self.window(merchant, window)

        return self._shelf.get(merchant.name, merchant.events, read) if window == VALID else read()

    def _train(self, own: UserHistories, request: Request) -> None:
        config = msgspec.json.decode(str(request.settings["training"]), type=TrainingConfig)
        if len(own):
            train_locally(self._runtime, own, config, Draws.from_seed(str(request.settings["seed"])))

    def _forget_the_league(self, own: UserHistories, request: Request) -> None:
        """Alone, a merchant knows its own popularity in place of the league's."""
        name = str(request.settings["popularity"])
        if name:
            counts = popularity_counts(own, self._runtime.vocabulary.size)
            load_arrays(self._runtime.model, (name,), {name: log_popularity(counts)})

    def known(self, merchant: Merchant, window: str) -> UserHistories:
        """All users' histories before a window: before `valid` they train, before `test` a merchant knows them."""
        return histories(
            load_merchant(str(events_file(self._folder, merchant))),
            self._runtime.vocabulary,
            until=self._ends(window)[0],
            max_events=self._league.max_events,
        )

    def window(self, merchant: Merchant, window: str) -> EvaluationSet:
        """The users of a window and what they bought in it."""
        cut, end = self._ends(window)
        return evaluation_set(
            load_merchant(str(events_file(self._folder, merchant))),
            self._runtime.vocabulary,
            cut=cut,
            end=end,
            max_events=self._league.max_events,
        )

    def _ends(self, window: str) -> tuple[datetime, datetime]:
        split = self._league.split
        return {VALID: (split.train_end, split.valid_end), TEST: (split.valid_end, split.test_end)}[window]


def pack_views(views: Mapping[str, ViewMetrics]) -> dict[str, Array]:
    """Per-user figures as float32 arrays with flat names, to travel between processes."""
    packed: dict[str, Array] = {}
    for view, found in views.items():
        packed[f"{view}|users"] = found.users.astype(np.float32)
        packed |= {f"{view}|metric|{name}": values.astype(np.float32) for name, values in found.per_user.items()}
        packed |= {f"{view}|shown|{k}": shown.astype(np.float32) for k, shown in found.shown.items()}
    return packed


def unpack_views(packed: Mapping[str, Array]) -> dict[str, ViewMetrics]:
    """What `pack_views` packed."""
    return {
        view: ViewMetrics(
            users=packed[f"{view}|users"].astype(np.int64),
            per_user={k: v.astype(np.float64) for k, v in _under(f"{view}|metric|", packed).items()},
            shown={int(k): v.astype(np.int32) for k, v in _under(f"{view}|shown|", packed).items()},
        )
        for view in sorted({name.split("|")[0] for name in packed})
    }


def _under(prefix: str, packed: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in packed.items() if name.startswith(prefix)}
