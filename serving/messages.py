# SPDX-License-Identifier: Apache-2.0
"""The typed requests and answers of the HTTP API; the OpenAPI document is made from these types.

Every list, string and number has a bound here, so that no request can cost more than its bound, and
unknown fields are refused, so that a misspelt filter is never silently ignored.

Guarantees:
    requests and answers have a redacted repr
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

MAX_K = 100
MAX_HISTORY = 1_000
MAX_EVENTS = 1_000
MAX_ITEMS_IN_FILTER = 50_000
MAX_ATTRIBUTES = 32
MAX_REASONS = 5

EventType = Literal["view", "wishlist", "cart", "purchase", "return"]
Fallback = Literal["no_purchases", "cold_user", "no_local_part", "scorer_failed"]

Id = Annotated[str, Meta(min_length=1, max_length=128)]
Moment = Annotated[datetime, Meta(tz=True)]
Quantity = Annotated[float, Meta(gt=0, le=1e6)]
Price = Annotated[float, Meta(ge=0, le=1e9)]


class Private(Struct, frozen=True, forbid_unknown_fields=True):
    """A message that may hold users' data: its repr tells the type alone."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: redacted>"


class Event(Private, frozen=True):
    """What a user did.

    `event_id` makes a retry harmless: an id that the log holds is counted as a duplicate. Without it the
    id is the event's own content when it carries a timestamp, and a fresh one when it does not.
    """

    user_id: Id
    item_id: Id
    event: EventType
    timestamp: Moment | None = None
    quantity: Quantity = 1.0
    price: Price | None = None
    basket_id: Id | None = None
    promotion: bool | None = None
    event_id: Id | None = None


class EventsRequest(Private, frozen=True):
    """Body of POST /v1/events: all of the batch is stored, or nothing."""

    events: Annotated[list[Event], Meta(min_length=1, max_length=MAX_EVENTS)]


class EventsAnswer(Private, frozen=True):
    """All events of the request are on disk. `unknown_items`: events whose item no release here knows yet."""

    accepted: int
    duplicates: int
    unknown_items: int


class HistoryEvent(Private, frozen=True):
    """An event of a session that is not stored."""

    item_id: Id
    event: EventType = "view"
    timestamp: Moment | None = None


class Filters(Private, frozen=True):
    """What may be recommended.

    `in_stock`: these items only. `exclude`: none of these. `attributes`: for each column, one of these
    values. `exclude_bought`: nothing that a purchase in the history names.
    """

    in_stock: Annotated[list[Id], Meta(max_length=MAX_ITEMS_IN_FILTER)] | None = None
    exclude: Annotated[list[Id], Meta(max_length=MAX_ITEMS_IN_FILTER)] = []
    attributes: Annotated[dict[str, list[str]], Meta(max_length=MAX_ATTRIBUTES)] = {}
    exclude_bought: bool = False


class RecommendRequest(Private, frozen=True):
    """Body of POST /v1/recommend: either a user of the event log, or a session's own history.

    Purchases are scored, as in training; without one, views, wishes and carts stand in.

    `at`: score as of this moment, with the events up to it (default: now, with all events).
    `reasons`: how many items of the history explain each recommendation.
    """

    user_id: Id | None = None
    history: Annotated[list[HistoryEvent], Meta(max_length=MAX_HISTORY)] | None = None
    k: Annotated[int, Meta(ge=1, le=MAX_K)] = 10
    filters: Filters = Filters()
    at: Moment | None = None
    reasons: Annotated[int, Meta(ge=0, le=MAX_REASONS)] = 1


class Reason(Private, frozen=True):
    """An item of the user's own history; `similarity` is the cosine of the two item vectors."""

    item_id: str
    name: str | None
    similarity: float


class Recommendation(Private, frozen=True):
    """One recommended item; `in_history`: the user has met it before."""

    item_id: str
    name: str | None
    score: float
    in_history: bool
    because: list[Reason]


class RecommendAnswer(Private, frozen=True):
    """Best first; fewer than k when the filters leave fewer. An empty `fallback` means the full model answered."""

    items: list[Recommendation]
    model_version: int
    fallback: list[Fallback]
    release_age_s: float
    stale: bool
    history_events: int
    unknown_items: int
    served_ms: float


class Health(Private, frozen=True):
    """The process answers."""

    status: Literal["ok"]


class Readiness(Private, frozen=True):
    """A verified release is loaded and warm."""

    status: Literal["ready"]
    model_version: int
    release_age_s: float
    stale: bool
    local_part: bool
    items: int


class Problem(Private, frozen=True, omit_defaults=True):
    """RFC 9457 problem details, with the field, the value that was found there, and what to do."""

    type: str
    title: str
    status: int
    detail: str
    remedy: str
    field: str | None = None
    value: str | int | float | bool | None = None
