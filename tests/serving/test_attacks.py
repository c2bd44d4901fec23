# SPDX-License-Identifier: Apache-2.0
"""A hostile client: whatever it sends, the answer is a problem, and nobody else's history is in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.config import ServingConfig
from serving.errors import ConfigError
from serving.event_log import LoggedEvent
from serving.messages import Event, RecommendRequest
from serving.window import Entry, History, Recent
from tests.serving.drivers import Client
from tests.serving.small import MemoryRelease, MemoryReleases, item_id, payload, popularity_for, write_local_part

NOT_JSON = [b"", b"{", b"\xff\xfe", b'{"user_id":"\\ud800aaaaaaaaaaaa"}', b'{"k":NaN}', b'{"user_id":"\xff"}']


def problem_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["type"].startswith("urn:hansa:problem:")
    assert problem["status"] == status
    assert problem["remedy"]
    return problem


@pytest.mark.parametrize("path", ["/v1/events", "/v1/recommend"])
@pytest.mark.parametrize("body", NOT_JSON)
def test_malformed_json_is_a_problem(client: Client, path: str, body: bytes) -> None:
    response = client.raw(path, body)
    problem_of(response, response.status_code)
    assert response.status_code in (400, 422)  # 422: a field before the broken place was wrong already


@pytest.mark.parametrize(
    "body", [b"[" * 500_000, b'{"filters":' * 50_000, b'{"filters":{"attributes":{"a":' + b"[" * 500_000]
)
def test_deep_nesting_is_a_problem(client: Client, body: bytes) -> None:
    response = client.raw("/v1/recommend", body)
    problem_of(response, response.status_code)
    assert response.status_code in (400, 422)


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"user_id": "u", "k": -1}, "$.k", -1),
        ({"user_id": "u", "k": 0}, "$.k", 0),
        ({"user_id": "u", "k": 10**9}, "$.k", 10**9),
        ({"user_id": "u", "k": 10**30}, "$.k", None),
        ({"user_id": "u", "k": 1.5}, "$.k", 1.5),
        ({"user_id": "u", "k": "ten"}, "$.k", "ten"),
        ({"user_id": 5}, "$.user_id", 5),
        ({"user_id": ""}, "$.user_id", ""),
        ({"user_id": "x" * 129}, "$.user_id", "x" * 79 + "…"),
        ({"user_id": "u", "reasons": 99}, "$.reasons", 99),
        ({"user_id": "u", "at": "2020-01-01T00:00:00"}, "$.at", "2020-01-01T00:00:00"),
        ({"user_id": "u", "at": "1700-01-01T00:00:00Z"}, "$.at", "1700-01-01T00:00:00+00:00"),
        ({"user_id": "u", "at": "0001-01-01T00:00:00+14:00"}, "$.at", None),
        ({"user_id": "u", "at": "9999-12-31T23:59:59-14:00"}, "$.at", None),
        ({"history": [{"item_id": "a"}] * 1001}, "$.history", "array of 1001"),
        ({"history": [{"item_id": "a"}, {"item_id": 7}]}, "$.history[1].item_id", 7),
        ({"history": [{"item_id": "a", "event": "stolen"}]}, "$.history[0].event", "stolen"),
        ({}, "$.user_id", None),
        ({"user_id": "u", "history": []}, "$.user_id", None),
        ({"user_id": "u", "surprise": 1}, "$", "object of 2"),
        ({"user_id": "u", "filters": {"attributes": {"brand": [1]}}}, "$.filters.attributes[...][0]", None),
    ],
)
def test_a_problem_names_field_value_and_remedy(client: Client, body: object, field: str, value: object) -> None:
    problem = problem_of(client.post("/v1/recommend", body), 422)
    assert problem["field"] == field
    if value is not None:
        assert problem["value"] == value


def test_wrong_events_refuse_the_whole_batch(client: Client) -> None:
    good = {"user_id": "u", "item_id": item_id(3), "event": "purchase"}
    for wrong, field in (
        ({"quantity": 0}, "quantity"),
        ({"quantity": -2}, "quantity"),
        ({"price": -1}, "price"),
        ({"timestamp": "2999-01-01T00:00:00Z"}, "timestamp"),
        ({"event": "stolen"}, "event"),
        ({"item_id": "x" * 129}, "item_id"),
    ):
        problem = problem_of(client.post("/v1/events", {"events": [good, {**good, **wrong}]}), 422)
        assert problem["field"] == f"$.events[1].{field}"
    problem_of(client.post("/v1/events", {"events": [good] * 1001}), 422)
    problem_of(client.post("/v1/events", {"events": []}), 422)
    assert client.recommend(user_id="u")["fallback"] == ["cold_user"]


def test_a_body_above_the_limit_is_refused_before_it_is_read(client: Client) -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"9" * 12)]
    assert _call(client, headers, receive) == 413
    chunks = 0

    async def endless() -> dict[str, Any]:
        nonlocal chunks
        chunks += 1
        return {"type": "http.request", "body": b"[" * 100_000, "more_body": True}

    assert _call(client, headers[:2], endless) == 413
    assert chunks == 11


def test_a_slow_body_is_given_up(connect: Callable[..., Client]) -> None:
    client = connect(body_timeout_s=0.05)

    async def never() -> dict[str, Any]:
        import asyncio

        await asyncio.sleep(30)
        return {}

    assert _call(client, [(b"host", b"localhost:1"), (b"content-type", b"application/json")], never) == 408


def _call(client: Client, headers: list[tuple[bytes, bytes]], receive: Callable[[], Any]) -> int:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/events", "headers": headers}
    client.run(client.app(scope, receive, send))
    status: int = sent[0]["status"]
    return status


def test_wrong_path_method_content_type_and_host_are_problems(client: Client) -> None:
    problem_of(client.get("/v1/users"), 404)
    response = client.get("/v1/events")
    problem_of(response, 405)
    assert response.headers["allow"] == "POST"
    problem_of(client.raw("/v1/events", b"{}", "text/plain"), 415)
    problem_of(client.request("GET", "/healthz", headers={"host": "evil.example"}), 421)
    assert client.request("GET", "/healthz", headers={"host": "[::1]:80"}).status_code == 200


def test_with_a_token_only_its_holder_is_answered(connect: Callable[..., Client]) -> None:
    token = "0123456789abcdef"
    client = connect(host="0.0.0.0", token=token)
    body = {"user_id": "u"}
    for header in ("", "Bearer ", "Bearer wrong", f"Basic {token}", "Bearer \u00fc"):
        raw = [(b"authorization", header.encode("latin-1"))]
        response = client.request("POST", "/v1/recommend", json=body, headers=raw)
        problem_of(response, 401)
    good = client.request("POST", "/v1/recommend", json=body, headers={"authorization": f"Bearer {token}"})
    assert good.status_code == 200
    assert client.get("/readyz").status_code == 200


def test_an_address_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "shop.example"):
        with pytest.raises(ConfigError, match="token"):
            ServingConfig(home=tmp_path, host=host)
    with pytest.raises(ConfigError, match="16 characters"):
        ServingConfig(home=tmp_path, token="short")
    assert "0123456789abcdef" not in repr(ServingConfig(home=tmp_path, token="0123456789abcdef"))


STRANGE_USERS = [
    "%",
    "_",
    "victi_",
    "victim%",
    "VICTIM",
    "victim ",
    "victim\x00",
    "' OR '1'='1",
    "víctim",
    "vi\u0301ctim",
    "*",
]


def test_other_users_histories_cannot_be_read(client: Client) -> None:
    secret = [31, 32, 33]
    baseline = {user: client.recommend(user_id=user, k=40, reasons=5) for user in STRANGE_USERS}
    client.buy("victim", *secret)
    client.buy("other", 5)
    for user in STRANGE_USERS:
        answer = client.recommend(user_id=user, k=40, reasons=5)
        assert answer["items"] == baseline[user]["items"]
        assert answer["history_events"] == 0
    reasons = {
        reason["item_id"]
        for item in client.recommend(user_id="other", k=40, reasons=5)["items"]
        for reason in item["because"]
    }
    assert reasons <= {item_id(5)}
    for path in ("/v1/users/victim", "/v1/events?user_id=victim", "/v1/recommend?user_id=victim"):
        assert client.get(path).status_code in (404, 405)


def test_unicode_ids_are_kept_apart_and_given_back(client: Client) -> None:
    for user in ("ü", "u\u0308", "用户", "🛒", "\u202euser", "a\x00b"):
        assert client.buy(user, 3)["accepted"] == 1
        assert client.recommend(user_id=user)["history_events"] == 1


@pytest.mark.parametrize("broken", ["nan", "raise"])
def test_a_fallback_is_labelled_and_never_an_error(
    connect: Callable[..., Client], home: Path, source: MemoryReleases, broken: str
) -> None:
    beyond_warm_up = 77
    source.release = MemoryRelease(5, payload(broken=broken, broken_at=beyond_warm_up, n_items=80))
    write_local_part(home, popularity_for(80))
    client = connect()
    client.buy("u", beyond_warm_up)
    answer = client.recommend(user_id="u", k=3, filters={"exclude": [item_id(80)]})
    assert answer["fallback"] == ["scorer_failed"]
    assert [item["item_id"] for item in answer["items"]] == [item_id(i) for i in (79, 78, 77)]
    client.buy("fine", 12)
    assert client.recommend(user_id="fine")["fallback"] == []


def test_requests_and_answers_have_a_redacted_repr() -> None:
    event = Event(user_id="canary", item_id="canary", event="view")
    entry = Entry(1, "canary", 1)
    for message in (
        event,
        RecommendRequest(user_id="canary"),
        LoggedEvent.of(event, 1),
        entry,
        History([entry], []),
        Recent([entry], [], 1),
    ):
        assert "canary" not in repr(message)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
requests = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("user_id", "history", "k", "filters", "at", "reasons", "events"), json_values),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(["/v1/events", "/v1/recommend"]), body=json_values | requests)
def test_whatever_a_client_sends_the_answer_is_a_problem_and_never_a_500(
    client: Client, path: str, body: object
) -> None:
    sent = json.dumps(body).encode()
    response = client.raw(path, sent)
    assert response.status_code in (200, 400, 422)
