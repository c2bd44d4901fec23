# SPDX-License-Identifier: Apache-2.0
"""Exact per-user clipping at about the price of ordinary training: one forward, one backward, one weighted sum.

    engine = PerUserGradients(model, parameters=names)
    with engine.record(batch_size=B, shared=[negatives]):
        losses_B = loss_per_user(model, batch, negatives)
    clipped = engine.clipped_sum(losses_B, clipping_norm=C)

An item table's per-user gradient is the rows that the user touched (`clipping_rows`), a layer's comes from
its inputs and output gradients (Goodfellow 2015, arXiv 1510.01799). A parameter used several times is one
parameter.

Guarantees:
- one user's clipped contribution has L2 norm at most clipping_norm over all parameters together
- norms equal a loop over users with autograd
- every use of a parameter that is not accounted for is refused by name
- users whose gradients touch are refused
- the empty batch works
Assumes that row b of every batch-first tensor is data of user b alone (integers included) and that what is
given as `shared` was drawn without looking at any user; `check_users_independent` tests the first for a given
loss.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from privacy.clipping_layers import Part, Scratch
from privacy.clipping_record import Recorder
from privacy.clipping_rows import build_parts
from privacy.clipping_uses import Use
from privacy.errors import ClippingError, UnsupportedUse, UsersNotIndependent
from privacy.stages import ClippedUpdate, Rows

__all__ = ["PerUserGradients", "check_users_independent"]

# Rounding in float32 norms: contributions are scaled to this fraction of the clipping norm, so that C is
# never passed.
_SLACK: Final = 1 - 1e-5


class PerUserGradients:
    """Per-user gradients of a model's parameters. Shapes: B users, S positions, D width.

    parameters: names to clip (default: all that require gradients); a tied parameter may go by any of its
    names, and names of buffers are skipped, as no gradient reaches them. Other parameters are left alone.
    Raises UnsupportedUse for modules that mix users (batch norm) and ClippingError for unknown names.
    """

    def __init__(self, model: nn.Module, parameters: Sequence[str] | None = None) -> None:
        held = dict(model.named_parameters(remove_duplicate=False))
        if parameters is None:
            parameters = [name for name, p in model.named_parameters() if p.requires_grad]
        buffers = {name for name, _ in model.named_buffers()}
        if unknown := [n for n in parameters if n not in held and n not in buffers]:
            raise ClippingError(f"the model has no parameters {unknown}; it has {sorted(held)}")
        self.model = model
        self.parameters: dict[str, nn.Parameter] = {}
        for name in parameters:
            if name in held and not any(p is held[name] for p in self.parameters.values()):
                self.parameters[name] = held[name]
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                raise UnsupportedUse(
                    f"module {name!r} is {type(module).__name__}: its statistics mix users; use nn.LayerNorm"
                )
        self._recorder: Recorder | None = None
        self._scratch = Scratch()
        self._checked: set[tuple[Any, ...]] = set()

    @contextmanager
    def record(self, batch_size: int, shared: Sequence[Tensor] = ()) -> Iterator[None]:
        """Record how the parameters are used, for one batch of `batch_size` users.

        shared: integer tensors that all users share, such as sampled negatives. They must be drawn
        independently of the users' data. Lookups by them (or by integers made from them, from buffers or from
        nothing, as arange is) need no batch dimension and cost no memory per user.
        """
        public = (*self.model.buffers(), *self.model.parameters())
        self._recorder = Recorder(self.parameters, batch_size, shared, public)
        with self._recorder:
            yield

    def clipped_sum(self, losses_B: Tensor, clipping_norm: float) -> ClippedUpdate:
        """Sum over users of their gradients, each scaled to L2 norm <= clipping_norm.

        losses_B: float [B], one loss per user, from the last `record`. A user whose gradient is not finite
        contributes nothing. Raises UnsupportedUse, UsersNotIndependent, ClippingError.
        """
        if not 0 < clipping_norm < float("inf"):
            raise ClippingError(f"clipping_norm must be positive and finite, found {clipping_norm}")
        parts = self._parts(losses_B)
        norms_B = _norms(parts, losses_B)
        tiny = torch.finfo(norms_B.dtype).tiny
        weights_B = (clipping_norm * _SLACK / norms_B.clamp_min(tiny)).clamp_max(1.0)
        if not bool(torch.isfinite(norms_B).all()):
            good_B = torch.isfinite(norms_B)
            weights_B = torch.where(good_B, weights_B, 0.0)
            for part in parts:
                part.drop_users(~good_B)
        dense: dict[str, Tensor] = {}
        rows: dict[str, tuple[Rows, ...]] = {}
        for part in parts:
            found = part.weighted_sum(weights_B)
            if isinstance(found, Tensor):
                dense[part.name] = found
            else:
                rows[part.name] = found
        for name, parameter in self.parameters.items():
            if name not in rows:
                dense.setdefault(name, torch.zeros_like(parameter, dtype=torch.float32).detach())
        return ClippedUpdate(clipping_norm, dense, rows, norms_B)

    def backward(self, losses_B: Tensor, clipping_norm: float) -> None:
        """Leave the clipped sum in `.grad`, where Opacus's DPOptimizerFastGradientClipping takes it from."""
        clipped = self.clipped_sum(losses_B, clipping_norm)
        for name, parameter in self.parameters.items():
            parameter.grad = clipped.tensor(name).to(parameter.dtype)

    def norms(self, losses_B: Tensor) -> Tensor:
        """Each user's gradient norm over all parameters together, float [B]. It depends on users: never log it."""
        return _norms(self._parts(losses_B), losses_B)

    def per_user(self, losses_B: Tensor) -> dict[str, Tensor]:
        """Names to per-user gradients [B, *shape], like Opacus's `grad_sample`; dense, for small models."""
        found = {part.name: part.per_user() for part in self._parts(losses_B)}
        size = losses_B.shape[0]
        return {n: found.get(n, torch.zeros(size, *p.shape, device=p.device)) for n, p in self.parameters.items()}

    def _parts(self, losses_B: Tensor) -> list[Part]:
        recorder = self._recorder
        if recorder is None or recorder.active:
            raise ClippingError("compute the losses inside `with engine.record(...)`, then clip once")
        self._recorder = None
        size = recorder.batch_size
        if losses_B.shape != (size,):
            raise ClippingError(f"expected one loss per user, shape ({size},), found {tuple(losses_B.shape)}")
        if size == 0:
            return []
        if losses_B.grad_fn is None:
            raise ClippingError("the losses do not depend on any parameter (computed under no_grad?)")
        signature = self._refuse_unseen(losses_B, recorder.uses)
        for use in recorder.uses:
            use.check_unchanged()
        outputs = [use.output for use in recorder.uses]
        if signature not in self._checked:
            _refuse_mixed_users(losses_B, recorder.uses)
            self._checked.add(signature)
        grads = torch.autograd.grad(losses_B.sum(), outputs, allow_unused=True) if outputs else ()
        memory = Counter(g.untyped_storage().data_ptr() for g in grads if g is not None)
        for use, grad in zip(recorder.uses, grads, strict=True):
            use.grad = grad
            use.owned = (
                grad is not None and grad.is_contiguous() and memory[grad.untyped_storage().data_ptr()] == 1
            )
        with torch.no_grad():
            return build_parts(
                [u for u in recorder.uses if u.grad is not None], self.parameters, size, self._scratch
            )

    def _refuse_unseen(self, losses_B: Tensor, uses: Sequence[Use]) -> tuple[Any, ...]:
        """Walk the autograd graph; uses hold detached parameters, so one that is left was not recorded."""
        by_id = {id(p): name for name, p in self.parameters.items()}
        seen: set[Any] = set()
        operations: list[str] = []
        todo = [losses_B.grad_fn]
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            operations.append(node.name())
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) in by_id:
                raise UnsupportedUse(
                    f"parameter {by_id[id(variable)]!r} reaches the loss by a path that was not recorded "
                    "(a view made before `record`, a custom function); use it inside `record`, through its module"
                )
            todo.extend(following for following, _ in node.next_functions)
        return (*(use.signature for use in uses), *operations)


def _norms(parts: Sequence[Part], losses_B: Tensor) -> Tensor:
    squares_B = torch.zeros(losses_B.shape[0], dtype=torch.float32, device=losses_B.device)
    for part in parts:
        squares_B = squares_B + part.squared_norms()
    return squares_B.sqrt()


def _refuse_mixed_users(losses_B: Tensor, uses: Sequence[Use]) -> None:
    """Weigh every other user's loss with 0: then their rows' gradients are exactly 0, or users touch.

    Done once per sequence of operations, as it costs one more backward.
    """
    size = losses_B.shape[0]
    if size < 2 or not uses:
        return
    half_B = torch.zeros(size, dtype=torch.bool)
    half_B[torch.randperm(size, generator=torch.Generator().manual_seed(size))[: size // 2]] = True
    for kept in (half_B, ~half_B):
        keep_B = kept.to(losses_B.device, losses_B.dtype)
        grads = torch.autograd.grad(
            losses_B, [use.output for use in uses], keep_B, retain_graph=True, allow_unused=True
        )
        for use, grad in zip(uses, grads, strict=True):
            other = None if grad is None else grad[keep_B == 0]
            if other is not None and bool((torch.isfinite(other) & (other != 0)).any()):
                raise UsersNotIndependent(
                    f"the gradient at {use.where} of one user depends on another user's loss (in-batch negatives, "
                    "batch statistics, a lookup without batch dimension?): clipping would bound nothing. Draw "
                    "negatives independently of the data and give them as record(shared=[...])"
                )
        del grads, grad, other  # before the next ones are made


def check_users_independent(
    loss_of_users: Callable[[list[int]], Tensor], users: Sequence[int], tolerance: float = 1e-4
) -> None:
    """Compare every user's loss in the batch with the loss of that user alone.

    Finds what gradients cannot show: integers or features of one user that reach another's loss.
    loss_of_users must be deterministic (same negatives, no dropout). Raises UsersNotIndependent naming the
    position in `users`.
    """
    with torch.no_grad():
        together = loss_of_users(list(users))
        for at, user in enumerate(users):
            alone = loss_of_users([user])[0]
            if not torch.allclose(alone, together[at], rtol=tolerance, atol=tolerance):
                raise UsersNotIndependent(
                    f"the loss of the user at position {at} is {float(together[at]):.6g} in the batch and "
                    f"{float(alone):.6g} alone: the other users of the batch reach it"
                )
