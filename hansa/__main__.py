# SPDX-License-Identifier: Apache-2.0
"""Run a role of Hansa: puts the app's folder first on the path, as Flower does, and starts the role."""

import importlib
import runpy
import sys
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path

ROLES = {
    "simulate": ("simulate", "a whole league on one machine"),
    "merchant": ("client.cli", "a merchant's node: train on own data, enforce own policy"),
    "council": ("client.council_cli", "make and sign the roster of a league's secure aggregation"),
    "doctor": ("client.doctor", "check a merchant's data, keys, clock, disk and device before joining"),
    "ledger": ("privacy.cli", "show and verify a merchant's privacy ledger"),
    "release": ("releases.cli", "list, pull, activate, roll back and publish releases"),
    "serve": ("serving.__main__", "answer recommendation requests from the active release"),
}


def main() -> int:
    """Start the role that the command line names; returns its exit code."""
    here = Path(__file__).resolve().parent
    root = here / "_app" if (here / "_app").is_dir() else here.parent
    sys.path.insert(0, str(root))
    asked = sys.argv[1:2]
    if asked == ["--version"]:
        print(f"hansa {version('hansa')}")
        return 0
    if not asked or asked[0] not in ROLES:
        return _usage(asked)
    role = sys.argv.pop(1)
    sys.argv[0] = f"hansa {role}"
    if role == "simulate":  # Hydra looks for conf/ beside the script that runs, and reads the command line itself
        runpy.run_path(str(root / "simulate.py"), run_name="__main__")
        return 0
    return int(importlib.import_module(ROLES[role][0]).main(sys.argv[1:]))


def _usage(asked: list[str]) -> int:
    width = max(map(len, ROLES))
    print("usage: hansa ROLE [--help] | --version\n")
    print("\n".join(f"  {role:<{width}}  {ROLES[role][1]}" for role in ROLES))
    if asked in ([], ["--help"], ["-h"]):
        return 0
    near = get_close_matches(asked[0], ROLES, n=1)
    remedy = f"did you mean `hansa {near[0]}`?" if near else "choose one of those above"
    print(f"\nhansa: there is no role {asked[0]!r}: {remedy}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
