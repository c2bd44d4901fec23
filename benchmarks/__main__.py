# SPDX-License-Identifier: Apache-2.0
"""Run every benchmark one after the other: `python -m benchmarks [--quick]`."""

import subprocess
import sys

MODULES = (
    "round",
    "private_step",
    "secagg",
    "distributed_noise",
    "main_job",
    "league_memory",
    "quality",
    "utility",
    "local_parts",
)


def main() -> int:
    """Run them; the exit code counts the failures."""
    failures = 0
    for name in MODULES:
        print(f"== {name}", flush=True)
        failures += subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]]).returncode != 0
    return failures


if __name__ == "__main__":
    raise SystemExit(main())
