# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI 3.1 document, made from the typed messages, so that it can't drift from what is checked."""

from __future__ import annotations

from functools import cache

import msgspec

from serving import messages as m

_MESSAGES = (
    m.EventsRequest,
    m.EventsAnswer,
    m.RecommendRequest,
    m.RecommendAnswer,
    m.Health,
    m.Readiness,
    m.Problem,
)


@cache
def document() -> bytes:
    """The document as JSON."""
    schemas, components = msgspec.json.schema_components(_MESSAGES, ref_template="#/components/schemas/{name}")
    schema_of: dict[type, object] = dict(zip(_MESSAGES, schemas, strict=True))

    def content(message: type, media_type: str = "application/json") -> dict[str, object]:
        return {"content": {media_type: {"schema": schema_of[message]}}}

    def operation(summary: str, answer: type, request: type | None = None) -> dict[str, object]:
        described: dict[str, object] = {
            "summary": summary,
            "responses": {
                "200": {"description": "Done.", **content(answer)},
                "default": {
                    "description": "Refused (RFC 9457).",
                    **content(m.Problem, "application/problem+json"),
                },
            },
        }
        if request is not None:
            described["requestBody"] = {"required": True, **content(request)}
        return described

    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Hansa serving", "version": "1"},
            "paths": {
                "/v1/events": {"post": operation("Store a batch of events.", m.EventsAnswer, m.EventsRequest)},
                "/v1/recommend": {
                    "post": operation(
                        "Recommend items to a user or a session.", m.RecommendAnswer, m.RecommendRequest
                    )
                },
                "/healthz": {"get": operation("Whether the process answers.", m.Health)},
                "/readyz": {"get": operation("Whether a verified release is loaded and warm.", m.Readiness)},
            },
            "components": {
                "schemas": components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{}, {"token": []}],
        }
    )
