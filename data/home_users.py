# SPDX-License-Identifier: Apache-2.0
"""Every user's home merchant: where they bought most. Their events elsewhere stay out of private training.

Guarantees:
- a user's events are kept at one merchant at most
- a user's home depends on that user's own events alone
"""

from datetime import datetime

import polars as pl

from data.schema import PURCHASES

__all__ = ["home_events"]


def home_events(events: pl.DataFrame, *, until: datetime) -> pl.DataFrame:
    """The rows of each user at the merchant where they have most purchases before `until`; ties go by name.

    events: of a whole league (EVENT_SCHEMA), in any order, which is kept. A user without such a purchase has no
    home and no row. Users are one person where their `user_id` is equal.
    """
    bought = events.filter((pl.col("timestamp") < until) & pl.col("event").is_in(PURCHASES))
    homes = (
        bought.group_by("user_id", "merchant_id")
        .len("purchases")
        .sort("user_id", "purchases", "merchant_id", descending=[False, True, False])
        .unique("user_id", keep="first", maintain_order=True)
    )
    return events.join(homes, on=["user_id", "merchant_id"], how="semi", maintain_order="left")
