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

from privacy.clipping_layers import MatrixPart, Part, Products, Scratch, VectorPart
from privacy.clipping_uses import LinearUse, NormUse, RowsUse, ScoredRows, ScoresUse, SpreadUse, Use
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
    """Scores of shared rows: gradients p [B, T, N] at the scores, x [B, T, D] the vectors scored with, row [N].

    A row that stands more than once has its gradient at column `first` [K] alone, the others are zero. p may be
    written to.
    """

    p: Tensor
    x: Tensor
    row: Tensor
    first: Tensor


class RowsPart(Part):
    """A table [V, D]: users' own rows (already summed per user and row) and shared rows, without common rows."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        size: int,
        own: _Lookups,
        shared: _Scores | None,
        scratch: Scratch,
    ) -> None:
        self.name = name
        self._shape = shape
        self._size = size
        self._own, self._shared, self._row = own, None, own.row
        if shared is not None:
            self._own = _take_common_rows(own, shared, self._shape[0])
            self._shared, self._row = Products(name, shared.p, shared.x, scratch), shared.row

    def squared_norms(self) -> Tensor:
        squares = torch.zeros(self._size, device=self._own.values.device)
        squares.index_add_(0, self._own.user, self._own.values.square().sum(1))
        return squares if self._shared is None else squares + self._shared.squared_norms()

    def weighted_sum(self, weights_B: Tensor) -> tuple[Rows, ...]:
        own = self._own
        rows = [Rows(self._shape, own.row, own.values * weights_B[own.user, None])]
        if self._shared is not None:
            rows.append(Rows(self._shape, self._row, self._shared.weighted_sum(weights_B)))
        return tuple(rows)

    def per_user(self) -> Tensor:
        out = torch.zeros(self._size, *self._shape, device=self._own.values.device)
        out.index_put_((self._own.user, self._own.row), self._own.values, accumulate=True)
        if self._shared is not None:
            out.index_add_(1, self._row, torch.bmm(self._shared.rows.mT, self._shared.cols))
        return out

    def drop_users(self, bad_B: Tensor) -> None:
        own = self._own
        self._own = _Lookups(own.user, own.row, own.values.masked_fill(bad_B[own.user, None], 0))
        if self._shared is not None:
            self._shared = self._shared.without(bad_B)


def _summed(lookups: _Lookups, table_rows: int) -> _Lookups:
    """Equal rows of one user added together."""
    key = lookups.user * table_rows + lookups.row
    unique, inverse = torch.unique(key, return_inverse=True)
    values = torch.zeros(len(unique), lookups.values.shape[1], device=key.device)
    values.index_add_(0, inverse, lookups.values)
    return _Lookups(unique // table_rows, unique % table_rows, values)


def _take_common_rows(own: _Lookups, shared: _Scores, table_rows: int) -> _Lookups:
    """Move users' own rows that are also shared rows from the shared part to the own part."""
    place = torch.full((table_rows,), -1, dtype=torch.int64, device=own.row.device)
    place[shared.row[shared.first]] = shared.first
    column = place[own.row]
    both = (column >= 0).nonzero()[:, 0]
    user, column = own.user[both], column[both]
    moved = torch.einsum("mt,mtd->md", shared.p[user, :, column], shared.x[user])
    shared.p[user, :, column] = 0
    return _Lookups(own.user, own.row, own.values.index_add_(0, both, moved))


def build_parts(
    uses: Sequence[Use], parameters: Mapping[str, nn.Parameter], size: int, scratch: Scratch
) -> list[Part]:
    """One part per parameter, all its uses together; uses must hold their gradients."""
    return [
        part
        for name, parameter in parameters.items()
        if (part := _part(name, parameter, [u for u in uses if name in u.names], size, scratch)) is not None
    ]


def _part(name: str, parameter: nn.Parameter, uses: list[Use], size: int, scratch: Scratch) -> Part | None:
    if not uses:
        return None
    linear = [u for u in uses if isinstance(u, LinearUse) and u.weight == name]
    rows = [u for u in uses if isinstance(u, RowsUse)]
    scores = [u for u in uses if isinstance(u, ScoresUse)]
    rest = [u for u in uses if u not in linear and u not in rows and u not in scores]
    if rest and not (linear or rows or scores):
        return VectorPart(name, sum((_vector(u, name) for u in rest[1:]), _vector(rest[0], name)))
    if rest:
        raise UnsupportedUse(
            f"parameter {name!r} is a weight or table and is also used elementwise or as a bias: "
            "use two parameters"
        )
    if linear and not (rows or scores):
        pairs = [u.rows_and_columns() for u in linear]
        return MatrixPart(name, _joined([r for r, _ in pairs]), _joined([c for _, c in pairs]), scratch)
    own = _own_rows(rows, parameter, name)
    shared = _shared_rows(scores, linear, parameter, name)
    return RowsPart(name, tuple(parameter.shape), size, _summed(own, parameter.shape[0]), shared, scratch)


def _joined(positions: Sequence[Tensor]) -> Tensor:
    """[B, S, …] of several uses as one, without a copy when there is one."""
    return positions[0] if len(positions) == 1 else torch.cat(list(positions), 1)


def _vector(use: Use, name: str) -> Tensor:
    if isinstance(use, (LinearUse, NormUse, SpreadUse)):
        return use.vector(name)
    raise UnsupportedUse(f"parameter {name!r} is used by {use.where} in an unknown way")


def _own_rows(uses: Sequence[RowsUse], parameter: nn.Parameter, name: str) -> _Lookups:
    found = [use.lookups(name) for use in uses]
    if not found:
        empty = torch.zeros(0, dtype=torch.int64, device=parameter.device)
        return _Lookups(empty, empty, torch.zeros(0, parameter.shape[1], device=parameter.device))
    return _Lookups(*(c[0] if len(found) == 1 else torch.cat(c) for c in zip(*found, strict=True)))


def _shared_rows(
    scores: Sequence[ScoresUse], linear: Sequence[LinearUse], parameter: nn.Parameter, name: str
) -> _Scores | None:
    """All scores of one table over its shared rows; positions of several uses one after another."""
    pieces = [piece for use in scores for piece in use.scores(name)]
    for tied in linear:  # F.linear with the whole table: every row is shared
        p, x = tied.rows_and_columns()
        every = torch.arange(parameter.shape[0], device=parameter.device)
        pieces.append(ScoredRows(p, x, every[:, None], 1.0, None, owned=False))
    if not pieces:
        return None
    if len(pieces) == 1 and (folded := _folded(pieces[0])) is not None:
        return folded
    row = torch.unique(torch.cat([_without(piece.row, piece.padding) for piece in pieces]))
    p_BTK = torch.cat([_collect(piece, row) for piece in pieces], 1)
    x_BTD = torch.cat([piece.x for piece in pieces], 1)
    return _Scores(p_BTK, x_BTD, row, torch.arange(len(row), device=row.device))


def _without(index: Tensor, padding: int | None) -> Tensor:
    flat = index.flatten()
    return flat if padding is None else flat[flat != padding]


def _folded(piece: ScoredRows) -> _Scores | None:
    """Few repeated rows: fold their columns into the first one, in place. None where that would not pay."""
    row = piece.row[:, 0]
    unique, inverse = torch.unique(row, return_inverse=True)
    if piece.row.shape[1] != 1 or piece.factor != 1.0 or len(unique) < 0.9 * len(row):
        return None
    order = torch.arange(len(row), device=row.device)
    first = torch.full_like(unique, len(row)).scatter_reduce_(0, inverse, order, "amin")
    p = piece.p if piece.owned else piece.p.clone()
    for column in (first[inverse] != order).nonzero()[:, 0].tolist():
        p[:, :, first[inverse[column]]] += p[:, :, column]
        p[:, :, column] = 0
    if piece.padding is not None:
        p[:, :, row == piece.padding] = 0
    return _Scores(p, piece.x, row, first)


def _collect(piece: ScoredRows, row_K: Tensor) -> Tensor:
    """Gradients at scores of shared vectors, each a sum of table rows, as gradients at table rows [B, T, K]."""
    n, _ = piece.row.shape
    real_NJ = torch.ones_like(piece.row, dtype=torch.bool) if piece.padding is None else piece.row != piece.padding
    column_NJ = torch.searchsorted(row_K, piece.row.contiguous()).clamp_max(max(0, len(row_K) - 1))
    incidence_NK = torch.zeros(n, len(row_K), device=row_K.device)
    at, what = real_NJ.nonzero(as_tuple=True)
    factors = torch.full((len(at),), piece.factor, device=row_K.device)
    incidence_NK.index_put_((at, column_NJ[at, what]), factors, accumulate=True)
    return piece.p @ incidence_NK
