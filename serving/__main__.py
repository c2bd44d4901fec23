# SPDX-License-Identifier: Apache-2.0
"""`python -m serving HOME --port P`: serve the home's activated release over HTTP.

SIGTERM and SIGINT drain and exit 0, SIGHUP looks for another release at once. Exit code 2: can't start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn

from serving.app import App, build
from serving.config import ServingConfig
from serving.errors import ConfigError, EventLogError
from serving.event_log import EventLog
from serving.logs import log, set_up_logs
from serving.past_events import load_events


class Server(uvicorn.Server):
    """uvicorn with our signals and one line on standard output once it answers."""

    def __init__(self, app: App) -> None:
        config = app.config
        super().__init__(
            uvicorn.Config(
                app,
                host=config.host,
                port=config.port,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                ws="none",
                timeout_keep_alive=30,
                timeout_graceful_shutdown=max(1, round(config.drain_timeout_s)),
            )
        )
        self._app = app

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT drain (uvicorn's own would end the process by the signal); SIGHUP looks."""
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self._drain,
            signal.SIGINT: self._drain,
            signal.SIGHUP: self._app.service.look_now,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if not self.started:
            return
        address, port = self.servers[0].sockets[0].getsockname()[:2]
        model = self._app.service.model
        state = "not ready: no release, see the log" if model is None else f"release {model.version}"
        host = f"[{address}]" if ":" in address else address
        print(f"hansa serving on http://{host}:{port} ({state})", flush=True)

    def _drain(self) -> None:
        log("draining")
        self.should_exit = True


async def serve(app: App) -> None:
    """Serve until a signal, then drain and close the event log.

    Raises:
        EventLogError: the log can't be opened, or another process serves from this home.
        SystemExit: the address can't be bound.
    """
    await app.start()
    try:
        await Server(app).serve()
    finally:
        await app.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Parse arguments and serve; returns the exit code."""
    arguments = _parser().parse_args(argv)
    set_up_logs()
    try:
        config = _config(arguments)
        if arguments.load is not None:
            _load(arguments.load, config)
        asyncio.run(serve(build(config)))
    except (ConfigError, EventLogError) as error:
        print(f"hansa serve: {error}", file=sys.stderr)
        return 2
    except SystemExit:
        print(
            f"hansa serve: can't listen on {arguments.host}:{arguments.port}; "
            "another program may use the port: choose one with --port, or 0 for any",
            file=sys.stderr,
        )
        return 2
    return 0


def _load(path: Path, config: ServingConfig) -> None:
    event_log = EventLog(config.log_path)
    try:
        new, rows = load_events(path, event_log)
    finally:
        event_log.close()
    log("loaded past events", rows=rows, new=new)


def _config(arguments: argparse.Namespace) -> ServingConfig:
    if not arguments.home.is_dir():
        raise ConfigError(f"expected a merchant's home folder, found none at {arguments.home}")
    token = None
    if arguments.token_file is not None:
        try:
            token = arguments.token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"--token-file: expected a file that can be read, found: {error.strerror}"
            ) from error
    return ServingConfig(
        home=arguments.home,
        host=arguments.host,
        port=arguments.port,
        token=token,
        max_events_per_user=arguments.max_events_per_user,
        retention_days=arguments.retention_days,
        stale_after_s=arguments.stale_after_days * 86_400.0,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hansa serve",
        description="Serve a merchant's activated release: store events, recommend in real time.",
        epilog="SIGTERM drains and exits 0; SIGHUP looks for another release at once. "
        "The API describes itself at /openapi.json.",
    )
    parser.add_argument("home", type=Path, metavar="HOME", help="the merchant's home folder")
    parser.add_argument(
        "--load", type=Path, metavar="FILE", help="first store a file's past events; again changes nothing"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="default 127.0.0.1; another than loopback needs a token"
    )
    parser.add_argument(
        "--port", type=int, default=8077, help="default 8077; 0 for any free one, named in the ready line"
    )
    parser.add_argument("--token-file", type=Path, default=None, help="file with the token that clients must send")
    parser.add_argument(
        "--max-events-per-user",
        type=int,
        default=512,
        help="a user's most recent purchases that are scored (default 512)",
    )
    parser.add_argument(
        "--retention-days",
        type=float,
        default=400.0,
        help="how long the event log keeps an event after receipt (default 400)",
    )
    parser.add_argument(
        "--stale-after-days",
        type=float,
        default=14.0,
        help="age from which a release is served with the label stale (default 14)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
