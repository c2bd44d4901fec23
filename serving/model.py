# SPDX-License-Identifier: Apache-2.0
"""A verified release and the merchant's local part, loaded, checked against each other and warm.

A `ServedModel` never changes: a new release is a new one, and a request keeps the one it began with.

Guarantees:
    a release that can't score is refused before it serves
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.catalogue import Catalogue, read_catalogue
from serving.errors import LocalPartUnusable, ReleaseUnusable
from serving.local_part import LocalPart, read_league_popularity, read_local_part
from serving.scorer import Scorer
from serving.source import Release

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, repr=False)
class ServedModel:
    """Everything that answers a request.

    `item_vectors` float32 [V+1, d], rows of length 1 or 0: the release's, which say what is similar.
    """

    release: Release
    catalogue: Catalogue
    scorer: Scorer
    item_vectors: Floats
    popularity: Floats
    """float32 [V+1]: the merchant's where there is a local part, else the league's."""
    has_local_part: bool
    local_problem: str | None
    """Why the local part, or a part of it, was left out."""

    @property
    def version(self) -> int:
        """Number of the release."""
        return self.release.version


def load_model(release: Release, local_path: Path) -> ServedModel:
    """Load and warm a release; a local part that doesn't fit is left out and named in `local_problem`.

    Raises:
        ReleaseUnusable: a file is missing or doesn't fit, or the warm-up ranks no item.
    """
    try:
        catalogue = read_catalogue(release.read("catalogue.parquet"))
        vectors = _item_vectors(release.read("item_vectors.npy"), catalogue.n_items + 1)
        graph, weights = release.read("scorer.onnx"), release.read("model.safetensors")
        league = read_league_popularity(weights, catalogue)
    except (OSError, ValueError) as error:
        raise ReleaseUnusable(
            f"release {release.version}: expected readable files, found: {error}; pull another release"
        ) from error
    local: LocalPart | None = None
    try:
        local = read_local_part(local_path, catalogue, vectors, weights)
        scorer = Scorer(graph, None if local is None else local.item_vectors)
        problem = None if local is None else local.problem
    except LocalPartUnusable as error:
        local, problem, scorer = None, str(error), Scorer(graph)
    model = ServedModel(
        release=release,
        catalogue=catalogue,
        scorer=scorer,
        item_vectors=_unit(vectors),
        popularity=league if local is None else local.popularity,
        has_local_part=local is not None,
        local_problem=problem,
    )
    _warm(model)
    return model


def _item_vectors(data: bytes, n_rows: int) -> Floats:
    vectors = np.load(io.BytesIO(data), allow_pickle=False)
    if vectors.ndim != 2 or vectors.shape[0] != n_rows or vectors.dtype != np.float32:
        raise ReleaseUnusable(
            f"item_vectors.npy: expected float32 [{n_rows}, d], found {vectors.dtype} {vectors.shape}; "
            "pull another release"
        )
    if not np.isfinite(vectors).all():
        raise ReleaseUnusable("item_vectors.npy: expected finite numbers, found others; pull another release")
    return np.asarray(vectors)


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    unit[0] = 0.0
    return unit


def _warm(model: ServedModel) -> None:
    """Score a few lengths, so that the first request pays for no allocation, and look at the answer."""
    n_items = model.catalogue.n_items
    mask = np.zeros((1, n_items + 1), np.float32)
    mask[0, 0] = -np.inf
    k = min(10, n_items)
    for length in (1, 8, 64):
        history = np.minimum(np.arange(1, length + 1, dtype=np.int64)[None], n_items)
        try:
            items, scores = model.scorer.score(
                history, np.ones((1, length), np.float32), model.popularity, mask, k
            )
        except Exception as error:  # ONNX Runtime's errors have no common base but Exception
            raise ReleaseUnusable(
                f"release {model.version}: expected the scorer to run, found: {error}; pull another release"
            ) from error
        whole = items.shape == scores.shape == (1, k) and bool(np.isfinite(scores).all())
        if not whole or items.min() < 1 or items.max() > n_items:
            raise ReleaseUnusable(
                f"release {model.version}: expected {k} items of 1 to {n_items} with finite scores, "
                f"found items {items.tolist()} and scores {scores.tolist()}; pull another release"
            )
