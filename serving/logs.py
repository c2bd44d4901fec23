# SPDX-License-Identifier: Apache-2.0
"""Logs as JSON lines on standard error, without users' data.

What may appear: fixed sentences, numbers, routes, error types, places in our code. An exception is logged
by its type and the places it passed, never by its message, because a message may quote a request.

Guarantees:
    no log line holds users' data
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

logger = logging.getLogger("hansa.serving")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; an exception as its type and its frames."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            line["error"] = kind.__name__
            line["where"] = [
                f"{Path(frame.filename).name}:{frame.lineno}:{frame.name}" for frame in traceback.extract_tb(trace)
            ]
        return json.dumps(line, ensure_ascii=True)


def set_up_logs() -> None:
    """Send our logs and uvicorn's to standard error as JSON; uvicorn's access log, with its paths, is off."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, level in (
        ("hansa.serving", logging.INFO),
        ("uvicorn", logging.WARNING),
        ("asyncio", logging.ERROR),
    ):
        target = logging.getLogger(name)
        target.handlers = [handler]
        target.setLevel(level)
        target.propagate = False


def log(message: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: object) -> None:
    """Write one line. `message` and `fields` must hold no users' data."""
    logger.log(level, message, extra={"fields": fields}, exc_info=error)
