# SPDX-License-Identifier: Apache-2.0
"""Popularity as a bounded sum over users, and as a prior."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import ParameterMismatch
from models.popularity import blend, log_popularity, popularity_counts

HISTORIES = st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=5)


def test_a_user_counts_once_for_an_item(make_users: Callable[..., Any]) -> None:
    users = make_users([[(1, 0.0), (1, 1.0), (2, 1.0)], [(2, 3.0)], []])
    assert popularity_counts(users, 3).tolist() == [0.0, 1.0, 2.0, 0.0]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=HISTORIES, user=st.lists(st.integers(1, 9), max_size=30), norm=st.floats(0.1, 5.0))
def test_one_user_changes_the_counts_by_at_most_the_clipping_norm(
    make_users: Callable[..., Any], rows: list[list[int]], user: list[int], norm: float
) -> None:
    without = make_users([[(item, 0.0) for item in row] for row in rows])
    with_user = make_users([[(item, 0.0) for item in row] for row in [*rows, user]])
    change = popularity_counts(with_user, 9, clipping_norm=norm) - popularity_counts(
        without, 9, clipping_norm=norm
    )
    assert np.linalg.norm(change) <= norm * (1 + 1e-5)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=20))
def test_the_logarithm_is_finite_for_any_finite_counts_noisy_ones_too(counts: list[float]) -> None:
    logs = log_popularity(np.array(counts, dtype=np.float32))
    assert np.isfinite(logs).all()
    assert logs[0] == 0.0
    assert np.exp(logs[1:].astype(np.float64)).mean() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("bad", [[0.0, np.nan], [0.0, np.inf], [0.0]])
def test_counts_that_are_not_finite_are_refused(bad: list[float]) -> None:
    with pytest.raises(ParameterMismatch):
        log_popularity(np.array(bad, dtype=np.float32))


def test_a_merchant_without_users_gets_the_leagues_popularity() -> None:
    league = log_popularity(np.array([0.0, 5.0, 3.0, 1.0], dtype=np.float32))
    np.testing.assert_allclose(blend(np.zeros(4, np.float32), league, prior_purchases=10.0), league, atol=1e-5)


def test_many_own_purchases_outweigh_the_league() -> None:
    league = log_popularity(np.array([0.0, 5.0, 3.0, 1.0], dtype=np.float32))
    own = np.array([0.0, 1e6, 2e6, 3e6], dtype=np.float32)
    np.testing.assert_allclose(blend(own, league, prior_purchases=10.0), log_popularity(own), atol=1e-4)
