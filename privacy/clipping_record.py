# SPDX-License-Identifier: Apache-2.0
"""Sees every use of a recorded parameter while a loss is computed, and refuses those that it cannot account for.

While the recorder is active, each torch function that gets a recorded parameter passes through it (a
`TorchFunctionMode`): lookups, linear maps, layer norms and elementwise small parameters are computed with the
detached parameter and remembered; anything else is refused by name at the line that does it. So a parameter's
gradient can only come from remembered uses, whichever module or function used it.

Shapes: B users, S positions, N shared vectors, J table rows summed into one shared vector, D width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from privacy.clipping_functions import ELEMENTWISE, GIVES_ROWS_TO_USERS, METADATA, UNARY
from privacy.clipping_uses import LinearUse, NormUse, RowsUse, ScoresUse, SharedVectors, Spread, SpreadUse, Use
from privacy.errors import ClippingError, UnsupportedUse

__all__ = ["Recorder"]


def _name(function: Callable[..., Any]) -> str:
    """`shape` for a property's getter, else the function's own name."""
    name = getattr(function, "__name__", repr(function))
    owner = getattr(function, "__self__", None)
    return str(getattr(owner, "__name__", name)) if name in ("__get__", "__set__", "__delete__") else str(name)


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """All tensors given to a function, also those in one level of lists."""
    found = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [item for item in value if isinstance(item, Tensor)]
    return found


class Recorder(TorchFunctionMode):
    """Records one forward pass over `batch_size` users. Raises UnsupportedUse at the use that it cannot count."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        batch_size: int,
        shared: Sequence[Tensor],
        public: Iterable[Tensor],
    ) -> None:
        super().__init__()
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 0:
            raise ClippingError(f"batch_size must be the number of users >= 0, found {batch_size!r}")
        self.batch_size = batch_size
        self.uses: list[Use] = []
        self.active = True
        self._parameters = {id(p): name for name, p in parameters.items()}
        self._tagged: dict[int, SharedVectors | Spread] = {}  # by id of the tensor that the tag holds
        self._watched = dict(self._parameters)
        self._public = {id(t): t for t in (*public, *shared)}

    def __exit__(self, *exception: Any) -> None:
        self.active = False
        super().__exit__(*exception)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors(args, kwargs)
        watched = [name for t in tensors if (name := self._watched.get(id(t)))]
        if not watched:
            out = func(*args, **kwargs)
            self._keep_public(func, tensors, out)
            return out
        name = _name(func)
        if name in METADATA or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        handler = getattr(self, f"_on_{name.strip('_')}", None)
        if handler is not None:
            out = handler(name, *args, **kwargs)
        elif name in ELEMENTWISE:
            out = self._elementwise(func, name, *args, **kwargs)
        elif name in UNARY:
            out = self._unary(func, name, *args, **kwargs)
        else:
            raise self._refused(name, watched[0])
        return out

    # What is watched

    def _keep_public(self, func: Callable[..., Any], tensors: Sequence[Tensor], out: Any) -> None:
        """What is made from public tensors alone is public; not once it is given a row per user."""
        public = self._public
        if all(id(t) in public for t in tensors):
            name = _name(func)
            if name in GIVES_ROWS_TO_USERS or not (tensors or name == "arange"):
                return
            for result in out if isinstance(out, (list, tuple)) else (out,):
                if isinstance(result, Tensor):
                    public[id(result)] = result
        elif id(tensors[0]) in public:
            name = _name(func)
            if name.startswith(("__i", "__set")) or (name.endswith("_") and not name.endswith("__")):
                del public[id(tensors[0])]  # changed in place by what is not public

    def _refused(self, function: str, name: str, why: str = "") -> UnsupportedUse:
        return UnsupportedUse(
            f"parameter {name!r} is used by {function}{': ' + why if why else ''}: its per-user gradient would be "
            "wrong or unknown. Supported: nn.Embedding on [B, ...] or shared indices, nn.Linear and x @ weight on "
            "[B, ...], nn.LayerNorm, and small parameters elementwise with [B, ...]"
        )

    def _first(self, *values: Any) -> str:
        """The first watched parameter among the values, for a message."""
        return next(name for v in values if (name := self._watched.get(id(v))))

    def _tag(self, tag: SharedVectors | Spread) -> Tensor:
        self._tagged[id(tag.value)] = tag
        self._watched[id(tag.value)] = tag.name
        return tag.value

    def _parameter(self, value: Any) -> str | None:
        return self._parameters.get(id(value))

    def _batch_first(self, value: Any, at_least: int = 1) -> bool:
        return (
            isinstance(value, Tensor)
            and value.ndim >= at_least
            and value.shape[0] == self.batch_size
            and id(value) not in self._tagged
            and id(value) not in self._parameters
        )

    def _add(self, use: Use) -> Tensor:
        if not use.output.requires_grad:
            use.output.requires_grad_()
        self.uses.append(use)
        return use.output

    # Lookups

    def _on_embedding(
        self,
        function: str,
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Tensor:
        name = self._parameter(weight)
        if name is None:
            raise self._refused(function, self._tagged[id(weight)].name)
        if max_norm is not None or scale_grad_by_freq:
            raise self._refused(function, name, "max_norm and scale_grad_by_freq depend on other users")
        values = functional.embedding(input, weight.detach())
        if padding_idx is not None and padding_idx < 0:
            padding_idx += weight.shape[0]
        if id(input) in self._public:
            return self._tag(SharedVectors(name, values, ((name, input.unsqueeze(-1), 1.0, padding_idx),)))
        if not self._batch_first(input):
            raise self._refused(
                function,
                name,
                f"a lookup of shape {tuple(input.shape)} without a row for each of {self.batch_size} users; if "
                "its indices are drawn independently of users, give them as record(shared=[...])",
            )
        return self._add(RowsUse(name, values, input, padding_idx))

    # Linear maps

    def _on_linear(self, function: str, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        tag = self._tagged.get(id(weight))
        if isinstance(tag, SharedVectors) and not tag.transposed and bias is None:
            return self._scores(function, input, tag)
        names = [n for n in (self._parameter(weight), self._parameter(bias)) if n is not None]
        if tag is not None or id(input) in self._tagged or id(bias) in self._tagged or self._parameter(input):
            raise self._refused(function, names[0] if names else self._first(input, weight, bias))
        if not self._batch_first(input, 2):
            raise self._refused(
                function, names[0], f"an input of shape {tuple(input.shape)} without a row per user"
            )
        held = [None if t is None else t.detach() if self._parameter(t) else t for t in (weight, bias)]
        output = functional.linear(input, held[0], held[1])  # type: ignore[arg-type]
        return self._add(
            LinearUse(self._parameter(weight), self._parameter(bias), output, input, transposed=False)
        )

    def _on_matmul(self, function: str, input: Tensor, other: Tensor) -> Tensor:
        tag = self._tagged.get(id(other))
        if isinstance(tag, SharedVectors) and tag.transposed:
            return self._scores(function, input, tag)
        name = self._parameter(other)
        if name is None or other.ndim != 2 or not self._batch_first(input, 2):
            raise self._refused(function, self._first(input, other))
        output = torch.matmul(input, other.detach())
        return self._add(LinearUse(name, None, output, input, transposed=True))

    _on_mm = _on_matmul

    def _on_addmm(self, function: str, *args: Any, **kwargs: Any) -> Tensor:
        raise self._refused(function, self._first(*args, *kwargs.values()), "use nn.Linear")

    # Layer norm

    def _on_layer_norm(
        self,
        function: str,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        names = (self._parameter(weight), self._parameter(bias))
        if not self._batch_first(input, len(normalized_shape) + 1):
            found = self._first(input, weight, bias)
            raise self._refused(function, found, f"an input of shape {tuple(input.shape)} without a row per user")
        held = [None if t is None else t.detach() if self._parameter(t) else t for t in (weight, bias)]
        shape = tuple(normalized_shape)
        output = functional.layer_norm(input, shape, held[0], held[1], eps)
        return self._add(NormUse(*names, output, input, shape, eps))

    # Shared vectors: sums of table rows that all users score against

    def _shared_vectors(self, function: str, value: Tensor, why: str = "") -> SharedVectors:
        tag = self._tagged.get(id(value))
        if not isinstance(tag, SharedVectors) or tag.transposed:
            raise self._refused(function, self._parameter(value) or self._tagged[id(value)].name, why)
        return tag

    def _on_sum(self, function: str, input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        tag = self._shared_vectors(function, input)
        return self._tag(tag.summed(self._single(function, tag, dim, keepdim), mean=False))

    def _on_mean(self, function: str, input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        tag = self._shared_vectors(function, input)
        return self._tag(tag.summed(self._single(function, tag, dim, keepdim), mean=True))

    def _single(self, function: str, tag: SharedVectors, dim: Any, keepdim: bool) -> int:
        at = dim[0] if isinstance(dim, (tuple, list)) and len(dim) == 1 else dim
        last = tag.value.ndim - 1
        if not isinstance(at, int) or keepdim or not 0 < at % (last + 1) < last:
            raise self._refused(function, tag.name, "shared vectors are summed over one middle dimension only")
        return at % (last + 1)

    def _on_t(self, function: str, input: Tensor) -> Tensor:
        tag = self._shared_vectors(function, input)
        if tag.value.ndim != 2:
            raise self._refused(function, tag.name)
        return self._tag(tag.flipped())

    _on_T = _on_t  # noqa: N815
    _on_mT = _on_t  # noqa: N815

    def _on_transpose(self, function: str, input: Tensor, dim0: int, dim1: int) -> Tensor:
        if {dim0 % 2, dim1 % 2} != {0, 1}:
            raise self._refused(function, self._first(input))
        return self._on_t(function, input)

    def _on_select(self, function: str, input: Tensor, *_: Any) -> Tensor:
        raise self._refused(function, self._first(input))

    def _on_expand(self, function: str, input: Tensor, *sizes: Any) -> Tensor:
        """Shared vectors given to every user as their own."""
        tag = self._shared_vectors(function, input)
        flat = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list, torch.Size)) else sizes
        if flat[0] != self.batch_size or len(tag.terms) != 1 or tag.terms[0][2] != 1.0:
            raise self._refused(
                function, tag.name, "expand shared *indices* to [B, ...] before the lookup instead"
            )
        ((name, index, _, padding),) = tag.terms
        values = tag.value.expand(*flat)
        if index.shape[-1] != 1 or values.shape[-1] != tag.value.shape[-1]:
            raise self._refused(
                function, tag.name, "expand shared *indices* to [B, ...] before the lookup instead"
            )
        return self._add(RowsUse(name, values, index[..., 0].expand(values.shape[:-1]), padding))

    def _scores(self, function: str, input: Tensor, tag: SharedVectors) -> Tensor:
        if not self._batch_first(input, 2) or tag.value.ndim != 2:
            raise self._refused(function, tag.name, "shared vectors are scored as x[B, ..., D] @ vectors[N, D].T")
        vectors = tag.value if not tag.transposed else tag.value.mT
        output = functional.linear(input, vectors)
        return self._add(ScoresUse(output, input, tag.terms))

    # Elementwise

    def _elementwise(self, func: Callable[..., Any], name: str, a: Any, b: Any, **kwargs: Any) -> Tensor:
        tags = [self._tagged.get(id(v)) for v in (a, b)]
        if any(isinstance(tag, SharedVectors) for tag in tags):
            if any(self._batch_first(v) and v.ndim > s.value.ndim for v, s in ((a, tags[1]), (b, tags[0])) if s):
                own = [
                    self._on_expand(name, v, *other.shape) if isinstance(tag, SharedVectors) else v
                    for v, other, tag in ((a, b, tags[0]), (b, a, tags[1]))
                ]
                out: Tensor = func(*own, **kwargs)  # such as positions: every user gets them as their own
                return out
            return self._tag(self._combine_shared(name, a, b, kwargs))
        values = []
        for value, other in ((a, b), (b, a)):
            spread = self._spread(value)
            if spread is None:
                values.append(value)
            elif self._batch_first(other) and other.ndim > spread.ndim:
                values.append(spread.beside(other.ndim))
            elif isinstance(other, Tensor) and self._spread(other) is None:
                raise self._refused(
                    name, spread.name, f"with a tensor of shape {tuple(other.shape)} that has no row per user"
                )
            else:
                values.append(spread.value)
        out = func(*values, **kwargs)
        spreads = [s for s in (self._spread(a), self._spread(b)) if s is not None]
        if self._batch_first(a) or self._batch_first(b):
            return out
        if len({s.ndim for s in spreads}) > 1:
            raise self._refused(name, spreads[0].name, "two small parameters of different dimensions")
        return self._tag(Spread(spreads[0].name, out, spreads[0].ndim))

    def _spread(self, value: Any) -> Spread | None:
        """The parameter with one copy per user, whose gradients are then per user."""
        tag = self._tagged.get(id(value))
        if isinstance(tag, Spread):
            return tag
        name = self._parameter(value)
        if name is None:
            return None
        for use in self.uses:
            if isinstance(use, SpreadUse) and use.name == name:
                return Spread(name, use.output, value.ndim)
        copies = value.detach().expand(self.batch_size, *value.shape)
        return Spread(name, self._add(SpreadUse(name, copies)), value.ndim)

    def _unary(self, func: Callable[..., Any], name: str, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        spread = self._spread(value)
        if spread is None or any(isinstance(a, Tensor) for a in (*args, *kwargs.values())):
            raise self._refused(name, self._first(value, *args))
        return self._tag(Spread(spread.name, func(spread.value, *args, **kwargs), spread.ndim))

    def _on_softmax(self, function: str, input: Tensor, dim: int, *args: Any, **kwargs: Any) -> Tensor:
        spread = self._spread(input)
        if spread is None or spread.ndim == 0:
            raise self._refused(function, self._first(input))
        at = dim % spread.ndim + 1
        return self._tag(Spread(spread.name, torch.softmax(spread.value, at), spread.ndim))

    def _on_getitem(self, function: str, input: Tensor, index: Any) -> Tensor:
        spread = self._spread(input) if isinstance(index, int) and input.ndim == 1 else None
        if spread is None:
            raise self._refused("indexing", self._first(input, index), "use nn.Embedding for tables")
        return self._tag(Spread(spread.name, spread.value[:, index], 0))

    def _combine_shared(self, name: str, a: Any, b: Any, kwargs: Mapping[str, Any]) -> SharedVectors:
        tags = [t for t in (self._tagged.get(id(a)), self._tagged.get(id(b))) if isinstance(t, SharedVectors)]
        other = b if self._tagged.get(id(a)) is tags[0] else a
        known = len(tags) == 2 or not isinstance(other, Tensor) or id(other) in self._public
        out = (
            tags[0].combined(name.strip("_"), tags[1] if len(tags) == 2 else other)
            if known and not kwargs
            else None
        )
        if out is None:
            raise self._refused(
                name,
                tags[0].name,
                "shared vectors may be added to each other and to public ones, and scaled by numbers",
            )
        return out
