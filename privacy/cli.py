# SPDX-License-Identifier: Apache-2.0
"""`hansa ledger`: what privacy a merchant has spent, what is left, and whether the record was tampered with.

Exit code 0: the chain holds, or nothing was spent yet. 1: it is broken, or an anchor is not in it. 2: there is
neither ledger nor policy to read.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from privacy.errors import LedgerTampered, OtherUnit, PrivacyError
from privacy.ledger import Budget, Head, Ledger
from privacy.policy import Policy
from privacy.statements import unit_words
from privacy.units import Unit, named

FORMAT = "hansa.ledger/1"
SHOWN = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Show or verify a ledger; returns the exit code."""
    arguments = _parser().parse_args(argv)
    path: Path = arguments.path / "ledger.jsonl" if arguments.path.is_dir() else arguments.path
    policy: Path = arguments.policy or path.parent / "policy.toml"
    if not path.is_file() and not policy.is_file():
        print(f"hansa ledger: {path}: no ledger here, nor a policy; is it a merchant's home?", file=sys.stderr)
        return 2
    try:
        report = _verified(path, arguments.anchor)
        if not arguments.verify:
            report |= _account(path, Policy.read(policy) if policy.is_file() else None)
    except LedgerTampered as broken:
        print(f"hansa ledger: {broken}", file=sys.stderr)
        return 1
    except (PrivacyError, OSError) as wrong:
        print(f"hansa ledger: {wrong}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=2) if arguments.json else _words(report))
    return 0


def _verified(path: Path, anchor: Head | None) -> dict[str, Any]:
    if not path.is_file():  # looking must not make one
        if anchor is not None and anchor.number >= 0:
            raise LedgerTampered(f"{path}: there is none, though an anchor was kept: restore the original")
        return {"format": FORMAT, "ledger": str(path), "records": 0}
    ledger = Ledger(path)
    records, head = ledger.verify(anchor), ledger.head()
    return {"format": FORMAT, "ledger": str(path), "records": records, "head": f"{head.number}:{head.hash}"}


def _account(path: Path, policy: Policy | None) -> dict[str, Any]:
    """For whom, spent, reserved and left; without a policy the releases alone."""
    ledger = Ledger(path) if path.is_file() else None
    made = ledger.reservations() if ledger else ()
    held = (made[0].unit, made[0].merchants_per_user) if made else None
    report: dict[str, Any] = {
        "releases": [
            {"number": r.number, "run": r.run, "round": r.round, "purpose": r.purpose, "spent": r.spent}
            for r in made
        ],
        "unit": _unit(*held) if held else None,
    }
    if policy is None:
        return report
    report["units_allowed"] = [{"name": name, "words": unit_words(name, "k")} for name in policy.units]
    budget = ledger.left(policy) if ledger else Budget(0.0, 0.0, policy.max_epsilon)
    report |= {
        "delta": policy.delta,
        "epsilon_spent": budget.spent,
        "epsilon_with_reserved": budget.with_reserved,
        "epsilon_allowed": budget.max_epsilon,
        "epsilon_left": budget.left,
    }
    try:
        if held:
            policy.check_booked(*held)
    except OtherUnit as other:
        return report | {"epsilon_left": 0.0, "refused": str(other)}
    rounds = [r for r in made if r.purpose == "training"]
    if ledger and rounds:
        report["rounds_left"] = ledger.rounds_left(rounds[-1].events, policy, limit=10_000)
    return report


def _unit(unit: Unit, merchants_per_user: int) -> dict[str, str]:
    return {"name": named(unit, merchants_per_user), "words": unit_words(unit, merchants_per_user)}


def _words(report: dict[str, Any]) -> str:
    lines = [f"{report['ledger']}: nothing has been spent yet"]
    if "head" in report:
        lines = [f"{report['ledger']}: {report['records']} records, the chain holds", f"head  {report['head']}"]
    for unit in [report["unit"]] if report.get("unit") else report.get("units_allowed", []):
        lines.append(f"unit  {unit['name']}: {unit['words']}")
    if "epsilon_spent" in report:
        lines.append(
            f"epsilon at delta {report['delta']:g}: spent {report['epsilon_spent']:.4g}, with what is reserved "
            f"{report['epsilon_with_reserved']:.4g}, allowed {report['epsilon_allowed']:g}, "
            f"left {report['epsilon_left']:.4g}"
        )
    if "refused" in report:
        lines.append(f"refused: {report['refused']}")
    if "rounds_left" in report:
        lines.append(f"rounds like the last one that still fit: {report['rounds_left']}")
    releases = report.get("releases", [])
    for r in releases[-SHOWN:]:
        state = "spent" if r["spent"] else "reserved"
        # The platform chose the run's name: ascii() keeps control characters off the terminal.
        lines.append(f"  {r['number']:>6}  {r['purpose']:<10} round {r['round']:<4} {state:<8} {r['run']!a}")
    if len(releases) > SHOWN:
        lines.append(f"  and {len(releases) - SHOWN} before these; --json shows all")
    return "\n".join(lines)


def _anchor(text: str) -> Head:
    number, _, digest = text.partition(":")
    return Head(int(number), digest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hansa ledger",
        description="Show whose privacy was spent, how much is reserved and left, and verify the hash chain.",
        epilog="Keep the head that is printed somewhere else: with --anchor it finds a ledger that was cut back. "
        "Exit code 0: the chain holds, or nothing was spent yet. 1: it is broken. 2: there is nothing to read.",
    )
    parser.add_argument("path", type=Path, metavar="HOME|FILE", help="a merchant's home, or its ledger.jsonl")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--verify", action="store_true", help="check the chain alone, without adding up epsilon")
    parser.add_argument("--anchor", type=_anchor, metavar="NUMBER:HASH", help="a head that was kept elsewhere")
    parser.add_argument("--policy", type=Path, help="default: policy.toml beside the ledger")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
