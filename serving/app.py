# SPDX-License-Identifier: Apache-2.0
"""The ASGI application: five routes over one `Service`.

The client is the shop's own backend. Nothing returns a history; reasons name items of the history that
was asked for and of no other. On loopback without a token the Host header must be this machine's, so that
a web page in somebody's browser can't ask; elsewhere every request needs the token.

Guarantees:
    whatever a client sends, the answer is a problem and never a 500
    other users' histories cannot be read
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec

from serving.asgi import Receive, Response, Scope, Send, decode, headers_of, problem_response, read_body
from serving.config import ServingConfig
from serving.errors import EventLogError, Overloaded, RequestError
from serving.logs import log
from serving.messages import EventsRequest, Health, Readiness, RecommendRequest
from serving.openapi import document
from serving.service import Service, no_release
from serving.source import InstalledReleases, ReleaseSource

_decode_events = msgspec.json.Decoder(EventsRequest)
_decode_recommend = msgspec.json.Decoder(RecommendRequest)
_OPEN_ROUTES = ("/healthz", "/readyz", "/openapi.json")

Handler = Callable[[bytes, float], Awaitable[Response]]


class App:
    """An ASGI application (HTTP and lifespan) that serves one home."""

    def __init__(self, config: ServingConfig, source: ReleaseSource) -> None:
        self.config = config
        self._source = source
        self._service: Service | None = None
        self._routes: dict[str, tuple[str, Handler]] = {
            "/v1/events": ("POST", self._events),
            "/v1/recommend": ("POST", self._recommend),
            "/healthz": ("GET", self._health),
            "/readyz": ("GET", self._ready),
            "/openapi.json": ("GET", self._openapi),
        }

    @property
    def service(self) -> Service:
        """The running service; RuntimeError before start-up."""
        if self._service is None:
            raise RuntimeError("the application has not started")
        return self._service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    async def start(self) -> None:
        """Open the event log, load the active release, start to watch.

        Raises:
            EventLogError: the log can't be opened, or another process serves from this home.
        """
        self._service = Service(self.config, self._source)
        await self._service.start()

    async def stop(self) -> None:
        """Put every accepted event on disk and close."""
        if self._service is not None:
            service, self._service = self._service, None
            await service.stop()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = scope["path"] if scope["path"] in self._routes else "other"
        try:
            response = await self._route(scope, receive)
        except RequestError as error:
            log("refused", route=route, status=error.status, kind=error.kind)
            response = problem_response(error)
        except Overloaded:
            log("overloaded", level=logging.WARNING, route=route, status=503)
            response = problem_response(_OVERLOADED)
        except EventLogError as error:
            log("event log failed", level=logging.ERROR, error=error, route=route, status=503)
            response = problem_response(_NOT_STORED)
        except Exception as error:  # a bug of ours: the client learns no more than that
            log("failed", level=logging.ERROR, error=error, route=route, status=500)
            response = problem_response(_BUG)
        await response.send(send)

    async def _route(self, scope: Scope, receive: Receive) -> Response:
        began_s = time.perf_counter()
        headers = headers_of(scope)
        self._check_client(scope["path"], headers)
        found = self._routes.get(scope["path"])
        if found is None:
            raise RequestError(
                404,
                "no-route",
                "No such route",
                "There is nothing at this path.",
                "Use a path of /openapi.json.",
            )
        method, handler = found
        if scope["method"] != method:
            raise RequestError(
                405,
                "method",
                "Method not allowed",
                f"Expected {method}.",
                f"Send it as {method}.",
                headers=(("allow", method),),
            )
        body = b""
        if method == "POST":
            body = await read_body(
                receive, headers, max_bytes=self.config.max_body_bytes, timeout_s=self.config.body_timeout_s
            )
            began_s = time.perf_counter()
        return await handler(body, began_s)

    def _check_client(self, path: str, headers: dict[str, str]) -> None:
        if self.config.token is None:
            host = headers.get("host", "")
            name = host[: host.index("]") + 1] if "]" in host else host.partition(":")[0]
            if name.lower() not in ("localhost", "127.0.0.1", "[::1]", self.config.host):
                raise RequestError(
                    421,
                    "host",
                    "Misdirected request",
                    "Without a token only this machine is answered, under its own name.",
                    "Use 127.0.0.1 or localhost in the URL, or start with --token-file.",
                )
        elif path not in _OPEN_ROUTES:
            given = headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self.config.token}".encode()):
                raise RequestError(
                    401,
                    "token",
                    "Token needed",
                    "Expected the shop's token.",
                    "Send the header Authorization: Bearer TOKEN.",
                    headers=(("www-authenticate", "Bearer"),),
                )

    async def _events(self, body: bytes, began_s: float) -> Response:
        return Response.of(await self.service.store(decode(_decode_events, body).events))

    async def _recommend(self, body: bytes, began_s: float) -> Response:
        return Response.of(self.service.answer(decode(_decode_recommend, body), began_s))

    async def _health(self, body: bytes, began_s: float) -> Response:
        return Response.of(Health(status="ok"))

    async def _ready(self, body: bytes, began_s: float) -> Response:
        model = self.service.model
        if model is None:
            raise no_release()
        age_s = model.release.release_age_s()
        return Response.of(
            Readiness(
                status="ready",
                model_version=model.version,
                release_age_s=round(age_s, 1),
                stale=self.service.is_stale(age_s),
                local_part=model.has_local_part,
                items=model.catalogue.n_items,
            )
        )

    async def _openapi(self, body: bytes, began_s: float) -> Response:
        return Response(200, document())


def build(config: ServingConfig, source: ReleaseSource | None = None) -> App:
    """The application for a home; `source` tells its active release (default: what is installed there)."""
    return App(config, InstalledReleases(config.home) if source is None else source)


_OVERLOADED = RequestError(
    503,
    "overloaded",
    "Overloaded",
    "Too many events wait for the disk; none of this request's were stored.",
    "Send the same batch again after the time in Retry-After.",
    headers=(("retry-after", "1"),),
)
_NOT_STORED = RequestError(
    503,
    "not-stored",
    "Events not stored",
    "The disk refused the batch; none of it was stored.",
    "Check the merchant's disk, then send the same batch again.",
    headers=(("retry-after", "10"),),
)
_BUG = RequestError(
    500,
    "internal",
    "Internal error",
    "This is a fault of the server.",
    "Look for 'failed' in the server's log and report it.",
)
