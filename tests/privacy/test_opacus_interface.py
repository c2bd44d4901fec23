# SPDX-License-Identifier: Apache-2.0
"""The clipping engine inside an ordinary Opacus loop: its sampler, its optimiser, its accountant."""

import copy

import pytest
import torch
from opacus.accountants import PRVAccountant
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch import nn

from privacy.accountant import SampledGaussianEvent, epsilon
from privacy.clipping import PerUserGradients

USERS, RATE, NORM = 40, 0.2, 0.5
HISTORY = torch.randint(0, 20, (USERS, 6), generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.item, self.out = nn.Embedding(20, 4), nn.Linear(4, 1)

    def forward(self, history):
        return self.out(self.item(history).mean(1)).squeeze(1).square()


def optimiser_of(kind, model, noise=0.0):
    return kind(
        torch.optim.SGD(model.parameters(), 0.1),
        noise_multiplier=noise,
        max_grad_norm=NORM,
        expected_batch_size=int(USERS * RATE),
        loss_reduction="mean",
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_loop_with_opacus_sampler_optimiser_and_accountant():
    model, accountant = Model(), PRVAccountant()
    engine = PerUserGradients(model)
    optimiser = optimiser_of(DPOptimizerFastGradientClipping, model, noise=1.0)
    optimiser.attach_step_hook(accountant.get_optimizer_hook_fn(sample_rate=RATE))
    sampler = UniformWithReplacementSampler(num_samples=USERS, sample_rate=RATE, steps=5)
    before = model.item.weight.detach().clone()
    for users in sampler:
        with engine.record(batch_size=len(users)):
            losses = model(HISTORY[users])
        engine.backward(losses, clipping_norm=NORM)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    assert not torch.equal(before, model.item.weight)
    ours = epsilon([SampledGaussianEvent(1.0, RATE, 5)], 1e-5)
    assert accountant.get_epsilon(1e-5) == pytest.approx(ours, rel=0.01)


def test_equal_to_opacus_where_opacus_is_right():
    """One step without noise: `.grad` for the fast optimiser, `.grad_sample` for the default one."""
    results = []
    for kind in (DPOptimizerFastGradientClipping, DPOptimizer):
        model = copy.deepcopy(Model())
        engine = PerUserGradients(model)
        optimiser = optimiser_of(kind, model)
        with engine.record(batch_size=8):
            losses = model(HISTORY[:8])
        if kind is DPOptimizer:
            for name, gradients in engine.per_user(losses).items():
                engine.parameters[name].grad_sample = gradients
        else:
            engine.backward(losses, clipping_norm=NORM)
        optimiser.step()
        results.append([p.detach() for p in model.parameters()])
    for fast, default in zip(*results, strict=True):
        torch.testing.assert_close(fast, default, rtol=1e-4, atol=1e-6)
