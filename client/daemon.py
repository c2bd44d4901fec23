# SPDX-License-Identifier: Apache-2.0
"""The long-lived process of a merchant's node: a worker behind a UNIX socket, one request at a time.

Guarantees:
- Only the user who runs it can open the socket: mode 600 in a folder of mode 700.
- A second daemon on the same home is refused; what a killed one left behind is cleared away.
- A silent client is given up at a deadline, and the next one is served.
- A broken client is given up, and the next one is served.
- Stop, which is what SIGTERM does, lets the request in hand end and its answer leave.
- Of a failure that is no refusal the platform learns only that there was one.
- Logs are JSON lines with run, duration and outcome, and hold no user's data.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from client.errors import HomeError, NothingSent, Refused, WireError
from client.home import open_home
from client.runtime import open_runtime, read_runtime
from client.wire import (
    Reply,
    Request,
    decode_request,
    encode_refusal,
    encode_reply,
    receive_frame,
    send_frame,
)
from client.worker import Worker
from data.errors import DataError
from models.errors import ModelError
from privacy.errors import PrivacyError
from privacy.ledger import Ledger

FOLDER, SOCKET, LOCK = "run", "worker.sock", "worker.lock"
CLIENT_TIMEOUT_S = 60.0
FAILED = "this merchant's node could not answer; its own log says why"
# Errors of our own rooms, whose messages quote no data.
OURS = (HomeError, DataError, ModelError, PrivacyError)


def log(event: str, **fields: object) -> None:
    """One JSON line on standard error."""
    line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


class Daemon:
    """Serves a listener until `stop`; the listener and its path belong to the caller."""

    def __init__(
        self,
        answer: Callable[[Request], Reply],
        listener: socket.socket,
        client_timeout_s: float = CLIENT_TIMEOUT_S,
    ) -> None:
        self._answer = answer
        self._listener = listener
        self._timeout_s = client_timeout_s
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._receiving: socket.socket | None = None
        self._stopping = False

    def stop(self) -> None:
        """Take no further request; fit for a signal handler."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._waker.send(b".")
        if self._receiving is not None:
            with contextlib.suppress(OSError):
                self._receiving.shutdown(socket.SHUT_RD)

    def serve(self) -> None:
        """Answer clients one after another; returns after `stop`."""
        self._listener.setblocking(False)
        with self._wake, self._waker:
            while not self._stopping:
                select.select([self._listener, self._wake], [], [])
                with contextlib.suppress(OSError):
                    connection, _ = self._listener.accept()
                    with connection:
                        self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        try:
            body = self._request_body(connection)
            reply = self._reply_body(body)
        except NothingSent:
            return
        except WireError as broken:
            log("unreadable", reason=str(broken))
            reply = encode_refusal(str(broken))
        try:
            connection.settimeout(self._timeout_s)
            send_frame(connection, reply)
        except OSError as gone:
            log("client gone", error=type(gone).__name__)

    def _request_body(self, connection: socket.socket) -> bytes:
        self._receiving = None if self._stopping else connection
        try:
            return receive_frame(connection, self._timeout_s)
        except TimeoutError:
            raise WireError(f"no whole request within {self._timeout_s:g} s") from None
        except OSError as gone:
            raise WireError(f"the connection broke: {type(gone).__name__}") from None
        finally:
            self._receiving = None

    def _reply_body(self, body: bytes) -> bytes:
        request = decode_request(body)
        began = time.monotonic()
        about = {"kind": request.kind[:80], "run": request.run[:80], "round": request.round}

        def note(event: str, **fields: object) -> None:
            log(event, **about, wall_s=round(time.monotonic() - began, 3), **fields)

        try:
            reply = encode_reply(self._answer(request))
        except Refused as refused:
            note("refused", reason=str(refused)[:1000])
            return encode_refusal(str(refused))
        except Exception as failed:
            note("failed", **_describe(failed))
            return encode_refusal(FAILED)
        note("answered", size_bytes=len(reply))
        return reply


def _describe(error: Exception) -> dict[str, object]:
    """What a log may say of an error: its kind and place; its words only where they are known to quote no data."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    words = {"words": str(error)} if isinstance(error, OURS) else {}
    return {"error": type(error).__name__, "at_lines": places, **words}


def socket_of(home: Path) -> Path:
    """Where the daemon of a home listens unless told otherwise."""
    return home / FOLDER / SOCKET


@contextlib.contextmanager
def only_daemon(home: Path) -> Iterator[None]:
    """Hold the home's lock, which dies with the process; raises `HomeError` when another process holds it."""
    folder = home / FOLDER
    _private_folder(folder)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HomeError(f"{home}: another daemon lives here; stop it first") from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A listening UNIX socket that only this user can open; the path is gone afterwards.

    Raises:
        HomeError: somebody else listens there, another file lies there, or the path can't be used.
    """
    _private_folder(path.parent)
    _clear_stale(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        except OSError as wrong:
            raise HomeError(
                f"{path}: can't listen here ({wrong}); choose a short path on a local disk with --socket"
            ) from None
        finally:
            os.umask(before)
        try:
            listener.listen(16)
            yield listener
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _private_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise HomeError(
            f"{folder}: expected a folder of this user with mode 700, found mode "
            f"{found.st_mode & 0o777:o} of user {found.st_uid}; chmod 700 it, or choose another"
        )


def _clear_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise HomeError(f"{path}: another file lies here; move it away or choose another path with --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as unclear:
            raise HomeError(f"{path}: can't tell whether somebody listens here ({unclear}); remove it") from None
    raise HomeError(f"{path}: another program listens here; stop it or choose another path with --socket")


def run(path: Path, socket_path: Path | None = None) -> None:
    """Be the daemon of a home until SIGTERM or SIGINT; says on standard output once it listens.

    Raises:
        HomeError, DataError, ModelError, PrivacyError: what must be mended before the node can start.
    """
    home = open_home(path)
    where = socket_path or socket_of(path)
    with _private_files(), only_daemon(path):
        runtime = open_runtime(read_runtime(path / "runtime.json"))
        worker = Worker(home, runtime)
        Ledger(home.ledger, durable=runtime.durable).verify()
        _ = worker.histories  # now, so that wrong data are told to the merchant and not in a round
        with listening(where) as listener:
            daemon = Daemon(worker.answer, listener)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: daemon.stop())
            log("listening", merchant=home.settings.name, socket=str(where), device=str(runtime.device))
            sys.stdout.write(f"hansa merchant {home.settings.name} listens on {where}\n")
            sys.stdout.flush()
            daemon.serve()
    log("stopped")
