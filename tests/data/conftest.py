# SPDX-License-Identifier: Apache-2.0
"""A small made-up league: three merchants, five users, six items, four months of purchases."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from data.catalogue import Vocabulary, build_vocabulary
from data.complete_journey import load
from data.league import League, build_league

NOW = datetime(2024, 6, 1, tzinfo=UTC)
START = datetime(2024, 1, 1, 12, tzinfo=UTC)


def shared(league: League, until: datetime, carriers: int) -> Vocabulary:
    """What at least so many merchants of the league sold before `until`, counted in one place."""
    candidates = build_vocabulary(league.catalogue)
    sold = league.events.filter(pl.col("timestamp") < until).group_by("item_id")
    known = sold.agg(pl.col("merchant_id").n_unique()).filter(pl.col("merchant_id") >= carriers)
    return candidates.shared(np.isin(candidates.item_ids, known["item_id"].to_list()), carriers)


@pytest.fixture
def catalogue() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": ["apple", "bread", "cheese", "date", "egg", "fig"],
            "name": ["Apple", "Bread", "Cheese", "Date", "Egg", None],
            "shelf": ["fruit", "bakery", "dairy", "fruit", None, "fruit"],
            "grade": [1, 2, 2, 1, 3, 1],
        }
    )


@pytest.fixture
def events() -> pl.DataFrame:
    rows = [
        ("north", "ann", "apple", 0), ("north", "ann", "bread", 0), ("north", "ann", "apple", 7),
        ("north", "ann", "cheese", 100), ("north", "ann", "apple", 100), ("north", "ann", "egg", 105),
        ("north", "bob", "bread", 3), ("north", "bob", "bread", 101),
        ("south", "ann", "date", 5), ("south", "ann", "fig", 99), ("south", "cat", "fig", 9),
        ("west", "dan", "egg", 11), ("west", "eve", "egg", 12), ("west", "eve", "apple", 103),
    ]  # fmt: skip
    return pl.DataFrame(
        {
            "merchant_id": [row[0] for row in rows],
            "user_id": [row[1] for row in rows],
            "item_id": [row[2] for row in rows],
            "timestamp": [START + timedelta(days=row[3]) for row in rows],
            "event": ["purchase"] * len(rows),
            "quantity": pl.Series([1.0] * len(rows), dtype=pl.Float32),
            "price": pl.Series([2.5] * len(rows), dtype=pl.Float32),
            "basket_id": pl.Series([None] * len(rows), dtype=pl.String),
            "promotion": pl.Series([None] * len(rows), dtype=pl.Boolean),
        },
        schema_overrides={"timestamp": pl.Datetime("us", "UTC")},
    )


@pytest.fixture
def league(events: pl.DataFrame, catalogue: pl.DataFrame) -> League:
    return build_league("small", events, catalogue, min_users=1)


@pytest.fixture(scope="session")
def journey() -> League:
    return load()
