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
from client.home import MerchantSettings, open_home, read_secret, read_settings

GOOD, NOTE, BAD = "good", "note", "bad"
if TYPE_CHECKING:
    import polars as pl

    from data.catalogue import Vocabulary
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
        ("seat", lambda: _seat(home)),
        ("clock", lambda: _clock(home, now)),
        ("ledger", lambda: _ledger(home)),
        ("disk", lambda: _disk(home)),
        ("events", lambda: _events(home, now)),
        ("vocabulary", lambda: _vocabulary(home, now)),
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


def _sound_policy(home: Path) -> "Policy | None":
    """The policy for checks beside its own; None where it can't be read, which its own check tells."""
    from privacy.errors import PolicyError
    from privacy.policy import Policy

    try:
        return Policy.read(home / "policy.toml")
    except PolicyError:
        return None


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


def _seat(home: Path) -> Iterator[Check]:
    """The merchant's place in a pinned roster, where the policy lets answers out under masks alone."""
    from client.enrolment import FOLDER, IDENTITY, PIN, open_identity, open_pinned
    from privacy.secagg.roster import Requirements, require
    from privacy.units import SHARED_NOISE

    if (policy := _sound_policy(home)) is None:
        return
    in_clear = set(policy.modes) - set(SHARED_NOISE) and not policy.secure_aggregation_required
    state, folder = NOTE if in_clear else BAD, home / FOLDER
    refused = "rounds over masked sums are refused" if in_clear else "every round is refused"
    if not (folder / IDENTITY).exists():
        remedy = f"hansa merchant enrol {home}; give its line to the council"
        yield Check("seat", state, f"this merchant is not enrolled in a league: {refused}", remedy)
        return
    if not (folder / PIN).exists():
        remedy = f"hansa merchant pin {home} --roster FILE --council KEY, as the council sent them"
        yield Check("seat", state, f"enrolled, but no roster is pinned: {refused}", remedy)
        return
    opened = open_home(home)
    roster = open_pinned(opened)
    roster.index_of_key(open_identity(opened).public)
    require(roster, Requirements(policy.min_survivors, policy.min_colluders))
    merchants = len(roster.members)
    yield Check("seat", GOOD, f"one of {merchants} merchants of league {roster.league}, roster {roster.serial}")
    if merchants < policy.min_cohort:
        found = (
            f"min_cohort = {policy.min_cohort}, but the roster has {merchants} merchants: every round is refused"
        )
        yield Check("seat", BAD, found, "Lower min_cohort in policy.toml, or pin a larger roster")


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

    path = home / "ledger.jsonl"
    if not path.exists():
        yield Check("ledger", GOOD, "none yet: nothing is spent")
        return
    records, torn = parse_chain(path, path.read_bytes())
    yield Check("ledger", GOOD, f"{len(records)} records, the chain holds")
    if torn:
        yield Check("ledger", NOTE, "the last line was torn by a crash; the node mends it at its start")
    if path.stat().st_mode & 0o077:
        yield Check("ledger", NOTE, "others may read the ledger", f"chmod 600 {path}")
    held = [booked_unit(path, record) for record in records if record.kind == "reserve"]
    if held and (policy := _sound_policy(home)):
        policy.check_booked(*held[0])


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


def _read_events(home: Path, settings: MerchantSettings, now: datetime) -> "pl.DataFrame":
    """The events as the node reads them; empty where the policy says that it may be nobody's home."""
    from data.files import load_merchant
    from privacy.units import Unit

    policy = _sound_policy(home)
    lonely = policy is not None and Unit.HOME_USER in policy.units
    return load_merchant(_source(home, settings), now=now, may_be_empty=lonely)


def _events(home: Path, now: datetime) -> Iterator[Check]:
    from data.errors import ContractError

    try:
        events = _read_events(home, read_settings(home / "merchant.toml"), now)
    except ContractError as wrong:
        for finding in wrong.findings:
            place = str(finding).split(": ", maxsplit=1)[0]
            yield Check("events", BAD, f"{place}: {finding.problem}", finding.remedy)
        return
    if events.is_empty():
        yield Check("events", NOTE, "no rows: this merchant is nobody's home and answers with noise alone")
    else:
        yield Check("events", GOOD, f"{events.height:,} rows keep the data contract")


def _vocabulary(home: Path, now: datetime) -> Iterator[Check]:
    from client.runtime import read_runtime
    from data.catalogue import Vocabulary
    from data.errors import DataError

    vocabulary = Vocabulary.load(Path(read_runtime(home / "runtime.json").vocabulary))
    yield Check("vocabulary", GOOD, f"{vocabulary.size:,} items, {len(vocabulary.attribute_names)} attributes")
    yield from _carriers(vocabulary.carriers, home)
    settings = read_settings(home / "merchant.toml")
    try:
        events = _read_events(home, settings, now)
    except DataError:
        yield Check(
            "vocabulary", NOTE, "not held against the events, which are not sound", "Mend the events first"
        )
        return
    if not events.is_empty():
        yield from _customers(events, vocabulary, settings)


def _carriers(carriers: int, home: Path) -> Iterator[Check]:
    """Whether as many merchants carry the vocabulary's items as the policy asks."""
    least = policy.min_carriers if (policy := _sound_policy(home)) else 1
    if not carriers:
        found = f"nobody counted yet who carries its items: no training before (min_carriers = {least})"
        yield Check("vocabulary", NOTE, found, "Nothing in a new league; else get the league's counted vocabulary")
    elif carriers < least:
        found = f"its items are those of {carriers} merchants, min_carriers = {least}: every round is refused"
        yield Check("vocabulary", BAD, found, "Get one that more carry, or lower min_carriers in policy.toml")


def _customers(events: "pl.DataFrame", vocabulary: "Vocabulary", settings: MerchantSettings) -> Iterator[Check]:
    """Whether somebody trains, and somebody judges a release."""
    from data.samples import evaluation_set, histories

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
        description="Look over a merchant's home before it joins a league: settings, secret, policy, seat, clock, "
        "ledger, disk, events against the data contract (all at once), vocabulary, device. Changes nothing.",
        epilog="Exit code 0: sound. 1: something must be mended. 2: there is no home to look at.",
    )
    parser.add_argument("home", type=Path, metavar="HOME", help="the merchant's home folder")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
