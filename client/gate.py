# SPDX-License-Identifier: Apache-2.0
"""The merchant's share of the release gate: is the candidate better than the last release, on the newest weeks?

Per user one number is compared: ndcg@10 of the candidate minus ndcg@10 of the last release, on the novel view.
What leaves is the sum over users of (1, candidate, difference, difference squared), each within [-1, 1]; in mode
`local` it carries Gaussian noise with each user's vector clipped to `gate_clipping_norm`.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from client.trainer import Bench, Draws
from client.wire import Array, Reply
from data.samples import EvaluationSet, UserHistories
from models.parameters import load_public
from privacy.noise import NoiseSource, add_noise_to_array
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
    new = _ndcg(bench, own, validation, _under(CANDIDATE, arrays))
    old = _ndcg(bench, own, validation, _under(PREVIOUS, arrays))
    rows_U4 = np.stack([np.ones_like(new), new, new - old, (new - old) ** 2], axis=1)
    if plan.private:
        norms_U = np.linalg.norm(rows_U4, axis=1, keepdims=True)
        rows_U4 = rows_U4 * np.minimum(1.0, plan.gate_clipping_norm / np.maximum(norms_U, 1e-12))
    sums = rows_U4.sum(axis=0).astype(np.float32)
    if plan.private:
        deviation = plan.gate_noise_multiplier * plan.gate_clipping_norm
        sums = add_noise_to_array(sums, deviation, NoiseSource(draws.noise).stream("gate"))
    return Reply({SUMS: sums}, {}, weight=1)


def _ndcg(
    bench: Bench, own: UserHistories, validation: EvaluationSet, arrays: dict[str, Array]
) -> npt.NDArray[np.float64]:
    load_public(bench.model, bench.spec, arrays)
    bench.task.fit_local(bench.model, own)
    return bench.task.evaluate(bench.model, validation, ks=(10,))[VIEW].per_user[METRIC]


def _under(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
