# SPDX-License-Identifier: Apache-2.0
"""Training at the merchant: ordinary steps, or private ones, on Poisson-sampled users.

One step draws each user with the plan's rate, takes one bounded sample per user, and follows the sum of their
gradients divided by a constant. In mode `local` each user's gradient is clipped over all shared parameters and
noise is added to the sum (Abadi et al. 2016, Alg. 1, with users for examples); what follows is post-processing.
In mode `distributed` a round is one such step at the global model, with this merchant's share of the noise.
In mode `merchant` training is ordinary, and its whole update is clipped and gets a share of the noise.

Guarantees:
- Every private step draws its users as the accountant assumes, empty draws included.
- The divisor is a public constant, never the number of users drawn.
- A private answer carries no loss, no count and the weight 1.
- A merchant without users answers in private mode with noise alone: silence would tell that it has none.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from client.errors import Refused
from client.wire import Reply
from data.samples import UserHistories
from data.sampling import poisson_sample
from models.parameters import ParameterSpec, shared_arrays
from models.task import Task
from privacy.clipping import PerUserGradients
from privacy.integer_update import integer_update
from privacy.merchant_clipping import clipped_whole
from privacy.noise import NoiseSource, add_noise
from privacy.plan import PrivacyPlan
from privacy.stages import ClippedUpdate, LocalUpdate, NoisedUpdate, NoiseReceipt

MAX_STEPS = 100_000


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How a merchant trains between two exchanges.

    Attributes:
        steps_per_round: ordinary steps; private runs take the plan's.
        sampling_rate: each user's chance to be drawn in an ordinary step; private runs take the plan's.
        learning_rate: of the optimiser.
        optimiser: `adam` (Kingma & Ba 2015) or `sgd`, fresh each round.
        momentum: of `sgd`.
        expected_users: public constant that stands for a merchant's number of users in private steps.
        cool_down: share of the ordinary steps, at the end, over which the learning rate falls to 0 in a line.
        proximal_mu: weight of the pull towards the global model (Li et al. 2020, FedProx, Alg. 2).
    """

    steps_per_round: int
    sampling_rate: float
    learning_rate: float
    optimiser: Literal["adam", "sgd"]
    momentum: float = 0.0
    expected_users: float = 50.0
    cool_down: float = 0.0
    proximal_mu: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.steps_per_round <= MAX_STEPS or not 0 < self.sampling_rate <= 1:
            raise ValueError(f"steps_per_round must lie in 1..{MAX_STEPS} and sampling_rate in (0, 1]")
        if not 0 < self.learning_rate < math.inf or not 0 < self.expected_users < math.inf:
            raise ValueError("learning_rate and expected_users must be positive and finite")
        if not 0 <= self.proximal_mu < math.inf or not 0 <= self.momentum < 1:
            raise ValueError("proximal_mu must be finite and not negative, momentum must lie in [0, 1)")
        if not 0 <= self.cool_down <= 1:
            raise ValueError("cool_down is a share in [0, 1]")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of an ordinary step, from 0."""
        left, cooling = self.steps_per_round - step, self.cool_down * self.steps_per_round
        return self.learning_rate * (left / cooling if left < cooling else 1.0)


class Bench(Protocol):
    """Where training happens: the task, its model (already holding the global weights) and the device."""

    @property
    def task(self) -> Task[Any]: ...
    @property
    def model(self) -> torch.nn.Module: ...
    @property
    def spec(self) -> ParameterSpec: ...
    @property
    def device(self) -> torch.device: ...


@dataclass(frozen=True, slots=True, repr=False)
class Draws:
    """The keys of all chance in one answer: which users are drawn, and the noise."""

    sampling: bytes
    noise: bytes

    @classmethod
    def from_seed(cls, seed: str) -> "Draws":
        """For reference models, which need no secret."""
        digest = hashlib.sha512(f"hansa.draws/1|{seed}".encode()).digest()
        return cls(digest[:32], digest[32:])

    def generator(self) -> np.random.Generator:
        return np.random.default_rng(np.frombuffer(self.sampling, dtype=np.uint32))


def train_locally(bench: Bench, own: UserHistories, config: TrainingConfig, draws: Draws) -> Reply:
    """Ordinary training: update, summed loss and examples; weighted by the number of users.

    Raises:
        Refused: the merchant has no user to train on.
    """
    users = len(own)
    if not users:
        raise Refused("no user with a purchase of a known item before train_until: nothing to train on")
    start, anchors = shared_arrays(bench.model, bench.spec), _copies(bench)
    optimiser, rng = _optimiser(bench, config), draws.generator()
    loss_sum, steps_taken = 0.0, 0
    for step in range(config.steps_per_round):
        optimiser.param_groups[0]["lr"] = config.learning_rate_at(step)
        drawn = poisson_sample(users, config.sampling_rate, rng)
        negatives = bench.task.negatives(rng, bench.device)
        if not len(drawn):
            continue
        optimiser.zero_grad()
        loss = _losses(bench, own, drawn, rng, negatives).sum() / (users * config.sampling_rate)
        loss.backward()  # type: ignore[no-untyped-call]
        _pull(bench, anchors, config.proximal_mu)
        optimiser.step()
        loss_sum += float(loss.detach())
        steps_taken += 1
    statistics = {"loss": np.array(users * loss_sum / max(steps_taken, 1), np.float32)}
    statistics["users"] = np.array(users, np.float32)
    return _reply(LocalUpdate(_difference(bench, start)), statistics, weight=users)


def train_privately(
    bench: Bench, own: UserHistories, plan: PrivacyPlan, config: TrainingConfig, draws: Draws
) -> Reply:
    """Training in mode `local`: every step is private by itself, the update is what they add up to.

    Raises:
        privacy.errors.PrivacyError: the model uses a parameter in a way that can't be clipped per user.
    """
    start, anchors = shared_arrays(bench.model, bench.spec), _copies(bench)
    engine = PerUserGradients(bench.model, parameters=tuple(_trainable(bench)))
    optimiser, rng, noise = _optimiser(bench, config), draws.generator(), NoiseSource(draws.noise)
    divisor = plan.sampling_rate * config.expected_users
    receipts: list[NoiseReceipt] = []
    for step in range(plan.steps_per_round):
        clipped = _clipped_step(bench, engine, own, plan, rng)
        noised = add_noise(clipped, plan.noise_multiplier, noise.stream(f"step/{step}"))
        receipts.extend(noised.receipts)
        for name, parameter in _trainable(bench).items():
            parameter.grad = noised.values[name] / divisor
        _pull(bench, anchors, config.proximal_mu)
        optimiser.step()
    return _reply(NoisedUpdate.computed_from(receipts, _difference(bench, start)), {}, weight=1)


def train_in_shares(
    bench: Bench, own: UserHistories, plan: PrivacyPlan, draws: Draws, scale: float = 1.0
) -> Reply:
    """Training in mode `distributed`: one clipped sum of gradients, downhill, as words for a mask.

    `scale`: gradients are clipped at so many times the plan's norm, and sent in units of it. Raises:
        privacy.errors.PrivacyError: the model uses a parameter in a way that can't be clipped per user.
    """
    engine = PerUserGradients(bench.model, parameters=tuple(_trainable(bench)))
    clipped = _clipped_step(bench, engine, own, plan, draws.generator(), factor=-1.0 / scale)
    noised = integer_update(clipped, plan, NoiseSource(draws.noise).integers("training"))
    return Reply({}, {}, weight=1, words=noised.words.tobytes())


def train_as_one(
    bench: Bench, own: UserHistories, plan: PrivacyPlan, config: TrainingConfig, draws: Draws
) -> Reply:
    """Training in mode `merchant`: an ordinary update, clipped as a whole, as words for a mask."""
    nothing = {name: np.zeros_like(array) for name, array in shared_arrays(bench.model, bench.spec).items()}
    update = LocalUpdate(train_locally(bench, own, config, draws).arrays if len(own) else nothing)
    clipped = clipped_whole(update, plan.clipping_norm)
    noised = integer_update(clipped, plan, NoiseSource(draws.noise).integers("training"))
    return Reply({}, {}, weight=1, words=noised.words.tobytes())


def _clipped_step(
    bench: Bench,
    engine: PerUserGradients,
    own: UserHistories,
    plan: PrivacyPlan,
    rng: np.random.Generator,
    factor: float = 1.0,
) -> ClippedUpdate:
    """The sum over drawn users of the clipped gradients of `factor` times their loss."""
    drawn = poisson_sample(len(own), plan.sampling_rate, rng)
    negatives = bench.task.negatives(rng, bench.device)
    with engine.record(batch_size=len(drawn), shared=[negatives]):
        losses = factor * _losses(bench, own, drawn, rng, negatives)
    return engine.clipped_sum(losses, clipping_norm=plan.clipping_norm)


def _reply(
    update: LocalUpdate | NoisedUpdate, statistics: dict[str, npt.NDArray[np.float32]], weight: int
) -> Reply:
    return Reply(update.values, statistics, weight)


def _losses(
    bench: Bench,
    own: UserHistories,
    drawn: npt.NDArray[np.int64],
    rng: np.random.Generator,
    negatives: torch.Tensor,
) -> torch.Tensor:
    batch = bench.task.batch(own, drawn, rng, bench.device)
    return bench.task.loss_per_user(bench.model, batch, negatives)


def _trainable(bench: Bench) -> dict[str, torch.nn.Parameter]:
    named = dict(bench.model.named_parameters())
    return {name: named[name] for name in bench.spec.shared if name in named and named[name].requires_grad}


def _optimiser(bench: Bench, config: TrainingConfig) -> torch.optim.Optimizer:
    parameters = list(_trainable(bench).values())
    if config.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
    return torch.optim.SGD(parameters, lr=config.learning_rate, momentum=config.momentum)


def _copies(bench: Bench) -> list[torch.Tensor]:
    return [p.detach().clone() for p in _trainable(bench).values()]


def _pull(bench: Bench, anchors: list[torch.Tensor], mu: float) -> None:
    """Add the gradient of mu / 2 |w - w_global|^2, which holds nothing of the data but through w."""
    if not mu:
        return
    for parameter, anchor in zip(_trainable(bench).values(), anchors, strict=True):
        pull = mu * (parameter.detach() - anchor)
        parameter.grad = pull if parameter.grad is None else parameter.grad + pull


def _difference(bench: Bench, start: dict[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[np.float32]]:
    now = shared_arrays(bench.model, bench.spec)
    return {name: now[name] - start[name] for name in start}
