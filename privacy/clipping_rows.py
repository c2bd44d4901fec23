# SPDX-License-Identifier: Apache-2.0
"""Per-user gradients of item tables: only the rows that a user touches, equal rows summed before the norm.

Shapes: B users, D width, V rows of the table, R touched rows, T positions that score, K distinct shared rows.
A table gets gradients by lookups of a user's own rows, and through scores x · E^T of shared rows E_n = sum of
table rows, where user b's gradient for shared row n is sum_t p[b, t, n] x[b, t]. Where a user's own rows are
also shared rows, the two are added first; the rest of the shared part then has no row in common with the
user's own. No sum of squares is ever got by subtracting, so nothing cancels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from privacy.clipping_layers import MatrixPart, Part, VectorPart, product_norms
from privacy.clipping_uses import LinearUse, NormUse, RowsUse, ScoresUse, SpreadUse, Use
from privacy.errors import UnsupportedUse
from privacy.stages import Rows

__all__ = ["RowsPart", "build_parts"]


@dataclass(frozen=True, slots=True)
class _Lookups:
    """Rows looked up by users: user [R], row [R] (int64), values [R, D]."""

    user: Tensor
    row: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class _Scores:
    """Scores of shared rows: gradients p [B, T, K] at the scores, x [B, T, D] the vectors scored with, row [K]."""

    p: Tensor
    x: Tensor
    row: Tensor


class RowsPart(Part):
    """A table [V, D]: users' own rows (already summed per user and row) and shared rows, without common rows."""

    def __init__(self, name: str, parameter: Tensor, size: int, own: _Lookups, shared: _Scores | None) -> None:
        self.name = name
        self._shape = tuple(parameter.shape)
        self._size = size
        self._own, self._shared = own, shared
        if shared is not None:
            self._own, self._shared = _disjoint(own, shared, self._shape[0])

    def squared_norms(self) -> Tensor:
        own = self._own
        squares = torch.zeros(self._size, device=own.values.device)
        squares.index_add_(0, own.user, own.values.square().sum(1))
        shared = self._shared
        if shared is None:
            return squares
        return squares + product_norms(shared.p, shared.x)

    def weighted_sum(self, weights_B: Tensor) -> tuple[Rows, ...]:
        own = self._own
        rows = [Rows(self._shape, own.row, own.values * weights_B[own.user, None])]
        if self._shared is not None:
            x = self._shared.x * weights_B[:, None, None]
            total: Tensor = self._shared.p.flatten(0, 1).T @ x.flatten(0, 1)
            rows.append(Rows(self._shape, self._shared.row, total))
        return tuple(rows)

    def per_user(self) -> Tensor:
        out = torch.zeros(self._size, *self._shape, device=self._own.values.device)
        out.index_put_((self._own.user, self._own.row), self._own.values, accumulate=True)
        if self._shared is not None:
            out.index_add_(1, self._shared.row, torch.bmm(self._shared.p.mT, self._shared.x))
        return out

    def drop_users(self, bad_B: Tensor) -> None:
        own, shared = self._own, self._shared
        self._own = _Lookups(own.user, own.row, own.values.masked_fill(bad_B[own.user, None], 0))
        if shared is not None:
            bad = bad_B[:, None, None]
            self._shared = _Scores(shared.p.masked_fill(bad, 0), shared.x.masked_fill(bad, 0), shared.row)


def _summed(lookups: _Lookups, table_rows: int) -> _Lookups:
    """Equal rows of one user added together."""
    key = lookups.user * table_rows + lookups.row
    unique, inverse = torch.unique(key, return_inverse=True)
    values = torch.zeros(len(unique), lookups.values.shape[1], device=key.device)
    values.index_add_(0, inverse, lookups.values)
    return _Lookups(unique // table_rows, unique % table_rows, values)


def _disjoint(own: _Lookups, shared: _Scores, table_rows: int) -> tuple[_Lookups, _Scores]:
    """Move the users' own rows that are also shared rows from the shared part to the own part."""
    place = torch.full((table_rows,), -1, dtype=torch.int64, device=own.row.device)
    place[shared.row] = torch.arange(len(shared.row), device=own.row.device)
    column = place[own.row]
    both = (column >= 0).nonzero()[:, 0]
    user, column = own.user[both], column[both]
    p = shared.p.clone()
    moved = torch.einsum("mt,mtd->md", p[user, :, column], shared.x[user])
    values = own.values.index_add(0, both, moved)
    p[user, :, column] = 0
    return _Lookups(own.user, own.row, values), _Scores(p, shared.x, shared.row)


def build_parts(uses: Sequence[Use], parameters: Mapping[str, nn.Parameter], size: int) -> list[Part]:
    """One part per parameter, all its uses together; uses must hold their gradients."""
    return [
        part
        for name, parameter in parameters.items()
        if (part := _part(name, parameter, [u for u in uses if name in u.names], size)) is not None
    ]


def _part(name: str, parameter: nn.Parameter, uses: list[Use], size: int) -> Part | None:
    if not uses:
        return None
    linear = [u for u in uses if isinstance(u, LinearUse) and u.weight == name]
    rows = [u for u in uses if isinstance(u, RowsUse)]
    scores = [u for u in uses if isinstance(u, ScoresUse)]
    rest = [u for u in uses if u not in linear and u not in rows and u not in scores]
    if rest and not (linear or rows or scores):
        return VectorPart(name, torch.stack([_vector(u, name) for u in rest]).sum(0))
    if rest:
        raise UnsupportedUse(
            f"parameter {name!r} is a weight or table and is also used elementwise or as a bias: "
            "use two parameters"
        )
    if linear and not (rows or scores):
        pairs = [u.rows_and_columns() for u in linear]
        return MatrixPart(name, torch.cat([r for r, _ in pairs], 1), torch.cat([c for _, c in pairs], 1))
    own = _own_rows(rows, parameter, name)
    shared = _shared_rows(scores, linear, parameter, name)
    return RowsPart(name, parameter, size, _summed(own, parameter.shape[0]), shared)


def _vector(use: Use, name: str) -> Tensor:
    if isinstance(use, (LinearUse, NormUse, SpreadUse)):
        return use.vector(name)
    raise UnsupportedUse(f"parameter {name!r} is used by {use.where} in an unknown way")


def _own_rows(uses: Sequence[RowsUse], parameter: nn.Parameter, name: str) -> _Lookups:
    found = [use.lookups(name) for use in uses]
    if not found:
        empty = torch.zeros(0, dtype=torch.int64, device=parameter.device)
        return _Lookups(empty, empty, torch.zeros(0, parameter.shape[1], device=parameter.device))
    return _Lookups(*(torch.cat(column) for column in zip(*found, strict=True)))


def _shared_rows(
    scores: Sequence[ScoresUse], linear: Sequence[LinearUse], parameter: nn.Parameter, name: str
) -> _Scores | None:
    """All scores of one table over its distinct shared rows; positions of several uses one after another."""
    pieces = [piece for use in scores for piece in use.scores(name)]
    for tied in linear:  # F.linear with the whole table: every row is shared
        p, x = tied.rows_and_columns()
        every = torch.arange(parameter.shape[0], device=parameter.device)
        pieces.append((p, x, every[:, None], 1.0, None))
    if not pieces:
        return None
    row = torch.unique(torch.cat([_without(index, padding) for _, _, index, _, padding in pieces]))
    collected = [_collect(p, index, scale, padding, row) for p, _, index, scale, padding in pieces]
    return _Scores(torch.cat(collected, 1), torch.cat([x for _, x, *_ in pieces], 1), row)


def _without(index: Tensor, padding: int | None) -> Tensor:
    flat = index.flatten()
    return flat if padding is None else flat[flat != padding]


def _collect(p_BTN: Tensor, index_NJ: Tensor, scale: float, padding: int | None, row_K: Tensor) -> Tensor:
    """p over shared vectors n, each a sum of table rows index[n], as p over distinct table rows [B, T, K]."""
    n, j = index_NJ.shape
    real_NJ = torch.ones_like(index_NJ, dtype=torch.bool) if padding is None else index_NJ != padding
    if j == 1 and len(row_K) == n:
        ordered, order = torch.sort(index_NJ[:, 0])
        if torch.equal(ordered, row_K):  # no row twice
            return p_BTN.index_select(2, order) * scale
    column_NJ = torch.searchsorted(row_K, index_NJ.contiguous()).clamp_max(max(0, len(row_K) - 1))
    incidence_NK = torch.zeros(n, len(row_K), device=p_BTN.device)
    at, what = real_NJ.nonzero(as_tuple=True)
    factors = torch.full((len(at),), scale, device=p_BTN.device)
    incidence_NK.index_put_((at, column_NJ[at, what]), factors, accumulate=True)
    return p_BTN @ incidence_NK
