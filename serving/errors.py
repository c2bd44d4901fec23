# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the serving room.

ServingError
├── ConfigError          a setting that can't be served with
├── ReleaseUnusable      a verified release whose files don't fit each other or the scorer's contract
├── LocalPartUnusable    the merchant's local part doesn't fit the release
├── EventLogError        the event log can't be opened or written
│   └── EventLogBusy     another process serves from this home
├── Overloaded           more events wait for the disk than the bound allows
└── RequestError         a request that is refused; becomes an RFC 9457 problem
"""

from __future__ import annotations


class ServingError(Exception):
    """Base of every error of this room."""


class ConfigError(ServingError):
    """A setting that can't be served with."""


class ReleaseUnusable(ServingError):
    """A verified release whose files don't fit each other or the scorer's contract."""


class LocalPartUnusable(ServingError):
    """The merchant's local part doesn't fit the release."""


class EventLogError(ServingError):
    """The event log can't be opened or written."""


class EventLogBusy(EventLogError):
    """Another process serves from this home."""


class Overloaded(ServingError):
    """More events wait for the disk than the bound allows."""


class RequestError(ServingError):
    """A request that is refused.

    `status` is the HTTP status, `kind` the last part of the problem's URN, `field` a JSON path such as
    `$.events[3].quantity`. `value` goes back to the client alone: it is never logged, and `str()` of the
    error does not hold it.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        remedy: str,
        *,
        field: str | None = None,
        value: object = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(f"{status} {kind}")
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.remedy = remedy
        self.field = field
        self.value = value
        self.headers = headers
