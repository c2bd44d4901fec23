# SPDX-License-Identifier: Apache-2.0
"""Per-user norms and clipped sums against a loop over users with autograd, and every refusal."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from privacy.clipping import PerUserGradients, check_users_independent
from privacy.errors import ClippingError, UnsupportedUse, UsersNotIndependent

ITEMS, WIDTH = 12, 4
ONES = torch.ones(4, 3, dtype=torch.int64)
SIX = torch.arange(6)


class Recommender(nn.Module):
    """Every supported construction at once: item tables, tied scoring, layers, small parameters."""

    def __init__(self, attributes=2, padding=None, items=ITEMS):
        super().__init__()
        self.register_buffer("codes", torch.randint(0, 5, (items, attributes)))
        self.attributes = nn.Embedding(5 * attributes, WIDTH)
        self.tables = nn.ModuleList(nn.Embedding(5, WIDTH) for _ in range(attributes))
        self.item = nn.Embedding(items, WIDTH, padding_idx=padding)
        self.position = nn.Embedding(16, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.projection = nn.Parameter(torch.randn(WIDTH, WIDTH) / 2)
        self.gate = nn.Parameter(torch.randn(WIDTH))
        self.temperature = nn.Parameter(torch.zeros(()))
        self.mixing = nn.Linear(2, 1)

    def vectors(self, items):
        codes = self.codes[items]
        shifted = codes + 5 * torch.arange(codes.shape[-1])
        found = self.attributes(shifted).sum(-2) * 0.5 + self.item(items)
        return found + sum(table(codes[..., a]) for a, table in enumerate(self.tables))

    def forward(self, history, target, negatives):
        states = self.vectors(history) + self.position(torch.arange(history.shape[1]))
        states = self.norm(torch.relu(self.first(states)) * self.gate) @ self.projection
        user = states.sum(1) / (history.shape[1] + 1)
        positive = (user * self.vectors(target)).sum(-1, keepdim=True)
        scores = torch.cat([positive, user @ self.vectors(negatives).T], 1) * self.temperature.exp()
        features = torch.stack([scores, torch.ones_like(scores)], -1)
        scores = self.mixing(features[:, None])[:, 0, :, 0] + scores  # a linear layer on 4-D input
        return torch.logsumexp(scores, 1) - scores[:, 0]


def loop(model, loss_of):
    """Per-user gradients by autograd, one user at a time."""
    found = []
    for user in range(loss_of.users):
        model.zero_grad()
        loss_of(user).backward()
        found.append(
            {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
        )
    return found


class LossOf:
    def __init__(self, model, history, target, negatives):
        self.users, self.run = len(history), lambda b: model(history[b], target[b], negatives)

    def __call__(self, user):
        return self.run([user]).sum()


def check(model, engine, losses, reference, norm=0.3):
    """Norms to 1e-5, and the clipped sum."""
    exact = torch.stack([sum(g.double().square().sum() for g in r.values()).sqrt() for r in reference])
    torch.testing.assert_close(engine.norms(losses()).double(), exact, rtol=1e-5, atol=1e-7)
    clipped = engine.clipped_sum(losses(), norm)
    for name in engine.parameters:
        expected = sum(
            r[name] * min(1.0, norm / max(float(n), 1e-30)) for r, n in zip(reference, exact, strict=True)
        )
        torch.testing.assert_close(clipped.tensor(name), expected, rtol=1e-4, atol=1e-5)
    per_user = engine.per_user(losses())
    for name, values in per_user.items():
        torch.testing.assert_close(values, torch.stack([r[name] for r in reference]), rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    users=st.integers(1, 6),
    length=st.integers(0, 7),
    negatives=st.integers(1, 9),
    attributes=st.integers(1, 3),
    padding=st.sampled_from([None, 0, 3, -1]),
    items=st.sampled_from([4, ITEMS]),  # 4: the same items again and again, on both sides
    seed=st.integers(0, 999),
)
def test_norms_equal_a_loop_over_users_with_autograd(users, length, negatives, attributes, padding, items, seed):
    torch.manual_seed(seed)
    model = Recommender(attributes, padding, items)
    history = torch.randint(0, items, (users, length))
    history[torch.rand(users, length) < 0.3] = 0
    target = torch.randint(0, items, (users,))
    shared = torch.randint(0, items, (negatives,))
    engine = PerUserGradients(model)

    def losses():
        with engine.record(users, shared=[shared]):
            return model(history, target, shared)

    check(model, engine, losses, loop(model, LossOf(model, history, target, shared)))


@settings(max_examples=15, deadline=None)
@given(
    users=st.integers(1, 4),
    events=st.lists(st.integers(0, ITEMS - 1), max_size=16),
    scale=st.floats(1e-3, 1e4),
    norm=st.floats(1e-3, 10),
)
def test_one_users_clipped_contribution_has_l2_norm_at_most_clipping_norm_over_all_parameters_together(
    users, events, scale, norm
):
    torch.manual_seed(0)
    model = Recommender()
    with torch.no_grad():
        model.item.weight.mul_(scale)
    shared = torch.arange(3)
    history = torch.randint(0, ITEMS, (users, len(events)))
    history[0] = torch.tensor(events, dtype=torch.int64)
    target = torch.randint(0, ITEMS, (users,))
    engine = PerUserGradients(model)

    def total(kept):
        with engine.record(len(kept), shared=[shared]):
            losses = model(history[kept], target[kept], shared)
        clipped = engine.clipped_sum(losses, norm)
        return torch.cat([clipped.tensor(n).double().flatten() for n in clipped.names])

    everybody = list(range(users))
    rounding = 1e-6 * users * norm
    assert float((total(everybody) - total(everybody[1:])).norm()) <= norm + rounding
    assert float(total([0]).norm()) <= norm


def test_the_empty_batch_works():
    model = Recommender()
    engine = PerUserGradients(model)
    shared = torch.arange(5)
    with engine.record(0, shared=[shared]):
        losses = model(ONES[:0], SIX[:0], shared)
    clipped = engine.clipped_sum(losses, 1.0)
    assert sorted(clipped.names) == sorted(dict(model.named_parameters()))
    assert all(float(clipped.tensor(n).abs().sum()) == 0 for n in clipped.names)
    assert clipped.tensor("temperature").shape == ()


def test_memory_kept_from_batch_to_batch_carries_nothing_over():
    torch.manual_seed(0)
    model, shared = Recommender(), torch.randint(0, ITEMS, (9,))
    history, target = torch.randint(0, ITEMS, (6, 7)), torch.randint(0, ITEMS, (6,))

    def clipped(engine, users):
        with engine.record(users, shared=[shared]):
            losses = model(history[:users], target[:users], shared)
        return engine.clipped_sum(losses, 0.3)

    kept, first = PerUserGradients(model), {}
    for users in (3, 6, 2):
        found, fresh = clipped(kept, users), clipped(PerUserGradients(model), users)
        first = first or {name: (found, found.tensor(name)) for name in found.names}
        for name in found.names:
            torch.testing.assert_close(found.tensor(name), fresh.tensor(name), rtol=0, atol=0)
    for name, (update, before) in first.items():  # nor does a later batch reach back
        torch.testing.assert_close(update.tensor(name), before, rtol=0, atol=0)


def test_only_the_named_parameters_are_clipped_and_buffers_may_be_named():
    model = Recommender()
    engine = PerUserGradients(model, ["item.weight", "codes"])
    shared = torch.arange(5)
    with engine.record(2, shared=[shared]):
        losses = model(ONES[:2], SIX[:2], shared)
    assert engine.clipped_sum(losses, 1.0).names == ("item.weight",)
    with pytest.raises(ClippingError, match="no parameters"):
        PerUserGradients(model, ["items.weight"])


class Tied(nn.Module):
    """A full softmax over the table that is also looked up."""

    def __init__(self):
        super().__init__()
        self.item = nn.Embedding(ITEMS, WIDTH)
        self.out = nn.Linear(WIDTH, ITEMS, bias=False)
        self.out.weight = self.item.weight

    def forward(self, history, target, negatives):
        return functional.cross_entropy(self.out(self.item(history).mean(1)), target, reduction="none")


class Functional(Tied):
    """The same by a function instead of a module."""

    def forward(self, history, target, negatives):
        scores = functional.linear(self.item(history), self.item.weight).sum(1)
        return functional.cross_entropy(scores, target, reduction="none")


class Expanded(Tied):
    """Shared negatives expanded before, and after, the lookup."""

    def forward(self, history, target, negatives):
        user = self.item(history).mean(1)
        before = self.item(negatives.expand(len(history), -1))
        after = self.item(negatives).expand(len(history), -1, -1)
        scores = torch.einsum("bd,bnd->bn", user, before * 0.5 + after)
        return torch.logsumexp(scores, 1) - (user * self.item(target)).sum(1)


@pytest.mark.parametrize("kind", [Tied, Functional, Expanded])
def test_several_uses_of_one_table_are_one_parameter(kind):
    torch.manual_seed(1)
    model = kind()
    history, target = torch.randint(0, ITEMS, (5, 6)), torch.randint(0, ITEMS, (5,))
    shared = torch.randint(0, ITEMS, (5,))
    engine = PerUserGradients(model)

    def losses():
        with engine.record(5, shared=[shared]):
            return model(history, target, shared)

    check(model, engine, losses, loop(model, LossOf(model, history, target, shared)))


def test_a_user_with_a_gradient_that_is_not_finite_contributes_nothing():
    torch.manual_seed(0)
    model = Recommender()
    engine = PerUserGradients(model)
    history, target, shared = torch.ones(3, 4, dtype=torch.int64), torch.arange(3), torch.arange(4)

    def clipped(factor):
        with engine.record(len(factor), shared=[shared]):
            losses = model(history[: len(factor)], target[: len(factor)], shared) * torch.tensor(factor)
        return engine.clipped_sum(losses, 1.0)

    bad, good = clipped([1.0, 1.0, float("nan")]), clipped([1.0, 1.0])
    for name in good.names:
        torch.testing.assert_close(bad.tensor(name), good.tensor(name))


# Refusals. Each takes (model, history [B, L], target [B], negatives [N]) and gives losses [B].
REFUSED = {
    "weight read by index": lambda m, h, t, n: m.item.weight[h].sum((1, 2)),
    "weight in a matmul": lambda m, h, t, n: (torch.rand(len(h), WIDTH) @ m.item.weight.T).sum(1),
    "weight in an einsum": lambda m, h, t, n: torch.einsum("bd,vd->b", torch.rand(len(h), WIDTH), m.item.weight),
    "weight gathered": lambda m, h, t, n: torch.index_select(m.item.weight, 0, t).sum(1),
    "weight summed": lambda m, h, t, n: m.item.weight.sum().expand(len(h)),
    "lookup that no user owns": lambda m, h, t, n: m.item(torch.arange(7)).sum().expand(len(h)),
    "negatives that were not declared": lambda m, h, t, n: (m.item(t) @ m.item(torch.tensor([1, 2])).T).sum(1),
    "shared vectors through a layer": lambda m, h, t, n: (m.item(t) @ torch.relu(m.item(n)).T).sum(1),
    "shared vectors of two dimensions": lambda m, h, t, n: m.item(n).sum(0).sum().expand(len(h)),
    "linear without users": lambda m, h, t, n: m.first(torch.rand(7, WIDTH)).sum().expand(len(h)),
    "norm without users": lambda m, h, t, n: m.norm(torch.rand(7, WIDTH)).sum().expand(len(h)),
    "small parameter without users": lambda m, h, t, n: (m.gate * torch.rand(7, WIDTH)).sum().expand(len(h)),
    "parameter as bias and weight": lambda m, h, t, n: (
        functional.linear(m.item(t), m.first.weight)[:, None] + m.first.weight * m.item(t)[:, None]
    ).sum((1, 2)),
    "in place after a layer": lambda m, h, t, n: m.first(m.item(t)).relu_().sum(1),
    "stacked": lambda m, h, t, n: torch.stack([m.gate, m.gate]).sum().expand(len(h)),
}


@pytest.mark.parametrize("use", REFUSED)
def test_every_use_of_a_parameter_that_is_not_accounted_for_is_refused_by_name(use):
    torch.manual_seed(0)
    model = Recommender()
    engine = PerUserGradients(model)
    shared = torch.arange(6)
    with pytest.raises(UnsupportedUse, match=r"item\.weight|first\.weight|norm\.weight|gate"):  # noqa: PT012
        with engine.record(4, shared=[shared]):
            losses = REFUSED[use](model, ONES, SIX[:4], shared)
        engine.clipped_sum(losses, 1.0)


def test_a_view_made_before_recording_is_found_in_the_graph():
    model = Recommender()
    engine = PerUserGradients(model)
    before = model.item.weight.T
    with engine.record(3):
        losses = (model.item(SIX[:3]) @ before).sum(1)
    with pytest.raises(UnsupportedUse, match=r"item\.weight.*not recorded"):
        engine.clipped_sum(losses, 1.0)


def test_options_that_mix_users_are_refused():
    table = nn.Embedding(5, 2, scale_grad_by_freq=True)
    with pytest.raises(UnsupportedUse, match="scale_grad_by_freq"), PerUserGradients(table).record(2):
        table(torch.arange(2))
    with pytest.raises(UnsupportedUse, match="BatchNorm1d"):
        PerUserGradients(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))


def test_attention_and_recurrent_modules_of_torch_are_refused_by_name():
    attention = nn.MultiheadAttention(4, 1, batch_first=True)
    with pytest.raises(UnsupportedUse, match="in_proj_weight"), PerUserGradients(attention).record(2):
        attention(*[torch.rand(2, 3, 4)] * 3)
    recurrent = nn.GRU(4, 4, batch_first=True)
    with pytest.raises(UnsupportedUse, match="weight_ih"), PerUserGradients(recurrent).record(2):
        recurrent(torch.rand(2, 3, 4))


MIXED = {
    "in-batch negatives": lambda user, item: functional.cross_entropy(
        user @ item.T, torch.arange(len(user)), reduction="none"
    ),
    "batch statistics": lambda user, item: ((user - user.mean(0)) * item).sum(1),
    "a neighbour's vector": lambda user, item: (user * item.roll(2, 0)).sum(1),
    "one loss for all": lambda user, item: (user * item).sum().expand(len(user)),
}


@pytest.mark.parametrize("how", MIXED)
def test_users_whose_gradients_touch_are_refused(how):
    model = Recommender()
    engine = PerUserGradients(model)
    with engine.record(6):
        losses = MIXED[how](model.first(model.item(SIX)), model.item(SIX))
    with pytest.raises(UsersNotIndependent, match="another user's loss"):
        engine.clipped_sum(losses, 1.0)


def test_a_lookup_taken_for_users_because_the_sizes_fit_is_refused():
    model = Recommender()
    engine = PerUserGradients(model)
    negatives = torch.arange(6)
    with engine.record(6):  # six users, six negatives, not declared as shared
        losses = torch.logsumexp(model.item(SIX) @ model.item(negatives).T, 1)
    with pytest.raises(UsersNotIndependent):
        engine.clipped_sum(losses, 1.0)


def test_integers_of_other_users_are_found_by_comparing_with_each_user_alone():
    model = Recommender()
    targets = torch.arange(8)

    def rolled(users):
        own = targets[users]
        return (model.item(own) * model.item(own.roll(1))).sum(1)

    with pytest.raises(UsersNotIndependent, match="position 0"):
        check_users_independent(rolled, [1, 3, 5])
    check_users_independent(lambda users: model.item(targets[users]).sum(1), [1, 3, 5])


def test_use_in_the_wrong_order_or_shape_is_refused():
    model = Recommender()
    engine = PerUserGradients(model)
    with pytest.raises(ClippingError, match="inside"):
        engine.clipped_sum(torch.zeros(3), 1.0)
    with engine.record(3):
        losses = model.item(SIX[:3]).sum(1)
    with pytest.raises(ClippingError, match="one loss per user"):
        engine.clipped_sum(losses.sum(), 1.0)
    with engine.record(3):
        losses = model.item(SIX[:3]).sum(1)
    with pytest.raises(ClippingError, match="clipping_norm"):
        engine.clipped_sum(losses, 0.0)
    with engine.record(3), torch.no_grad():
        losses = model.item(SIX[:3]).sum(1)
    with pytest.raises(ClippingError, match="no_grad"):
        engine.clipped_sum(losses, 1.0)
    with pytest.raises(ClippingError, match="batch_size"), engine.record(-1):
        pass


def test_parameters_are_untouched_and_ordinary_after_recording():
    model = Recommender()
    before = [p.detach().clone() for p in model.parameters()]
    engine = PerUserGradients(model)
    shared = torch.arange(4)
    with engine.record(2, shared=[shared]):
        losses = model(ONES[:2], SIX[:2], shared)
    engine.clipped_sum(losses, 1.0)
    for now, held in zip(model.parameters(), before, strict=True):
        assert now.grad is None
        torch.testing.assert_close(now.detach(), held)
    model(ONES[:2], SIX[:2], shared).sum().backward()
    assert model.item.weight.grad is not None
