# SPDX-License-Identifier: Apache-2.0
"""A made-up merchant: small catalogue, ragged histories, an evaluation set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from models.recommendation import RecommendationConfig, RecommendationTask

Event = tuple[int, float]  # item, day


@dataclass(frozen=True)
class Rows:
    offsets: NDArray[np.int64]
    items: NDArray[np.int32]


@dataclass(frozen=True)
class Users(Rows):
    days: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Evaluated:
    histories: Users
    targets_all: Rows
    targets_novel: Rows
    seen: Rows
    cut_day: float

    def __len__(self) -> int:
        return len(self.histories)


def rows_of(lists: Sequence[Sequence[int]]) -> Rows:
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return Rows(offsets, np.array([item for row in lists for item in row], dtype=np.int32))


def users_of(lists: Sequence[Sequence[Event]]) -> Users:
    rows = rows_of([[item for item, _ in row] for row in lists])
    return Users(rows.offsets, rows.items, np.array([day for row in lists for _, day in row], dtype=np.float32))


def evaluated_of(
    histories: Sequence[Sequence[Event]], targets: Sequence[Sequence[int]], cut_day: float = 100.0
) -> Evaluated:
    seen = [sorted({item for item, _ in row}) for row in histories]
    novel = [sorted(set(wanted) - set(owned)) for wanted, owned in zip(targets, seen, strict=True)]
    return Evaluated(
        users_of(histories), rows_of([sorted(set(t)) for t in targets]), rows_of(novel), rows_of(seen), cut_day
    )


def random_events(rng: np.random.Generator, n_items: int, sizes: Sequence[int]) -> list[list[Event]]:
    return [
        [
            (int(item), float(day))
            for item, day in zip(
                rng.integers(1, n_items + 1, size), np.sort(rng.uniform(0.0, 90.0, size)), strict=True
            )
        ]
        for size in sizes
    ]


N_ITEMS = 40


@pytest.fixture
def codes() -> NDArray[np.int32]:
    codes_VA = np.random.default_rng(7).integers(0, 5, size=(N_ITEMS + 1, 3)).astype(np.int32)
    codes_VA[0] = 0
    return codes_VA


@pytest.fixture
def task(codes: NDArray[np.int32]) -> RecommendationTask:
    config = RecommendationConfig(dimension=8, history_events=12, past_events=20, targets=4, negatives=16)
    popularity = np.random.default_rng(8).normal(size=N_ITEMS + 1).astype(np.float32)
    return RecommendationTask(config, codes, popularity)


@pytest.fixture
def users() -> Users:
    return users_of(random_events(np.random.default_rng(9), N_ITEMS, [1, 3, 8, 20, 15, 2]))


@pytest.fixture
def make_users() -> Callable[[Sequence[Sequence[Event]]], Users]:
    return users_of


@pytest.fixture
def make_evaluated() -> Callable[..., Evaluated]:
    return evaluated_of


@pytest.fixture
def make_events() -> Callable[..., list[list[Event]]]:
    return random_events
