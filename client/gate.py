# SPDX-License-Identifier: Apache-2.0
"""The merchant's share of the release gate: is the candidate better than the last release, on the newest weeks?

Per user one number is compared: ndcg@10 of the candidate minus ndcg@10 of the last release, on the novel view.
What leaves is the sum over users of (1, candidate, difference, difference squared), each within [-1, 1]. In
private modes it carries noise, with each user's vector clipped to `gate_clipping_norm`; both models are then
judged with the league's popularity in place of the merchant's own, which is made of everybody's purchases.

Guarantees:
- One user changes the private sums by at most the clipping norm before noise: no other user's row moves.
- A model that makes a user's figures overflow leaves that user's row zero.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from client.protection import protected
from client.trainer import Bench, Draws
from client.wire import Array, Reply
from data.samples import EvaluationSet, UserHistories
from models.parameters import load_public
from privacy.plan import PrivacyPlan

METRIC, VIEW = "ndcg@10", "novel"
CANDIDATE, PREVIOUS = "candidate/", "previous/"
SUMS = "sums"


def gate_sums(
    bench: Bench,
    own: UserHistories,
    validation: EvaluationSet,
    arrays: Mapping[str, Array],
    plan: PrivacyPlan,
    draws: Draws,
) -> Reply:
    """The reply to a gate request: float32 [4] sums of 1, candidate, difference, difference squared."""
    if not plan.private:
        return Reply({SUMS: _rows(bench, own, validation, arrays).sum(axis=0).astype(np.float32)}, {}, weight=1)
    nobody = own.take([])
    clipped = clip_rows(_rows(bench, nobody, validation, arrays), plan.gate_clipping_norm)
    return protected(SUMS, clipped.sum(axis=0), plan, "gate", draws)


def models_of(arrays: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The candidate and the last release in a gate request."""
    return _under(CANDIDATE, arrays), _under(PREVIOUS, arrays)


def clip_rows(rows_U4: npt.NDArray[np.float64], clipping_norm: float) -> npt.NDArray[np.float64]:
    """Each user's row scaled down to L2 norm `clipping_norm`."""
    norms_U1 = np.linalg.norm(rows_U4, axis=1, keepdims=True)
    scales_U1 = np.minimum(1.0, clipping_norm / np.maximum(norms_U1, 1e-12))
    return np.asarray(rows_U4 * scales_U1)


def _rows(
    bench: Bench, local: UserHistories, validation: EvaluationSet, arrays: Mapping[str, Array]
) -> npt.NDArray[np.float64]:
    """float64 [U, 4]: 1, candidate, difference, difference squared; finite."""
    new, old = (_ndcg(bench, local, validation, model) for model in models_of(arrays))
    rows_U4 = np.stack([np.ones_like(new), new, new - old, (new - old) ** 2], axis=1)
    return np.where(np.isfinite(rows_U4).all(axis=1, keepdims=True), rows_U4, 0.0)


def _ndcg(
    bench: Bench, local: UserHistories, validation: EvaluationSet, arrays: dict[str, Array]
) -> npt.NDArray[np.float64]:
    load_public(bench.model, bench.spec, arrays)
    bench.task.fit_local(bench.model, local)
    return bench.task.evaluate(bench.model, validation, ks=(10,))[VIEW].per_user[METRIC]


def _under(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
