# SPDX-License-Identifier: Apache-2.0
"""The demo's price: wall time (after set-up), peak memory of all processes, federated over centralised quality.

python -m benchmarks.main_job [--quick]     --quick: two rounds each, so its quality rows mean little
"""

import sys

from benchmarks.job import metric, run_job
from benchmarks.measure import row, table, write

QUICK = (
    *("rounds=1", "privacy.rounds=1", "compare.baselines=false", "compare.local_only=false"),
    *("model.centralised.steps_per_round=4", "privacy.steps_per_round=1"),
)


def main() -> int:
    """Run the demo once and print its rows."""
    run = run_job(*(QUICK if "--quick" in sys.argv else ()))
    rows = [row("demo_wall", run.wall_s, "s", 1), row("demo_peak_memory", run.peak_mib, "MiB", 1)]
    for view in ("novel", "all"):
        ours, peer = metric(run.results, "federated", view), metric(run.results, "centralised", view)
        rows.append(row(f"federated_over_centralised_ndcg10_{view}", ours, "ndcg@10", 1, peer, "centralised"))
    print(table(rows))
    write("main_job", rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
