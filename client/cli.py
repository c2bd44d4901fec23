# SPDX-License-Identifier: Apache-2.0
"""`hansa merchant`: make a home, be the node's daemon, fit what stays local, see how it stands.

Exit code 0: done. 2: something must be mended first; one line says each problem.
"""

import argparse
import json
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from client.errors import ClientError
from client.home import MerchantSettings, create_home, open_home

POLICY = """\
# What this merchant allows. The node reads this file anew at every request of the platform and refuses, with a
# reason, whatever breaks it. These are the strictest useful values; loosen one line at a time.

# Privacy loss over the whole life of ledger.jsonl, for one customer of this merchant. 1 is strong, 8 usual,
# more says little. When it is spent the node refuses to train until you raise it.
max_epsilon = 8.0

# Chance that the bound does not hold: well below 1 / (number of your customers).
delta = 1e-5

# Fewest merchants that a round must ask, this one included, as the platform states it.
min_cohort = 3

# true: an answer leaves this house only inside a masked sum, over the roster that you pinned. In mode local every
# answer carries its full noise by itself: a league that works so in clear needs false here.
secure_aggregation_required = true

# What a roster must promise: sums over at least so many merchants, so many of whom may collude with the platform.
min_survivors = 3
min_colluders = 1

# Fewest merchants that must carry an item for you to train on it: what you sell alone, a sum would tell of you.
min_carriers = 3

# What may be trained.
tasks = ["recommendation"]

# local: the full noise is added here. distributed: a share of it, which needs masked sums. none: no privacy.
# merchant: a share, on this merchant's update as a whole, for units = ["merchant"] and with a ledger of its own.
modes = ["local", "distributed"]

# Whom a plan must protect. user_merchant: one customer of this merchant. user_k (one customer of at most k
# merchants) leans on the platform's word that nobody shops at more: add it where you believe that. home_user is
# your own word that your events are those of customers alone whose events are used at no other merchant.
units = ["user_merchant"]
"""
KEY_BYTES = 32
WEEKS_THAT_JUDGE = timedelta(weeks=4)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    problems = _attempt(arguments.command, arguments)
    for problem in problems:
        print(f"hansa merchant: {problem}", file=sys.stderr)
    return 2 if problems else 0


def _attempt(command: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> list[str]:
    from data.errors import ContractError, DataError
    from models.errors import ModelError
    from privacy.errors import PrivacyError
    from releases.errors import ReleaseError

    try:
        command(arguments)
    except ContractError as wrong:
        return [str(finding) for finding in wrong.findings]
    except _Problems as found:
        return found.lines
    except (ClientError, DataError, ModelError, PrivacyError, ReleaseError) as wrong:
        return [str(wrong)]
    return []


class _Problems(Exception):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines


def _init(arguments: argparse.Namespace) -> None:
    try:
        _make_home(arguments.home, arguments)
    except OSError as impossible:
        where, why = impossible.filename or arguments.home, impossible.strerror
        raise _Problems([f"{where}: {why}; choose a folder that you can write"]) from None


def _make_home(home: Path, arguments: argparse.Namespace) -> None:
    from client.runtime import RuntimeSettings, open_runtime, write_runtime

    gate_until = arguments.gate_until or datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    train_until = arguments.train_until or gate_until - WEEKS_THAT_JUDGE
    database = "://" in arguments.events
    problems = [
        (any((home / name).exists() for name in ("merchant.toml", "secret.key", "ledger.jsonl")),
         f"{home}: a home is here already; nothing was changed: edit its merchant.toml"),
        (not arguments.name, "--name: a merchant needs a name"),
        (not (database or Path(arguments.events).exists()), f"--events {arguments.events}: no such path"),
        (not arguments.vocabulary.is_file(), f"--vocabulary {arguments.vocabulary}: no such file"),
        (not gate_until > train_until, f"--gate-until: {gate_until:%Y-%m-%d} must lie after --train-until"),
        (arguments.max_events < 1, "--max-events must be at least 1"),
    ]  # fmt: skip
    if lines := [text for wrong, text in problems if wrong]:
        raise _Problems(lines)
    events = arguments.events if database else str(Path(arguments.events).resolve())
    settings = MerchantSettings(arguments.name, events, train_until, gate_until, arguments.max_events)
    vocabulary = str(arguments.vocabulary.resolve())
    runtime = RuntimeSettings(arguments.task, arguments.options, vocabulary, arguments.device)
    open_runtime(runtime)  # now, so that a wrong option is told before there is a home
    if arguments.gate_until is None:
        _check_default_weeks(settings)
    create_home(home, settings, POLICY)
    write_runtime(home / "runtime.json", runtime)
    open_home(home)
    print(f"made the home of {arguments.name} in {home}\n  next: read {home / 'policy.toml'} and decide")
    print(f"        hansa merchant enrol {home}, and pin the roster that comes back")
    print(f"        hansa doctor {home}\n        hansa merchant run {home}")


def _check_default_weeks(settings: MerchantSettings) -> None:
    """That the weeks until today, which judge a release, have events; unsound ones are the doctor's."""
    from data.errors import DataError
    from data.files import load_merchant

    try:
        moments = load_merchant(settings.events).get_column("timestamp")
    except DataError:
        return
    if not moments.is_between(settings.train_until, settings.gate_until, closed="left").any():
        weeks = f"{settings.train_until:%Y-%m-%d} and {settings.gate_until:%Y-%m-%d}"
        raise _Problems(
            [f"--gate-until: no event lies between {weeks} (the default), to judge a release: give the league's"]
        )


def _run(arguments: argparse.Namespace) -> None:
    from client.daemon import run

    run(arguments.home, arguments.socket)


def _fit_local(arguments: argparse.Namespace) -> None:
    from client.local_part import FILE, fit_local_part
    from client.runtime import open_runtime, read_runtime

    home = open_home(arguments.home)
    version, choice = fit_local_part(home, open_runtime(read_runtime(home.path / "runtime.json")))
    print(f"fitted {home.path / FILE} beside release {version}\n  {choice.words}")


def _enrol(arguments: argparse.Namespace) -> None:
    from client.enrolment import enrol
    from privacy.secagg.enrolment import enrolment

    home = open_home(arguments.home)
    print(enrolment(home.settings.name, enrol(home.path)))
    print("give this line to the league's council, not to the platform", file=sys.stderr)


def _pin(arguments: argparse.Namespace) -> None:
    from client.enrolment import pin_roster

    home = open_home(arguments.home)
    council = [_key(text) for text in arguments.council]
    if not arguments.roster.is_file():
        raise _Problems([f"--roster {arguments.roster}: no such file"])
    roster = pin_roster(home.path, arguments.roster.read_bytes(), council, arguments.signatures)
    print(f"pinned roster {roster.digest.hex()} of league {roster.league}: {len(roster.members)} merchants,")
    print(f"  sums over at least {roster.min_survivors}, {roster.colluders} may collude")
    print("  compare this digest with the council's")


def _key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise _Problems([f"--council {text}: expected a public key of {2 * KEY_BYTES} hex digits"])
    return key


def _status(arguments: argparse.Namespace) -> None:
    report = status(arguments.home, arguments.socket)
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    for name, value in report.items():
        print(f"{name:<18} {value}")


def status(path: Path, socket_path: Path | None = None) -> dict[str, Any]:
    """How a node stands: daemon, policy, ledger; raises `HomeError` or `PrivacyError`."""
    from privacy.ledger import Ledger

    home, where = open_home(path), socket_path or path / "run" / "worker.sock"
    policy = home.policy
    report: dict[str, Any] = {
        "merchant": home.settings.name,
        "daemon": "listens" if _listens(where) else "does not run",
        "socket": str(where),
        "trains_until": home.settings.train_until.isoformat(),
        "modes": ", ".join(policy.modes),
        "secure_required": policy.secure_aggregation_required,
        "releases": 0,
        "epsilon_reserved": 0.0,
        "max_epsilon": policy.max_epsilon,
    }
    if home.ledger.exists():
        ledger = Ledger(home.ledger)
        report |= {
            "releases": len(ledger.reservations()),
            "epsilon_reserved": round(ledger.epsilon(policy.delta), 4),
        }
    return report


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a day or moment, such as 2025-06-30") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _options(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a JSON object, such as '{{\"dimension\": 16}}'")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hansa merchant",
        description="A merchant's node: it trains on the merchant's own events, under the merchant's own policy, "
        "and lets out nothing but checked answers.",
        epilog="The order of things: init, read policy.toml, enrol, pin, `hansa doctor HOME`, run, then Flower's "
        "SuperNode with --node-config 'socket=\"HOME/run/worker.sock\"'. docs/merchant-node.md tells it in full.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], None], words: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words)
        made.set_defaults(command=command)
        made.add_argument("home", type=Path, metavar="HOME", help="the merchant's home folder")
        return made

    _add_init(add("init", _init, "make a home: settings, the strictest policy, a fresh secret"))
    run = add("run", _run, "be the node's daemon: answer the relay over a UNIX socket until SIGTERM")
    add(
        "fit-local",
        _fit_local,
        "fit this merchant's own parts of the model beside the active release, for serving",
    )
    add("enrol", _enrol, "make this merchant's identity for secure aggregation, once, and print its enrolment")
    pin = add("pin", _pin, "check a roster that the council signed, and pin it")
    pin.add_argument("--roster", type=Path, required=True, help="the signed roster")
    pin.add_argument("--council", nargs="+", required=True, metavar="KEY", help="the council's public keys, hex")
    pin.add_argument("--signatures", type=int, default=1, help="how many of them must have signed (default 1)")
    status = add("status", _status, "whether the daemon listens, what the policy allows, what is spent")
    status.add_argument("--json", action="store_true", help="print JSON")
    for command in (run, status):
        command.add_argument("--socket", type=Path, help="default: HOME/run/worker.sock")
    return parser


def _add_init(init: argparse.ArgumentParser) -> None:
    init.add_argument("--name", required=True, help="the merchant's name in the league")
    init.add_argument("--events", required=True, help="file, folder or database URL (docs/your-own-data.md)")
    init.add_argument("--vocabulary", required=True, type=Path, help="the league's public vocabulary (Parquet)")
    init.add_argument("--task", default="recommendation", help="what the league trains (default %(default)s)")
    init.add_argument(
        "--options",
        type=_options,
        default={},
        help="the league's model options as JSON, such as '{\"dimension\": 16}'",
    )
    init.add_argument(
        "--train-until", type=_moment, help="end of what is trained on, UTC; default: 4 weeks earlier"
    )
    init.add_argument("--gate-until", type=_moment, help="end of the weeks that judge a release; default: today")
    init.add_argument(
        "--max-events", type=int, default=512, help="most recent purchases of a customer that count (default 512)"
    )
    init.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train; default: auto"
    )


if __name__ == "__main__":
    raise SystemExit(main())
