# SPDX-License-Identifier: Apache-2.0
"""What federation is measured against: baselines, each merchant alone, and all data in one place."""

from collections.abc import Mapping, Sequence

from client.wire import Array, Request
from models.metrics import ViewMetrics
from simulation.pool import Executor, Job
from simulation.progress import Stage
from simulation.research import CENTRALISED, EVALUATE, LOCAL_ONLY, unpack_views

TIMEOUT_S = 3600.0
PerMerchant = dict[str, Mapping[str, ViewMetrics]]


class ReferenceFailed(Exception):
    """A reference model could not be trained or measured; the message names merchant and reason."""


def evaluate(
    executor: Executor, merchants: Sequence[str], arrays: Mapping[str, Array], window: str, stage: Stage | None
) -> PerMerchant:
    """Figures per user of one model at every merchant."""
    return _per_merchant(executor, merchants, Request(EVALUATE, "", 0, arrays, {"window": window}), stage)


def local_only(
    executor: Executor,
    merchants: Sequence[str],
    start: Mapping[str, Array],
    settings: Mapping[str, str | int],
    window: str,
    stage: Stage | None,
) -> PerMerchant:
    """Each merchant trains the same model on its own data alone, for as many steps; then it is measured."""
    request = Request(LOCAL_ONLY, "", 0, start, {**settings, "window": window})
    return _per_merchant(executor, merchants, request, stage)


def centralised(
    executor: Executor, merchants: Sequence[str], start: Mapping[str, Array], settings: Mapping[str, str | int]
) -> dict[str, Array]:
    """The same model trained on all merchants' users in one place: what nobody may have."""
    request = Request(CENTRALISED, "", 0, start, settings)
    outcome = next(iter(executor.run([Job(merchants[0], request)], TIMEOUT_S)))
    if outcome.reply is None:
        raise ReferenceFailed(f"centralised training: {outcome.reason}")
    return dict(outcome.reply.arrays)


def _per_merchant(
    executor: Executor, merchants: Sequence[str], request: Request, stage: Stage | None
) -> PerMerchant:
    found: PerMerchant = {}
    for outcome in executor.run([Job(merchant, request) for merchant in merchants], TIMEOUT_S):
        if outcome.reply is None:
            raise ReferenceFailed(f"{request.kind} at {outcome.merchant}: {outcome.reason}")
        found[outcome.merchant] = unpack_views(outcome.reply.arrays)
        if stage:
            stage.advance()
    return {merchant: found[merchant] for merchant in merchants}
