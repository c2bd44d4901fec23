# SPDX-License-Identifier: Apache-2.0
"""Run a role of Hansa: puts the app's folder first on the path, as Flower does, and starts the role."""

import importlib
import sys
from pathlib import Path

ROLES = {
    "simulate": ("simulate", "a whole league on one machine"),
    "merchant": ("client.cli", "a merchant's node: train on own data, enforce own policy"),
    "serve": ("serving.__main__", "answer recommendation requests from the active release"),
    "doctor": ("client.doctor", "check a merchant's data, clock, disk and device before joining"),
    "ledger": ("privacy.cli", "show and verify a merchant's privacy ledger"),
    "release": ("releases.cli", "list, pull, activate, roll back and publish releases"),
}


def main() -> int:
    here = Path(__file__).resolve().parent
    sys.path.insert(0, str(here / "_app" if (here / "_app").is_dir() else here.parent))
    if len(sys.argv) < 2 or sys.argv[1] not in ROLES:
        width = max(map(len, ROLES))
        print("usage: hansa ROLE [--help]\n\n" + "\n".join(f"  {r:<{width}}  {ROLES[r][1]}" for r in ROLES))
        return 0 if sys.argv[1:2] in ([], ["--help"], ["-h"]) else 2
    role = sys.argv.pop(1)
    sys.argv[0] = f"hansa {role}"
    return int(importlib.import_module(ROLES[role][0]).main() or 0)


if __name__ == "__main__":
    raise SystemExit(main())
