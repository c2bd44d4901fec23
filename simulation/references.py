# SPDX-License-Identifier: Apache-2.0
"""What federation is measured against: baselines, each merchant alone, and all data in one place.

Figures go to whoever asked as each merchant answers, in any order, and are not kept here.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from client.wire import Array, Reply, Request
from models.metrics import ViewMetrics
from simulation.pool import Executor, Job
from simulation.progress import Stage
from simulation.research import CENTRALISED, EVALUATE, LEAGUE, LOCAL_ONLY, unpack_views

TIMEOUT_S = 3600.0
Keep = Callable[[str, Mapping[str, ViewMetrics]], None]
CURVE_VIEW, CURVE_METRIC = "novel", "ndcg@10"


class ReferenceFailed(Exception):
    """A reference model could not be trained or measured; the message names merchant and reason."""


def evaluate(
    executor: Executor,
    merchants: Sequence[str],
    arrays: Mapping[str, Array],
    window: str,
    keep: Keep,
    stage: Stage | None,
) -> None:
    """Figures per user of one model at every merchant."""
    request = Request(EVALUATE, "", 0, arrays, {"window": window})
    for name, reply in _replies(executor, [Job(merchant, request) for merchant in merchants], stage):
        keep(name, unpack_views(reply.arrays))


def mean_ndcg(executor: Executor, merchants: Sequence[str], arrays: Mapping[str, Array], window: str) -> float:
    """Mean ndcg@10 of one model over all users of the league with a novel target; NaN where there are none."""
    sums: dict[str, tuple[float, int]] = {}

    def keep(merchant: str, views: Mapping[str, ViewMetrics]) -> None:
        values = views[CURVE_VIEW].per_user[CURVE_METRIC]
        sums[merchant] = float(values.sum()), len(values)

    evaluate(executor, merchants, arrays, window, keep, None)
    users = sum(count for _, count in sums.values())
    return math.fsum(total for total, _ in sums.values()) / users if users else math.nan


def train(
    executor: Executor,
    merchants: Sequence[str],
    start: Mapping[str, Array],
    alone: Mapping[str, str | int] | None,
    together: Mapping[str, str | int] | None,
    keep: Keep,
    stage: Stage | None,
) -> dict[str, Array]:
    """Train the reference models that have settings, all at once.

    `keep` gets the figures of each merchant's local-only model (the same model on its own data alone). Returns the
    arrays of the centralised one (all merchants' users in one place: what nobody may have).
    """
    jobs = [] if together is None else [Job(LEAGUE, Request(CENTRALISED, "", 0, start, together))]
    if alone is not None:
        request = Request(LOCAL_ONLY, "", 0, start, alone)
        jobs += [Job(merchant, request) for merchant in merchants]
    pooled: dict[str, Array] = {}
    for name, reply in _replies(executor, jobs, stage):
        if name == LEAGUE:
            pooled = dict(reply.arrays)
        else:
            keep(name, unpack_views(reply.arrays))
    return pooled


def _replies(executor: Executor, jobs: list[Job], stage: Stage | None) -> Iterator[tuple[str, Reply]]:
    kinds = {job.merchant: job.request.kind for job in jobs}
    for outcome in executor.run(jobs, TIMEOUT_S):
        if outcome.reply is None:
            raise ReferenceFailed(f"{kinds[outcome.merchant]} at {outcome.merchant}: {outcome.reason}")
        if stage:
            stage.advance()
        yield outcome.merchant, outcome.reply
