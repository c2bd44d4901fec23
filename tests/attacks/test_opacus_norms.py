# SPDX-License-Identifier: Apache-2.0
"""Ordinary ways to use an item table, in which Opacus clips by a wrong norm without a word.

A wrong norm lets one user's contribution pass the clipping norm, so that the epsilon on the label is false. Each
construction is run through Opacus's hooks and ghost clipping and through ours, and held against a loop over users
with autograd. Ours is right, or refuses by the parameter's name.
"""

import warnings

import pytest
import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import nn
from torch.nn import functional

from privacy.clipping import PerUserGradients
from privacy.errors import UnsupportedUse, UsersNotIndependent

pytestmark = pytest.mark.filterwarnings("ignore")
ITEMS, WIDTH, USERS, LENGTH = 30, 8, 6, 5
HISTORY = torch.randint(1, ITEMS, (USERS, LENGTH), generator=torch.Generator().manual_seed(1))
HISTORY[:, 0] = 0  # padding
TARGET = torch.randint(1, ITEMS, (USERS,), generator=torch.Generator().manual_seed(2))
NEGATIVES = torch.randint(1, ITEMS, (USERS,), generator=torch.Generator().manual_seed(3))  # as many as users


class Base(nn.Module):
    padding: int | None = None

    def __init__(self):
        super().__init__()
        self.item = nn.Embedding(ITEMS, WIDTH, padding_idx=self.padding)
        nn.init.normal_(self.item.weight)
        self.encode = nn.Linear(WIDTH, WIDTH)

    def user(self, history):
        return self.encode(self.item(history)).mean(1)


class OutsideItsModule(Base):
    def forward(self, history, target, negatives):
        scores = functional.linear(self.user(history), self.item.weight)
        return functional.cross_entropy(scores, target, reduction="none")


class ByIndex(Base):
    def forward(self, history, target, negatives):
        return (self.user(history) * self.item.weight[target]).sum(1)


class SharedNegatives(Base):
    def forward(self, history, target, negatives):
        user = self.user(history)
        positive = (user * self.item(target)).sum(1)
        return torch.logsumexp(user @ self.item(negatives).T, 1) - positive


class Padding(Base):
    padding = 0

    def forward(self, history, target, negatives):
        return self.user(history).square().sum(1)


class TiedModule(Base):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(WIDTH, ITEMS, bias=False)
        self.out.weight = self.item.weight

    def forward(self, history, target, negatives):
        return functional.cross_entropy(self.out(self.user(history)), target, reduction="none")


class SeveralCalls(Base):
    def forward(self, history, target, negatives):
        user = self.user(history)
        others = self.item(negatives.expand(len(history), -1))
        positive = (user * self.item(target)).sum(1)
        return torch.logsumexp(torch.einsum("bd,bnd->bn", user, others), 1) - positive


class Positions(Base):
    def __init__(self):
        super().__init__()
        self.position = nn.Embedding(LENGTH, WIDTH)

    def forward(self, history, target, negatives):
        states = self.item(history) + self.position(torch.arange(history.shape[1]))
        return (self.encode(states).mean(1) * self.item(target)).sum(1)


class FourDimensions(Base):
    def forward(self, history, target, negatives):
        return (self.encode(self.item(history)[:, None])[:, 0].mean(1) * self.item(target)).sum(1)


class InBatchNegatives(Base):
    def forward(self, history, target, negatives):
        user = self.user(history)
        scores = user @ user.T
        return torch.logsumexp(scores, 1) - scores.diagonal()


def loop(model):
    """Norms by autograd, one user at a time."""
    norms = []
    for user in range(USERS):
        model.zero_grad()
        model(HISTORY[[user]], TARGET[[user]], NEGATIVES).sum().backward()
        held = {id(p): p.grad for p in model.parameters() if p.grad is not None}
        norms.append(torch.stack([g.square().sum() for g in held.values()]).sum().sqrt())
    return torch.stack(norms)


def ours(model):
    engine = PerUserGradients(model)
    with engine.record(USERS, shared=[NEGATIVES]):
        losses = model(HISTORY, TARGET, NEGATIVES)
    return engine.norms(losses)


def opacus_hooks(model):
    wrapped = GradSampleModule(model, batch_first=True, loss_reduction="sum")
    wrapped(HISTORY, TARGET, NEGATIVES).sum().backward()
    samples = [
        p.grad_sample.flatten(1) for p in wrapped.parameters() if getattr(p, "grad_sample", None) is not None
    ]
    return torch.cat(samples, 1).norm(dim=1)


def opacus_ghost(model):
    wrapped = GradSampleModuleFastGradientClipping(
        model, batch_first=True, loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True
    )
    wrapped(HISTORY, TARGET, NEGATIVES).sum().backward()
    return wrapped.get_norm_sample()


def outcome(norms_of, model):
    """`right`, `wrong`, or `error` when it refuses or crashes."""
    exact = loop(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = norms_of(model)
    except (UnsupportedUse, UsersNotIndependent):
        return "refused"
    except Exception:
        return "error"
    return "right" if found.shape == exact.shape and torch.allclose(found, exact, rtol=1e-5) else "wrong"


# construction: (ours, Opacus's hooks, Opacus's ghost clipping)
TABLE = {
    OutsideItsModule: ("right", "wrong", "wrong"),
    ByIndex: ("refused", "wrong", "wrong"),
    SharedNegatives: ("right", "wrong", "error"),
    Padding: ("right", "wrong", "wrong"),
    TiedModule: ("right", "right", "error"),
    SeveralCalls: ("right", "right", "error"),
    Positions: ("right", "error", "error"),
    FourDimensions: ("right", "right", "error"),
    InBatchNegatives: ("refused", "wrong", "wrong"),
}


def build(construction):
    torch.manual_seed(4)
    return construction()


@pytest.mark.parametrize("construction", TABLE)
def test_ours_is_right_or_refuses_by_name(construction):
    assert outcome(ours, build(construction)) == TABLE[construction][0]


@pytest.mark.parametrize("construction", TABLE)
def test_opacus_hooks(construction):
    assert outcome(opacus_hooks, build(construction)) == TABLE[construction][1]


@pytest.mark.parametrize("construction", TABLE)
def test_opacus_ghost_clipping(construction):
    assert outcome(opacus_ghost, build(construction)) == TABLE[construction][2]


def test_a_wrong_norm_lets_a_user_pass_the_clipping_norm():
    """What the hooks would release for one user, held against the clipping norm that they were given."""
    model = build(OutsideItsModule)
    exact, claimed = loop(model), opacus_hooks(build(OutsideItsModule))
    released = exact / claimed  # of a user whose claimed norm is above C, in units of C
    assert float(released.max()) > 1.02


def test_the_empty_batch_works_where_ghost_clipping_crashes():
    model = build(SeveralCalls)
    engine = PerUserGradients(model)
    with engine.record(0, shared=[NEGATIVES]):
        losses = model(HISTORY[:0], TARGET[:0], NEGATIVES)
    assert float(engine.clipped_sum(losses, 1.0).tensor("item.weight").abs().sum()) == 0
