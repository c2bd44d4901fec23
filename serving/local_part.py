# SPDX-License-Identifier: Apache-2.0
"""The merchant's own part of the model, which never leaves the house: log-popularity per item.

Training writes `home/local.safetensors` with `merchant_log_popularity` float32 [V+1]. Row i means item i
of one catalogue: the file's metadata may carry `catalogue_digest`, and then it must be the release's.
Where there is no local part, the league's public log-popularity of the release stands in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

from serving.catalogue import Catalogue
from serving.errors import LocalPartUnusable, ReleaseUnusable

TENSOR = "merchant_log_popularity"
LEAGUE_TENSOR = "league_log_popularity"


def read_local_part(path: Path, catalogue: Catalogue) -> npt.NDArray[np.float32] | None:
    """The merchant's log-popularity, float32 [V+1]; None when there is no file.

    Raises:
        LocalPartUnusable: the file is damaged, or belongs to another catalogue.
    """
    if not path.exists():
        return None
    remedy = "train on the active release to write it again"
    try:
        with safe_open(path, framework="numpy") as file:
            digest = (file.metadata() or {}).get("catalogue_digest", catalogue.digest)
            if TENSOR not in file.keys():  # noqa: SIM118 - safe_open is no mapping
                raise LocalPartUnusable(f"{path}: expected a tensor {TENSOR!r}, found none; {remedy}")
            popularity = file.get_tensor(TENSOR)
    except (OSError, SafetensorError) as error:
        raise LocalPartUnusable(f"{path}: expected a safetensors file, found: {error}; {remedy}") from error
    if digest != catalogue.digest:
        raise LocalPartUnusable(
            f"{path}: expected rows in the order of the release's catalogue, found another; {remedy}"
        )
    expected = (catalogue.n_items + 1,)
    if popularity.shape != expected or popularity.dtype != np.float32:
        raise LocalPartUnusable(
            f"{path}: {TENSOR}: expected float32 {expected}, found {popularity.dtype} {popularity.shape}; {remedy}"
        )
    if not np.isfinite(popularity[1:]).all():
        raise LocalPartUnusable(f"{path}: {TENSOR}: expected finite numbers, found NaN or infinity; {remedy}")
    whole: npt.NDArray[np.float32] = np.ascontiguousarray(popularity)
    whole[0] = 0.0
    return whole


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
