# SPDX-License-Identifier: Apache-2.0
"""What federation is measured against: baselines, each merchant alone, and all data in one place."""

from collections.abc import Iterator, Mapping, Sequence

from client.wire import Array, Reply, Request
from models.metrics import ViewMetrics
from simulation.pool import Executor, Job
from simulation.progress import Stage
from simulation.research import CENTRALISED, EVALUATE, LEAGUE, LOCAL_ONLY, unpack_views

TIMEOUT_S = 3600.0
PerMerchant = dict[str, Mapping[str, ViewMetrics]]


class ReferenceFailed(Exception):
    """A reference model could not be trained or measured; the message names merchant and reason."""


def evaluate(
    executor: Executor, merchants: Sequence[str], arrays: Mapping[str, Array], window: str, stage: Stage | None
) -> PerMerchant:
    """Figures per user of one model at every merchant."""
    request = Request(EVALUATE, "", 0, arrays, {"window": window})
    jobs = [Job(merchant, request) for merchant in merchants]
    found = {name: unpack_views(reply.arrays) for name, reply in _replies(executor, jobs, stage)}
    return {merchant: found[merchant] for merchant in merchants}


def train(
    executor: Executor,
    merchants: Sequence[str],
    start: Mapping[str, Array],
    alone: Mapping[str, str | int] | None,
    together: Mapping[str, str | int] | None,
    stage: Stage | None,
) -> tuple[PerMerchant, dict[str, Array]]:
    """Train the reference models that have settings, all at once.

    Returns the figures of each merchant's local-only model (the same model on its own data alone), and the arrays
    of the centralised one (all merchants' users in one place: what nobody may have).
    """
    jobs = [] if together is None else [Job(LEAGUE, Request(CENTRALISED, "", 0, start, together))]
    if alone is not None:
        request = Request(LOCAL_ONLY, "", 0, start, alone)
        jobs += [Job(merchant, request) for merchant in merchants]
    found = {name: reply.arrays for name, reply in _replies(executor, jobs, stage)}
    pooled = dict(found.pop(LEAGUE, {}))
    return {name: unpack_views(found[name]) for name in merchants if name in found}, pooled


def _replies(executor: Executor, jobs: list[Job], stage: Stage | None) -> Iterator[tuple[str, Reply]]:
    kinds = {job.merchant: job.request.kind for job in jobs}
    for outcome in executor.run(jobs, TIMEOUT_S):
        if outcome.reply is None:
            raise ReferenceFailed(f"{kinds[outcome.merchant]} at {outcome.merchant}: {outcome.reason}")
        if stage:
            stage.advance()
        yield outcome.merchant, outcome.reply
