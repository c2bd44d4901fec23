# SPDX-License-Identifier: Apache-2.0
"""The merchant's own part of the model, which never leaves the house.

`hansa merchant fit-local` writes `home/local.safetensors`: `merchant_log_popularity` float32 [V+1], and where the
merchant has them `merchant_item_residual` float32 [V+1, d], added to the release's item vectors, and
`merchant_league_weight` float32 [1], their factor. Row i means item i of one catalogue: the file's metadata may
carry `catalogue_digest`, and then it must be the release's. A residual belongs to one release: `model_digest` is
the SHA-256 of its `model.safetensors`. Where there is no local part, the league's public log-popularity stands in.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

from serving.catalogue import Catalogue
from serving.errors import LocalPartUnusable, ReleaseUnusable

TENSOR = "merchant_log_popularity"
RESIDUAL = "merchant_item_residual"
WEIGHT = "merchant_league_weight"
LEAGUE_TENSOR = "league_log_popularity"
REMEDY = "run `hansa merchant fit-local` to write it again"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, repr=False)
class LocalPart:
    """What joins a release.

    `popularity` float32 [V+1]; `item_vectors` float32 [V+1, d] in the place of the release's, None: those;
    `problem`: why a part of it was left out.
    """

    popularity: Floats
    item_vectors: Floats | None = None
    problem: str | None = None


def read_local_part(path: Path, catalogue: Catalogue, vectors: Floats, weights: bytes) -> LocalPart | None:
    """The local part beside a release's item vectors, float32 [V+1, d], and weights; None when there is no file.

    A residual to another release's vectors is left out.

    Raises:
        LocalPartUnusable: the file is damaged, or belongs to another catalogue.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            held = set(file.keys())
            found = {name: file.get_tensor(name) for name in (TENSOR, WEIGHT, RESIDUAL) if name in held}
    except (OSError, SafetensorError) as error:
        raise LocalPartUnusable(f"{path}: expected a safetensors file, found: {error}; {REMEDY}") from error
    if metadata.get("catalogue_digest", catalogue.digest) != catalogue.digest:
        raise LocalPartUnusable(
            f"{path}: expected rows in the order of the release's catalogue, found another; {REMEDY}"
        )
    if TENSOR not in found:
        raise LocalPartUnusable(f"{path}: expected a tensor {TENSOR!r}, found none; {REMEDY}")
    expected = {TENSOR: (len(vectors),), WEIGHT: (1,), RESIDUAL: vectors.shape}
    for name, shape in expected.items():
        if name in found:
            _check(path, name, found[name], shape)
    popularity: Floats = np.ascontiguousarray(found[TENSOR])
    popularity[0] = 0.0
    residual, weight, problem = found.get(RESIDUAL), found.get(WEIGHT, np.ones(1, np.float32)), None
    if residual is not None and metadata.get("model_digest") != sha256(weights).hexdigest():
        residual, problem = None, f"{path}: {RESIDUAL}: it was fitted to another release and is left out; {REMEDY}"
    if residual is None and weight[0] == 1.0:
        return LocalPart(popularity, None, problem)
    own: Floats = (vectors if residual is None else vectors + residual) * weight
    return LocalPart(popularity, own, problem)


def _check(path: Path, name: str, tensor: Floats, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape or tensor.dtype != np.float32:
        raise LocalPartUnusable(
            f"{path}: {name}: expected float32 {shape}, found {tensor.dtype} {tensor.shape}; {REMEDY}"
        )
    if not np.isfinite(tensor).all():
        raise LocalPartUnusable(f"{path}: {name}: expected finite numbers, found NaN or infinity; {REMEDY}")


def read_league_popularity(weights: bytes, catalogue: Catalogue) -> npt.NDArray[np.float32]:
    """The league's public log-popularity, float32 [V+1], from the bytes of `model.safetensors`; zeros if absent.

    Raises:
        ReleaseUnusable: no safetensors, or a popularity of another shape or with NaN or infinity.
    """
    try:
        popularity = load(weights).get(LEAGUE_TENSOR)
    except SafetensorError as error:
        raise ReleaseUnusable(
            f"model.safetensors: expected safetensors, found: {error}; pull another release"
        ) from error
    expected = (catalogue.n_items + 1,)
    if popularity is None:
        return np.zeros(expected, np.float32)
    if popularity.shape != expected or popularity.dtype != np.float32 or not np.isfinite(popularity[1:]).all():
        raise ReleaseUnusable(
            f"model.safetensors: {LEAGUE_TENSOR}: expected finite float32 {expected}, "
            f"found {popularity.dtype} {popularity.shape}; pull another release"
        )
    league: npt.NDArray[np.float32] = popularity.copy()
    league[0] = 0.0
    return league
