# SPDX-License-Identifier: Apache-2.0
"""The API as a shop uses it, in process."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from serving.logs import JsonFormatter
from serving.messages import RecommendAnswer
from tests.serving.drivers import Client
from tests.serving.small import DEPARTMENTS, N_ITEMS, MemoryReleases, item_id, vectors_for


def ids(answer: dict) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_an_event_counts_in_the_very_next_recommendation(client: Client) -> None:
    before = client.recommend(user_id="u", k=5)
    assert before["fallback"] == ["cold_user"]
    assert client.buy("u", 3) == {"accepted": 1, "duplicates": 0, "unknown_items": 0}
    after = client.recommend(user_id="u", k=5)
    assert after["fallback"] == []
    assert after["history_events"] == 1
    assert ids(after) != ids(before)
    client.buy("u", 17)
    assert client.recommend(user_id="u", k=5)["history_events"] == 2


def test_an_answer_says_model_fallback_age_staleness_and_time(client: Client) -> None:
    client.buy("u", 3)
    answer = client.recommend(user_id="u")
    msgspec.convert(answer, RecommendAnswer)
    assert answer["model_version"] == 1
    assert 0 <= answer["release_age_s"] < 600
    assert answer["stale"] is False
    assert 0 < answer["served_ms"] < 1_000
    assert len(answer["items"]) == 10
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)


def test_a_cold_user_gets_the_merchants_popularity(client: Client) -> None:
    answer = client.recommend(user_id="nobody", k=4)
    assert ids(answer) == [item_id(i) for i in range(N_ITEMS, N_ITEMS - 4, -1)]
    assert answer["fallback"] == ["cold_user"]
    assert all(item["because"] == [] for item in answer["items"])


def test_without_local_part_the_answer_is_labelled(connect: Callable[..., Client], home) -> None:
    (home / "local.safetensors").unlink()
    client = connect()
    client.buy("u", 3)
    assert client.recommend(user_id="u")["fallback"] == ["no_local_part"]
    cold = client.recommend(user_id="nobody")
    assert cold["fallback"] == ["no_local_part", "cold_user"]
    assert ids(cold) == [item_id(i) for i in range(1, 11)]  # the league's popularity: item 1 leads
    assert client.get("/readyz").json()["local_part"] is False


def test_views_stand_in_for_purchases_and_are_labelled(client: Client) -> None:
    client.post("/v1/events", {"events": [{"user_id": "u", "item_id": item_id(3), "event": "view"}]})
    assert client.recommend(user_id="u")["fallback"] == ["no_purchases"]
    client.buy("u", 9)
    answer = client.recommend(user_id="u")
    assert (answer["fallback"], answer["history_events"]) == ([], 1)


def test_a_return_is_stored_and_not_scored(client: Client) -> None:
    response = client.post("/v1/events", {"events": [{"user_id": "u", "item_id": item_id(3), "event": "return"}]})
    assert response.json()["accepted"] == 1
    assert client.recommend(user_id="u")["fallback"] == ["cold_user"]


def test_a_session_is_scored_like_a_stored_user_and_not_stored(client: Client) -> None:
    client.buy("u", 3, 9)
    session = [{"item_id": item_id(i), "event": "purchase"} for i in (3, 9)]
    stored, given = client.recommend(user_id="u"), client.recommend(history=session)
    assert ids(stored) == ids(given)
    assert client.buy("u", 5)["accepted"] == 1
    assert client.recommend(user_id="u")["history_events"] == 3


def test_unknown_items_are_stored_and_counted(client: Client) -> None:
    body = {"events": [{"user_id": "u", "item_id": "new-in-the-shop", "event": "purchase"}]}
    assert client.post("/v1/events", body).json() == {"accepted": 1, "duplicates": 0, "unknown_items": 1}
    answer = client.recommend(user_id="u")
    assert (answer["fallback"], answer["unknown_items"]) == (["cold_user"], 1)


def test_filters_in_stock_exclude_attribute_and_bought(client: Client) -> None:
    client.buy("u", 1, 2)
    stock = [item_id(i) for i in (1, 2, 3, 4, 5)]
    answer = client.recommend(user_id="u", filters={"in_stock": [*stock, "unknown"]})
    assert sorted(ids(answer)) == stock
    filters = {"in_stock": stock, "exclude": [item_id(5), "unknown"], "exclude_bought": True}
    assert sorted(ids(client.recommend(user_id="u", filters=filters))) == [item_id(3), item_id(4)]
    filters = {"attributes": {"department": ["dairy", "no such value"], "brand": ["brand 1"]}}
    expected = [item_id(i) for i in range(1, N_ITEMS + 1) if DEPARTMENTS[i % 4] == "dairy" and i % 7 == 1]
    assert sorted(ids(client.recommend(user_id="u", k=40, filters=filters))) == expected


def test_a_filter_that_leaves_nothing_gives_an_empty_answer(client: Client) -> None:
    for user in ("u", "nobody"):
        assert client.recommend(user_id=user, filters={"in_stock": []})["items"] == []


def test_an_unknown_attribute_column_is_a_problem_that_lists_the_columns(client: Client) -> None:
    response = client.post("/v1/recommend", {"user_id": "u", "filters": {"attributes": {"colour": ["red"]}}})
    assert response.status_code == 422
    problem = response.json()
    assert (problem["field"], problem["value"]) == ("$.filters.attributes", "colour")
    assert "brand, department" in problem["remedy"]


def test_reasons_are_the_most_similar_other_items_of_the_history(client: Client) -> None:
    client.buy("u", 3, 9, 21)
    answer = client.recommend(user_id="u", reasons=2)
    vectors = vectors_for()
    for item in answer["items"]:
        own = int(item["item_id"][-3:])
        cosines = {
            h: float(
                vectors[h] @ vectors[own] / ((vectors[h] @ vectors[h]) * (vectors[own] @ vectors[own])) ** 0.5
            )
            for h in (3, 9, 21)
            if h != own
        }
        expected = sorted((h for h in cosines if cosines[h] > 0), key=lambda h: -cosines[h])[:2]
        assert [reason["item_id"] for reason in item["because"]] == [item_id(h) for h in expected]
        assert item["in_history"] == (own in (3, 9, 21))
        for reason, h in zip(item["because"], expected, strict=True):
            assert reason["similarity"] == pytest.approx(cosines[h], abs=1e-3)
    assert any(item["because"] for item in answer["items"])
    assert all(not item["because"] for item in client.recommend(user_id="u", reasons=0)["items"])


def test_at_scores_as_of_a_moment_with_the_events_up_to_it(client: Client) -> None:
    old = datetime(2017, 3, 1, tzinfo=UTC)
    client.buy("u", 3, timestamp=old.isoformat())
    client.buy("u", 9, timestamp=(old + timedelta(days=30)).isoformat())
    assert client.recommend(user_id="u", at=(old + timedelta(days=1)).isoformat())["history_events"] == 1
    early = client.recommend(user_id="u", at=(old - timedelta(days=1)).isoformat())
    assert early["fallback"] == ["cold_user"]
    now, then = (
        client.recommend(user_id="u", **at) for at in ({}, {"at": (old + timedelta(days=31)).isoformat()})
    )
    assert now["items"][0]["score"] != then["items"][0]["score"]  # age decays


def test_without_a_release_events_are_stored_and_readyz_says_no(
    connect: Callable[..., Client], source: MemoryReleases
) -> None:
    release, source.release = source.release, None
    client = connect(watch_interval_s=0.02)
    assert client.get("/healthz").json() == {"status": "ok"}
    for response in (client.get("/readyz"), client.post("/v1/recommend", {"user_id": "u"})):
        assert response.status_code == 503
        assert "activate" in response.json()["remedy"]
    assert client.buy("u", 3)["accepted"] == 1
    source.release = release
    deadline_s = time.monotonic() + 10
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert client.recommend(user_id="u")["history_events"] == 1


def test_an_old_release_or_an_expired_feed_is_served_and_labelled_stale(
    connect: Callable[..., Client], source: MemoryReleases
) -> None:
    client = connect(stale_after_s=1e-6)
    assert client.recommend(user_id="u")["stale"] is True
    assert client.get("/readyz").json()["stale"] is True
    client.close()
    source.fresh = False
    with_feed = connect()
    assert with_feed.recommend(user_id="u")["stale"] is True


def test_openapi_is_made_from_the_types(client: Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {"/v1/events", "/v1/recommend", "/healthz", "/readyz"}
    request = document["components"]["schemas"]["RecommendRequest"]
    assert request["properties"]["k"]["maximum"] == 100
    assert request["additionalProperties"] is False

    def references(node: object) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*(references(value) for value in node.values()))
        return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()

    found = references(document)
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_a_fault_of_ours_tells_neither_client_nor_log_what_was_asked(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("CANARY7319")

    monkeypatch.setattr(client.app.service, "answer", fail)
    logging.getLogger("hansa.serving").propagate = True
    response = client.post("/v1/recommend", {"user_id": "CANARY7319"})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    (record,) = [one for one in caplog.records if one.message == "failed"]
    line = JsonFormatter().format(record)
    assert json.loads(line)["error"] == "KeyError"
    assert "test_app.py" in line
    assert "CANARY7319" not in line + response.text
