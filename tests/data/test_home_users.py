# SPDX-License-Identifier: Apache-2.0
"""Home merchants: a person's events at one merchant, chosen from that person's own purchases."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from data.home_users import home_events

START = datetime(2024, 1, 1, tzinfo=UTC)
UNTIL = START + timedelta(days=10)
ROW = st.tuples(
    st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 19), st.sampled_from(["purchase", "view"])
)


def table(rows: list[tuple[str, str, int, str]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "merchant_id": [row[0] for row in rows],
            "user_id": [row[1] for row in rows],
            "timestamp": [START + timedelta(days=row[2]) for row in rows],
            "event": [row[3] for row in rows],
        },
        schema={
            "merchant_id": pl.String,
            "user_id": pl.String,
            "timestamp": pl.Datetime("us", "UTC"),
            "event": pl.String,
        },
    )


def homes(events: pl.DataFrame) -> dict[str, list[str]]:
    kept = home_events(events, until=UNTIL).group_by("user_id").agg(pl.col("merchant_id").unique())
    return dict(kept.iter_rows())


def test_a_user_of_two_merchants_stays_where_they_bought_most_before_the_cut() -> None:
    rows = [("a", "x", 1, "purchase"), ("b", "x", 1, "purchase"), ("b", "x", 2, "purchase")]
    assert homes(table(rows)) == {"x": ["b"]}
    later = [("a", "x", day, "purchase") for day in range(10, 19)] + [("a", "x", 1, "view")] * 5
    assert homes(table(rows + later)) == {"x": ["b"]}
    assert homes(table([*rows, ("a", "x", 3, "purchase")])) == {"x": ["a"]}, "a tie goes by name"
    assert homes(table([("a", "y", 12, "purchase"), ("a", "y", 1, "view")])) == {}, "no purchase, no home"


@given(st.lists(ROW, max_size=40), st.randoms(use_true_random=False))
def test_every_user_has_one_home_that_no_other_user_and_no_order_changes(rows, rng) -> None:  # type: ignore[no-untyped-def]
    events = table(rows)
    found = homes(events)
    bought = Counter((user, shop) for shop, user, day, kind in rows if day < 10 and kind == "purchase")
    most = {user: max(n for (u, _), n in bought.items() if u == user) for user, _ in bought}
    assert found == {u: [min(s for (v, s), n in bought.items() if v == u and n == top)] for u, top in most.items()}
    for user in found:
        assert homes(events.filter(pl.col("user_id") == user)) == {user: found[user]}
    shuffled = rng.sample(rows, len(rows))
    assert homes(table(shuffled)) == found


@given(st.lists(ROW, max_size=40))
def test_a_home_users_events_at_home_are_all_kept_in_their_order(rows) -> None:  # type: ignore[no-untyped-def]
    events = table(rows)
    kept = home_events(events, until=UNTIL)
    home = homes(events)
    expected = [row for row in events.iter_rows() if home.get(row[1]) == [row[0]]]
    assert_frame_equal(kept, pl.DataFrame(expected, events.schema, orient="row"))
