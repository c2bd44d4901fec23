# SPDX-License-Identifier: Apache-2.0
"""Clipping of all that a merchant sends: its whole update, its whole histogram.

McMahan et al. 2018, arXiv 1710.06963, Alg. 1 (FlatClip), with merchants for users.

Guarantees:
- a merchant's contribution has L2 norm at most clipping_norm over all its numbers together, whatever was trained
- a contribution that is not finite counts as none: a refusal would tell something
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.stages import ClippedUpdate, LocalUpdate

__all__ = ["clipped_values", "clipped_whole"]

_SLACK = 1 - 1e-6  # float32 must not round a contribution up past its bound


def clipped_whole(update: LocalUpdate, clipping_norm: float) -> ClippedUpdate:
    """The update as one unit's contribution, all arrays under one norm."""
    import torch

    names = sorted(update.values)
    flat = np.concatenate([np.ravel(update.values[name]) for name in names])
    shapes = [update.values[name].shape for name in names]
    parts = np.split(clipped_values(flat, clipping_norm), np.cumsum([update.values[n].size for n in names])[:-1])
    dense = {n: torch.from_numpy(p.reshape(shape)) for n, p, shape in zip(names, parts, shapes, strict=True)}
    return ClippedUpdate(clipping_norm, dense, {}, torch.tensor([float(np.linalg.norm(flat.astype(np.float64)))]))


def clipped_values(values: npt.NDArray[Any], clipping_norm: float) -> npt.NDArray[np.float32]:
    """float32 of the same shape: scaled down to L2 norm `clipping_norm`; zeros where the norm is not finite."""
    exact = values.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    if not np.isfinite(norm):
        return np.zeros(values.shape, np.float32)
    return (exact * min(1.0, clipping_norm * _SLACK / max(norm, 1e-300))).astype(np.float32)
