# SPDX-License-Identifier: Apache-2.0
"""`hansa doctor`: everything that would stop a merchant's node, found before it joins, all at once.

Exit code 0: sound. 1: something must be mended; each line says what. 2: there is no home to look at.

Guarantees:
- Every check runs, whatever the others found.
- No line quotes a cell or the secret.
- Nothing of the home is changed.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from client.errors import ClientError
from client.home import MerchantSettings, read_secret, read_settings

GOOD, NOTE, BAD = "good", "note", "bad"
if TYPE_CHECKING:
    from privacy.policy import Policy

FREE_BYTES, FEW_BYTES = 256 * 2**20, 2 * 2**30
BUILT = datetime(2025, 1, 1, tzinfo=UTC)
SLACK = timedelta(minutes=5)
FORMAT = "hansa.doctor/1"


@dataclass(frozen=True, slots=True)
class Check:
    """What one look found: `state` is `good`, `note` (works, but read it) or `bad` (mend it)."""

    name: str
    state: str
    found: str
    remedy: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Examine a home; prints what was found and returns the exit code."""
    arguments = _parser().parse_args(argv)
    if not arguments.home.is_dir():
        sys.stderr.write(f"hansa doctor: {arguments.home}: no such folder; run `hansa merchant init` first\n")
        return 2
    checks = examine(arguments.home, datetime.now(UTC))
    sound = all(check.state != BAD for check in checks)
    if arguments.json:
        report = {"format": FORMAT, "sound": sound, "checks": [asdict(check) for check in checks]}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        _print_table(checks, sound)
    return 0 if sound else 1


def examine(home: Path, now: datetime) -> tuple[Check, ...]:
    """Every check of a home, in the order in which they are worth mending."""
    looks: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
        ("settings", lambda: _settings(home)),
        ("secret", lambda: _secret(home)),
        ("policy", lambda: _policy(home)),
        ("clock", lambda: _clock(home, now)),
        ("ledger", lambda: _ledger(home)),
        ("disk", lambda: _disk(home)),
        ("events", lambda: _events(home, now)),
        ("vocabulary", lambda: _vocabulary(home)),
        ("device", lambda: _device(home)),
    )
    return tuple(check for name, look in looks for check in _guarded(name, look))


def _guarded(name: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """The checks of one look; an error of ours is a finding, any other is told by its kind alone."""
    from data.errors import DataError
    from models.errors import ModelError
    from privacy.errors import PrivacyError

    try:
        yield from look()
    except (ClientError, DataError, ModelError, PrivacyError) as wrong:
        yield Check(name, BAD, str(wrong))
    except Exception as wrong:
        yield Check(name, BAD, f"the check itself failed: {type(wrong).__name__}", "Mend the lines above first")


def _settings(home: Path) -> Iterator[Check]:
    settings = read_settings(home / "merchant.toml")
    yield Check("settings", GOOD, f"{settings.name}, trains until {settings.train_until:%Y-%m-%d %H:%M %Z}")
    for name in ("merchant.toml", "policy.toml"):
        if (home / name).is_file() and (home / name).stat().st_mode & 0o022:
            yield Check("settings", BAD, f"others may change {name}", f"chmod 600 {home / name}")


def _secret(home: Path) -> Iterator[Check]:
    read_secret(home / "secret.key")
    yield Check("secret", GOOD, "32 bytes, readable by its owner alone")
    mode = home.stat().st_mode
    if mode & 0o077:
        yield Check("secret", NOTE, f"others may look into the home (mode {mode & 0o777:o})", f"chmod 700 {home}")


def _policy(home: Path) -> Iterator[Check]:
    from privacy.policy import Policy

    policy = Policy.read(home / "policy.toml")
    words = f"epsilon {policy.max_epsilon:g} at delta {policy.delta:g}, modes {', '.join(policy.modes)}"
    yield Check("policy", GOOD, words)
    if refusals := _refusals(policy, home):
        found = "this node would refuse every plan: " + "; ".join(refusals)
        yield Check("policy", BAD, found, "Allow in policy.toml what the league does, or do not join")
    if policy.secure_aggregation_required:
        yield Check(
            "policy",
            NOTE,
            "secure aggregation is required: a league without masked sums is refused",
            "Decide on secure_aggregation_required in policy.toml",
        )
    if "none" in policy.modes:
        yield Check("policy", NOTE, "mode none is allowed: updates may leave without any privacy", "Remove it")


def _refusals(policy: "Policy", home: Path) -> list[str]:
    """Why even the smallest plan of every mode and unit is refused; empty where one passes."""
    from client.runtime import read_runtime
    from privacy.errors import PrivacyError
    from privacy.plan import Mode, PrivacyRequest, calibrate
    from privacy.policy import RoundRequest

    task, cohort = read_runtime(home / "runtime.json").task, max(policy.min_cohort, policy.min_survivors)
    request = RoundRequest(task, cohort, secure_aggregation=True)
    reasons: list[str] = []
    for mode, unit in product(sorted(policy.modes), policy.units):
        smallest = PrivacyRequest(
            mode,
            policy.max_epsilon,
            policy.delta,
            rounds=1,
            steps_per_round=1,
            sampling_rate=1.0 if mode == Mode.MERCHANT else 0.01,
            clipping_norm=1.0,
            unit=unit,
            accountant="rdp",
            cohort=cohort,
            colluders=1,
            coordinates=1,
        )
        try:
            policy.check(calibrate(smallest), request)
        except PrivacyError as refused:
            reasons.append(str(refused).removeprefix("refused by this merchant's policy: "))
        else:
            return []
    return reasons


def _clock(home: Path, now: datetime) -> Iterator[Check]:
    files = (home / name for name in ("merchant.toml", "policy.toml", "secret.key", "ledger.jsonl"))
    written = [datetime.fromtimestamp(file.stat().st_mtime, UTC) for file in files if file.exists()]
    newest = max([*written, BUILT])
    if now + SLACK < newest:
        found = f"it says {now:%Y-%m-%d %H:%M} UTC, but something here was written at {newest:%Y-%m-%d %H:%M} UTC"
        yield Check("clock", BAD, found, "Set the clock by NTP")
    else:
        yield Check("clock", GOOD, f"{now:%Y-%m-%d %H:%M} UTC, after all that was written here")


def _ledger(home: Path) -> Iterator[Check]:
    from privacy.ledger_records import booked_unit, parse_chain
    from privacy.policy import Policy

    path = home / "ledger.jsonl"
    if not path.exists():
        yield Check("ledger", GOOD, "none yet: nothing is spent")
        return
    records, torn = parse_chain(path, path.read_bytes())
    yield Check("ledger", GOOD, f"{len(records)} records, the chain holds")
    if held := [booked_unit(record.body) for record in records if record.kind == "reserve"]:
        Policy.read(home / "policy.toml").check_booked(*held[0])
    if torn:
        yield Check("ledger", NOTE, "the last line was torn by a crash; the node mends it at its start")
    if path.stat().st_mode & 0o077:
        yield Check("ledger", NOTE, "others may read the ledger", f"chmod 600 {path}")


def _disk(home: Path) -> Iterator[Check]:
    free_bytes = shutil.disk_usage(home).free
    state = BAD if free_bytes < FREE_BYTES else NOTE if free_bytes < FEW_BYTES else GOOD
    remedy = (
        "" if state == GOOD else f"Free some: answers and ledger need {FREE_BYTES // 2**20} MiB, releases more"
    )
    yield Check("disk", state, f"{free_bytes / 2**30:.1f} GiB free", remedy)
    if not os.access(home, os.W_OK | os.X_OK):
        yield Check("disk", BAD, "this user may not write into the home", f"chown or chmod {home}")


def _source(home: Path, settings: MerchantSettings) -> str:
    return settings.events if "://" in settings.events else str((home / settings.events).resolve())


def _events(home: Path, now: datetime) -> Iterator[Check]:
    from data.contract import check
    from data.readers import read

    table = read(_source(home, read_settings(home / "merchant.toml")))
    findings = check(table.frame, None, source=table.locate, catalogue_source="", now=now)
    for finding in findings:
        place = str(finding).split(": ", maxsplit=1)[0]
        yield Check("events", BAD, f"{place}: {finding.problem}", finding.remedy)
    if not findings:
        yield Check("events", GOOD, f"{table.frame.height:,} rows keep the data contract")


def _vocabulary(home: Path) -> Iterator[Check]:
    from client.runtime import read_runtime
    from data.catalogue import Vocabulary
    from data.errors import DataError
    from data.files import load_merchant
    from data.samples import evaluation_set, histories

    vocabulary = Vocabulary.load(Path(read_runtime(home / "runtime.json").vocabulary))
    yield Check("vocabulary", GOOD, f"{vocabulary.size:,} items, {len(vocabulary.attribute_names)} attributes")
    settings = read_settings(home / "merchant.toml")
    try:
        events = load_merchant(_source(home, settings))
    except DataError:
        yield Check("vocabulary", BAD, "not held against the events, which are not sound", "Mend the events first")
        return
    known = set(vocabulary.item_ids)
    items = events.get_column("item_id").unique().to_list()
    share = sum(item in known for item in items) / max(len(items), 1)
    words = f"the league knows {share:.0%} of this merchant's {len(items):,} items"
    yield Check("vocabulary", GOOD if share >= 0.5 else NOTE, words)
    own = histories(events, vocabulary, until=settings.train_until, max_events=settings.max_events)
    if not len(own):
        found = f"no customer bought a known item before {settings.train_until:%Y-%m-%d}: nothing to train on"
        yield Check("vocabulary", BAD, found, "Check that item ids are the league's, and train_until")
    else:
        yield Check("vocabulary", GOOD, f"{len(own):,} customers to train on")
    judged = evaluation_set(
        events, vocabulary, cut=settings.train_until, end=settings.gate_until, max_events=settings.max_events
    )
    if not len(judged):
        found = (
            f"no customer with a history bought a known item between {settings.train_until:%Y-%m-%d} and "
            f"{settings.gate_until:%Y-%m-%d}: nothing judges a release"
        )
        yield Check("vocabulary", BAD, found, "Bring newer events, or move train_until and gate_until")


def _device(home: Path) -> Iterator[Check]:
    from client.runtime import open_runtime, read_runtime

    runtime = open_runtime(read_runtime(home / "runtime.json"))
    numbers = sum(parameter.numel() for parameter in runtime.model.parameters())
    yield Check("device", GOOD, f"{runtime.device.type}; the model has {numbers:,} numbers and stands on it")


def _print_table(checks: Sequence[Check], sound: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {GOOD: "green", NOTE: "yellow", BAD: "bold red"}
    table = Table(box=None, pad_edge=False)
    for column in ("", "check", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(
            f"[{colours[check.state]}]{check.state}[/]", check.name, escape(check.found), escape(check.remedy)
        )
    console = Console()
    console.print(table)
    bad = sum(check.state == BAD for check in checks)
    console.print("\n[green]sound[/]" if sound else f"\n[bold red]{bad} to mend[/]")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hansa doctor",
        description="Look over a merchant's home before it joins a league: settings, secret, policy, clock, "
        "ledger, disk, events against the data contract (all at once), vocabulary, device. Changes nothing.",
        epilog="Exit code 0: sound. 1: something must be mended. 2: there is no home to look at.",
    )
    parser.add_argument("home", type=Path, metavar="HOME", help="the merchant's home folder")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
