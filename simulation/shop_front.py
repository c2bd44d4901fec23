# SPDX-License-Identifier: Apache-2.0
"""The last act of the main job: a merchant's serving process, asked over HTTP as its shop would ask it.

A real process on a real socket: users' last events go in by `POST /v1/events`, recommendations come back by
`POST /v1/recommend`, and SIGTERM ends it. On Linux it also ends when the job is killed.
"""

import ctypes
import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

READY_S = 60.0
EVENTS_SHOWN = 8
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class ServingFailed(Exception):
    """The serving process did not start or did not answer."""


@dataclass(frozen=True, slots=True)
class Shopper:
    """One user of the merchant: id and the events that the shop sends, oldest first."""

    user_id: str
    events: pl.DataFrame


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """Start the merchant's serving process on a free port; yields its address, stops it by SIGTERM."""
    command = [sys.executable, "-m", "serving", str(home.resolve()), "--port", "0"]
    root = Path(__file__).resolve().parent.parent
    with (home / "serving.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            command,
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
    deadline = threading.Timer(READY_S, process.kill)
    deadline.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        deadline.cancel()
        if "http://" not in line:
            raise ServingFailed(f"the serving process did not start; see {home / 'serving.log'}")
        yield line.split(" on ")[1].split(" ")[0]
    finally:
        deadline.cancel()
        _stop(process)


def _end_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(READY_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def ask(address: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One HTTP exchange in JSON; raises `ServingFailed` with the server's own words."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=READY_S) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as refused:
        raise ServingFailed(f"{path}: {refused.read().decode(errors='replace')}") from None
    except (OSError, ValueError) as broken:
        raise ServingFailed(f"{path}: {broken}") from None


def recommend(address: str, shopper: Shopper, k: int) -> dict[str, Any]:
    """Send the shopper's events, then ask what to recommend to them."""
    rows = shopper.events.iter_rows(named=True)
    events = [
        {
            "user_id": shopper.user_id,
            "item_id": row["item_id"],
            "event": "purchase",
            "timestamp": row["timestamp"].isoformat(),
        }
        for row in rows
    ]
    for start in range(0, len(events), 500):
        ask(address, "/v1/events", {"events": events[start : start + 500]})
    at = max(row["timestamp"] for row in shopper.events.iter_rows(named=True)) + timedelta(hours=1)
    body = {"user_id": shopper.user_id, "k": k, "at": at.isoformat(), "filters": {"exclude_bought": True}}
    return ask(address, "/v1/recommend", body)


def shoppers(events: pl.DataFrame, until: datetime, count: int) -> tuple[Shopper, ...]:
    """The users with the most baskets before `until`, and their newest events."""
    past = events.filter((pl.col("timestamp") < until) & (pl.col("event") == "purchase"))
    busy = past.group_by("user_id").len().sort("len", "user_id", descending=[True, False]).head(count)
    return tuple(
        Shopper(user, past.filter(pl.col("user_id") == user).sort("timestamp").tail(200))
        for user in busy.get_column("user_id")
    )


def example(
    label: str, shopper: Shopper, merchant: str, answer: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Any]:
    """The part of the report that shows one shopper, who is named by `label` and never by the own id."""
    newest = shopper.events.unique("item_id", keep="last", maintain_order=True).tail(EVENTS_SHOWN)
    history = [
        {
            "item_id": row["item_id"],
            "name": names.get(row["item_id"], row["item_id"]),
            "date": row["timestamp"].astimezone(UTC).date().isoformat(),
        }
        for row in newest.iter_rows(named=True)
    ]
    recommended = [
        {
            "item_id": item["item_id"],
            "name": item["name"] or item["item_id"],
            "score": item["score"],
            "because": [reason["name"] or reason["item_id"] for reason in item["because"]],
        }
        for item in answer["items"]
    ]
    return {"user": label, "merchant": merchant, "history": history, "recommended": recommended}
