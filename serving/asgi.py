# SPDX-License-Identifier: Apache-2.0
"""Raw ASGI: bounded bodies in, typed JSON or RFC 9457 problems out. Knows no route.

Guarantees:
    a body above the limit is refused before it is read
    a problem names field, value and remedy
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from serving.errors import RequestError
from serving.messages import Problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_T = TypeVar("_T")
_encode = msgspec.json.Encoder().encode
_MAX_VALUE_LENGTH = 80
_PATH_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")


@dataclass(frozen=True, slots=True)
class Response:
    """Status, body and headers of one answer."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def of(cls, message: object, status: int = 200) -> Response:
        """An answer with a typed message as JSON."""
        return cls(status, _encode(message))

    async def send(self, send: Send) -> None:
        """Write the answer to the client."""
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", str(len(self.body)).encode()),
            (b"cache-control", b"no-store"),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def headers_of(scope: Scope) -> dict[str, str]:
    """The request's headers by lower-case name; the first of a repeated one counts."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return headers


async def read_body(receive: Receive, headers: Mapping[str, str], *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body of a JSON request.

    Raises:
        RequestError: 415 for another content type (a browser's form can't post here), 413 above
            `max_bytes`, 408 when the body takes longer than `timeout_s`, 400 when the client goes away.
    """
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise RequestError(
            415,
            "content-type",
            "Unsupported content type",
            "The body must be JSON.",
            "Send the header Content-Type: application/json.",
        )
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _receive_all(receive, max_bytes)
    except TimeoutError:
        raise RequestError(
            408,
            "slow-body",
            "Body took too long",
            f"The body did not arrive within {timeout_s:g} s.",
            "Send the whole body at once.",
            headers=(("connection", "close"),),
        ) from None


async def _receive_all(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError(400, "gone", "Client went away", "The body broke off.", "Send it again.")
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(
        413,
        "body-too-large",
        "Body too large",
        f"A body may have {max_bytes} bytes.",
        "Send it in several requests.",
        headers=(("connection", "close"),),
    )


def decode(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    """The typed request in a body.

    Raises:
        RequestError: 400 for what is not JSON, 422 with field and value for JSON of another shape.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `")
        field = path.rstrip("`") or "$"
        raise RequestError(
            422,
            "invalid-field",
            "Invalid field",
            f"{detail}.",
            "Send what is expected there; /openapi.json describes every field.",
            field=field,
            value=_value_at(body, field),
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RequestError(
            400,
            "not-json",
            "Not JSON",
            "The body is no JSON text in UTF-8, or it is nested too deeply.",
            "Send one JSON object; /openapi.json describes it.",
        ) from None


def problem_response(error: RequestError) -> Response:
    """A refused request as application/problem+json; the value is cut to a bounded length."""
    value = error.value
    problem = Problem(
        type=f"urn:hansa:problem:{error.kind}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        remedy=error.remedy,
        field=error.field,
        value=value if value is None or isinstance(value, bool | int | float) else _shortened(value),
    )
    headers = tuple((name.encode(), value.encode()) for name, value in error.headers)
    return Response(error.status, _encode(problem), b"application/problem+json", headers)


def _shortened(value: object) -> str:
    if isinstance(value, list | dict):
        return f"{'array' if isinstance(value, list) else 'object'} of {len(value)}"
    text = str(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else text[: _MAX_VALUE_LENGTH - 1] + "…"


def _value_at(body: bytes, field: str) -> object:
    """The value that a path such as `$.events[3].quantity` names; None where the path is not exact."""
    try:
        value = msgspec.json.decode(body)
        for step in _PATH_STEP.finditer(field):
            name, index = step.groups()
            if name is None and index is None:
                return None
            value = value[name] if index is None else value[int(index)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**63:
        return str(value)
    result: object = value
    return result
