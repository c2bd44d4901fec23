# SPDX-License-Identifier: Apache-2.0
"""Sampled softmax against the formula, and its rows against each other."""

import math

import pytest
import torch

from models.objective import sampled_softmax

N_ITEMS = 100


def inputs(seed: int, users: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "targets": torch.randn(users, 4, generator=generator, requires_grad=True),
        "negatives": torch.randn(users, 6, generator=generator, requires_grad=True),
        "owned": torch.rand(users, 6, generator=generator) < 0.3,
        "weights": torch.rand(users, 4, generator=generator),
    }


def loss(given: dict[str, torch.Tensor]) -> torch.Tensor:
    return sampled_softmax(
        given["targets"],
        given["negatives"],
        owned_BN=given["owned"],
        weights_BT=given["weights"],
        n_items=N_ITEMS,
    )


def test_it_equals_the_formula() -> None:
    given = inputs(0)
    found = loss(given)
    for user in range(3):
        rest = sum(
            math.exp(score) * N_ITEMS / 6
            for score, owned in zip(given["negatives"][user].tolist(), given["owned"][user].tolist(), strict=True)
            if not owned
        )
        expected = sum(
            weight * -math.log(math.exp(score) / (math.exp(score) + rest))
            for score, weight in zip(given["targets"][user].tolist(), given["weights"][user].tolist(), strict=True)
        )
        assert found[user].item() == pytest.approx(expected, rel=1e-5)


def test_row_b_of_the_loss_depends_on_row_b_of_its_inputs_alone() -> None:
    given, other = inputs(1), inputs(2)
    changed = {name: torch.cat([tensor[:1], other[name][1:]]) for name, tensor in given.items()}
    assert torch.equal(loss(given)[0], loss(changed)[0])
    gradients = torch.autograd.grad(loss(given)[0], [given["targets"], given["negatives"]])
    for gradient in gradients:
        assert gradient[0].any()
        assert not gradient[1:].any()


def test_a_user_who_owns_every_negative_has_a_finite_loss_and_gradient() -> None:
    given = inputs(3)
    given["owned"][:] = True
    losses = loss(given)
    gradient = torch.autograd.grad(losses.sum(), given["negatives"])[0]
    assert torch.isfinite(losses).all()
    assert torch.isfinite(gradient).all()


def test_a_user_without_new_items_has_no_loss_and_no_gradient() -> None:
    given = inputs(4)
    given["weights"][0] = 0.0
    losses = loss(given)
    assert losses[0] == 0.0
    assert not torch.autograd.grad(losses[0], given["targets"])[0].any()
