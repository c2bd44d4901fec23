# SPDX-License-Identifier: Apache-2.0
"""Samples: what a moment may see, and how much one user may say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.batches import RecommendationBatch, SampleShape, draw_batch, padded

CPU = torch.device("cpu")
SHAPE = SampleShape(history=6, past=10, targets=5, window_days=28)
DAYS = st.lists(st.tuples(st.integers(1, 9), st.floats(0, 200, width=32)), min_size=1, max_size=25)


def fields(batch: RecommendationBatch) -> list[torch.Tensor]:
    return [batch.history, batch.age_days, batch.past, batch.targets, batch.weights]


def draw(users: Any, rows: list[int], seed: int = 0) -> RecommendationBatch:
    return draw_batch(users, np.array(rows, dtype=np.int64), SHAPE, np.random.default_rng(seed), CPU)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(DAYS, min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_a_sample_holds_no_event_at_or_after_its_moment_in_its_history(
    make_users: Callable[..., Any], rows: list[list[tuple[int, float]]], seed: int
) -> None:
    histories = [sorted(row, key=lambda event: event[1]) for row in rows]
    # Every event has its own item number, so that an item tells its event.
    unique = [[(number + 1, day) for number, (_, day) in enumerate(row)] for row in histories]
    batch = draw(make_users(unique), list(range(len(rows))), seed)
    for user, row in enumerate(unique):
        day_of = {item: int(np.floor(day)) for item, day in row}
        before = [day_of[item] for item in batch.past[user].tolist() if item]
        targets = [day_of[item] for item in batch.targets[user].tolist()]
        assert max(before, default=-1) < min(targets)
        assert max(targets) - min(targets) < SHAPE.window_days
        assert [item for item in batch.history[user].tolist() if item] == [
            item for item in batch.past[user].tolist() if item
        ][-SHAPE.history :]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(DAYS, min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_a_users_target_weights_add_up_to_at_most_one_and_only_new_items_count(
    make_users: Callable[..., Any], rows: list[list[tuple[int, float]]], seed: int
) -> None:
    users = make_users([sorted(row, key=lambda event: event[1]) for row in rows])
    batch = draw(users, list(range(len(rows))), seed)
    assert (batch.weights >= 0).all()
    assert (batch.weights.sum(dim=1) <= 1 + 1e-6).all()
    for past, targets, weights in zip(batch.past, batch.targets, batch.weights, strict=True):
        for target, weight in zip(targets.tolist(), weights.tolist(), strict=True):
            assert (weight == 0.0) == (target in past.tolist())


def test_the_sample_of_one_user_does_not_depend_on_another_user(
    make_users: Callable[..., Any], make_events: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(3)
    events = make_events(rng, 9, [7, 12, 5, 9])
    changed = [events[0], make_events(rng, 9, [40])[0], events[2], events[3]]
    for seed in range(20):
        first = draw(make_users(events), [0, 1, 2, 3], seed)
        second = draw(make_users(changed), [0, 1, 2, 3], seed)
        for a, b in zip(fields(first), fields(second), strict=True):
            assert torch.equal(a[[0, 2, 3]], b[[0, 2, 3]])


def test_every_user_gets_tensors_of_one_size(users: Any) -> None:
    for rows in ([], [0], [0, 3, 3, 4]):
        batch = draw(users, rows)
        assert [tuple(tensor.shape) for tensor in fields(batch)] == [
            (len(rows), 6), (len(rows), 6), (len(rows), 10), (len(rows), 5), (len(rows), 5)
        ]  # fmt: skip
        assert len(batch) == len(rows)


def test_the_same_generator_state_draws_the_same_batch(users: Any) -> None:
    first, second, other = (draw(users, [0, 2, 3, 4], seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(fields(first), fields(second), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(fields(first), fields(other), strict=True))


def test_a_single_day_is_predicted_from_nothing(make_users: Callable[..., Any]) -> None:
    batch = draw(make_users([[(4, 10.1), (5, 10.9)]]), [0])
    assert not batch.past.any()
    assert set(batch.targets[0].tolist()) <= {4, 5}
    assert torch.isclose(batch.weights.sum(), torch.tensor(1.0))


def test_padding_keeps_the_latest_events(make_users: Callable[..., Any]) -> None:
    users = make_users([[(1, 1.0), (2, 2.0), (3, 3.0)], [(4, 4.0)]])
    items, days = padded(users, users.offsets[1:], users.offsets[:-1], 2)
    assert items.tolist() == [[2, 3], [4, 0]]
    assert days.tolist() == [[2.0, 3.0], [4.0, np.inf]]


def test_text_form_shows_counts_and_no_user(users: Any) -> None:
    assert repr(draw(users, [0, 1])) == "RecommendationBatch(users=2)"
