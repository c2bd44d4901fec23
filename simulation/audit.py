# SPDX-License-Identifier: Apache-2.0
"""Canaries in the trainer's own private rounds: real model, per-user clipping, Poisson sampling and noise.

A canary is a user who bought two items that nobody else buys, of a brand that is theirs alone: one row of the
item table takes the pull of their history and of their target. The attacker is the platform: it sends every round
the same model, in which all gradients are loud and pull the same way, and reads the canaries' rows in the answers.

Guarantees:
- what is attacked is what `client.trainer` answers, step for step
- noise off, clipping off, a wrong sampling rate and in-batch negatives are caught
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from client.trainer import Draws, TrainingConfig, train_in_shares, train_privately
from data.samples import UserHistories
from models.batches import RecommendationBatch
from models.parameters import ParameterSpec, load_shared, shared_arrays
from models.recommendation import RecommendationConfig, RecommendationModel, RecommendationTask
from privacy.audit import AuditResult, attack
from privacy.integer_update import mean, released_sum
from privacy.plan import Mode, PrivacyPlan, Unit

__all__ = ["NORM", "CanaryBench", "InBatchNegatives", "audit", "coordinates"]

Floats = npt.NDArray[np.float64]
_DIMENSION: Final = 4
NORM: Final = 0.3  # clipping norm of audited plans: a twentieth of a canary's gradient
_PULL: Final = 3.0  # each coordinate of what all users have in common
_TABLE: Final = "tower.attributes.weight"
_REPLAYED: Final = 200  # canaries
_CONFIG = RecommendationConfig(dimension=_DIMENSION, history_events=2, past_events=2, targets=1, negatives=64)
_REPLAY = PrivacyPlan(
    mode=Mode.LOCAL,
    unit=Unit.USER_MERCHANT,
    epsilon=np.inf,
    delta=1e-5,
    clipping_norm=NORM,
    noise_multiplier=1e-6,
    sampling_rate=1.0,
    steps_per_round=1,
    rounds=1,
)


def coordinates(canaries: int) -> int:
    """The length of a release: a row for each canary, one for unknown brands, the context layer."""
    return (canaries + 1 + 3) * _DIMENSION


class InBatchNegatives(RecommendationTask):
    """Broken on purpose: what a user of the step bought is every other user's negative, by logistic loss.

    The other users' items come in as integers, which is what the clipping engine cannot see: it clips every row of
    the loss, and a user is in all of them.
    """

    def loss_per_user(self, model: nn.Module, batch: RecommendationBatch, negatives: Tensor) -> Tensor:
        """float32 [B]; row b depends on all B users."""
        assert isinstance(model, RecommendationModel)
        size = len(batch)
        everybodys_BB = batch.targets[:, 0].expand(size, size)
        user_BD = model.tower.user(model.tower.items(batch.history), self._item_weights(batch.history))
        scores_BB = torch.einsum("bd,bnd->bn", user_BD, model.tower.items(everybodys_BB))
        return -logsigmoid(scores_BB * (2.0 * torch.eye(size) - 1.0)).sum(dim=1)


def audit(
    done: PrivacyPlan,
    claimed: PrivacyPlan,
    canaries: int,
    seed: int,
    task: type[RecommendationTask] = RecommendationTask,
) -> AuditResult:
    """Train by `done` on some of the canaries and attack it; the bound is held against `claimed`."""
    bench = CanaryBench.of(canaries, task)
    inside = np.random.default_rng(seed).random(canaries) < 0.5
    members = np.flatnonzero(inside)
    answer = {Mode.LOCAL: _one_merchant, Mode.DISTRIBUTED: _honest_survivors}[done.mode]
    seen = np.zeros((canaries, _DIMENSION))
    for number in range(done.rounds):
        seen += answer(bench, members, done, f"audit/{seed}/{task.__name__}/{number}")
    return attack(inside, seen @ bench.direction, claimed)


@dataclass(frozen=True)
class CanaryBench:
    """A trainer's bench over a catalogue of canaries' items, and the model that the platform sends every round."""

    task: RecommendationTask
    model: RecommendationModel
    spec: ParameterSpec
    start: Mapping[str, npt.NDArray[np.float32]]
    canaries: UserHistories
    device: torch.device

    @classmethod
    def of(cls, canaries: int, kind: type[RecommendationTask]) -> "CanaryBench":
        brands = np.repeat(np.arange(canaries + 1), 2)[1:, None]
        task = kind(_CONFIG, brands)
        model = task.build(seed=0)
        with torch.no_grad():
            model.tower.attributes.weight.mul_(0.1)
            model.tower.context.weight[:, 0] = _PULL
        spec = task.spec(model)
        everybody = UserHistories(
            user_ids=tuple(str(user) for user in range(canaries)),
            offsets=np.arange(0, 2 * canaries + 1, 2),
            items=np.arange(1, 2 * canaries + 1, dtype=np.int32),
            days=np.tile(np.array([0.0, 7.0], np.float32), canaries),
            quantities=np.ones(2 * canaries, np.float32),
        )
        return cls(task, model, spec, shared_arrays(model, spec), everybody, torch.device("cpu"))

    @cached_property
    def direction(self) -> Floats:
        """float64 [D] of length 1: where canaries pull, from a step without noise on some that all are in."""
        some = np.arange(min(_REPLAYED, len(self.canaries)))
        pull_D = _one_merchant(self, some, _REPLAY, "replay")[some].mean(axis=0)
        return np.asarray(pull_D / np.linalg.norm(pull_D))


def _one_merchant(bench: CanaryBench, members: npt.NDArray[np.int64], plan: PrivacyPlan, label: str) -> Floats:
    """The canaries' rows [M, D] in what a merchant answers in mode `local`."""
    load_shared(bench.model, bench.spec, bench.start)
    config = TrainingConfig(1, 1.0, learning_rate=1.0, optimiser="sgd", expected_users=len(bench.canaries) / 2)
    reply = train_privately(bench, bench.canaries.take(members), plan, config, Draws.from_seed(label))
    return reply.arrays[_TABLE][1:].astype(np.float64)


def _honest_survivors(bench: CanaryBench, members: npt.NDArray[np.int64], plan: PrivacyPlan, label: str) -> Floats:
    """The same in mode `distributed`, as platform and colluders see it in the worst tolerated case.

    The colluders' integers are known to them and taken off, the drop-outs' never came: what is left is the sum
    over the honest survivors. The canaries are spread over these merchants.
    """
    load_shared(bench.model, bench.spec, bench.start)
    share = plan.share("training")
    honest = share.tolerance.honest_survivors
    words = np.zeros(plan.coordinates, np.uint32)
    for merchant in range(honest):
        own = bench.canaries.take(members[members % honest == merchant])
        reply = train_in_shares(bench, own, plan, Draws.from_seed(f"{label}/{merchant}"))
        words += np.frombuffer(reply.words, np.uint32)
    shapes = {name: array.shape for name, array in bench.start.items()}
    survivors = share.tolerance.least_survivors
    found = mean(released_sum(words, share, survivors), survivors, shapes, expected_users=1.0)
    return found.values[_TABLE][1:].astype(np.float64)
