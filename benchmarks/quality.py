# SPDX-License-Identifier: Apache-2.0
"""What the league is worth: every method on both views over several seeds (its price: `benchmarks.utility`).

    python -m benchmarks.quality [--quick]     --quick: one seed, two rounds

`uplift_novel_smallest_third` is the relative gain in ndcg@10 (novel items) of federated over local-only at the
third of the merchants with the fewest users; `merchants_worse_off` counts merchants whose own local-only model is
better there. Means over seeds; the spread over seeds stands in rows of its own.
"""

import sys
from statistics import mean, stdev
from typing import Any

from benchmarks.job import metric, run_job
from benchmarks.measure import Row, row, table, write

SEEDS = (0, 1, 2)
VIEWS = ("novel", "all")
QUICK = ("rounds=1", "model.centralised.steps_per_round=4", "model.training.steps_per_round=2")
Results = dict[str, Any]


def main() -> int:
    """Run the leagues and print the rows."""
    quick = "--quick" in sys.argv
    seeds = SEEDS[:1] if quick else SEEDS
    found = [
        run_job("experiment=open", "serve=false", f"seed={s}", *(QUICK if quick else ())).results for s in seeds
    ]
    rows = [*_methods(found), *_uplift(found)]
    print(table(rows))
    write("quality", rows)
    return 0


def _methods(found: list[Results]) -> list[Row]:
    rows = []
    for name in [method["name"] for method in found[0]["methods"]]:
        for view in VIEWS:
            rows += _seeds(f"ndcg10_{view}: {name}", [metric(one, name, view) for one in found], found, view)
    return rows


def _seeds(figure: str, values: list[float], found: list[Results], view: str) -> list[Row]:
    best = max(
        mean(metric(one, method["name"], view) for one in found)
        for method in found[0]["methods"]
        if method["kind"] == "baseline"
    )
    rows = [row(figure, mean(values), "ndcg@10", len(values), best, "best baseline")]
    if len(values) > 1:
        rows.append(row(f"{figure}, deviation over seeds", stdev(values), "ndcg@10", len(values)))
    return rows


def _uplift(found: list[Results]) -> list[Row]:
    smallest, worse = [], []
    for one in found:
        part = next(u for u in one["uplift"] if u["view"] == "novel" and u["method"] == "federated")
        merchants = sorted(part["merchants"], key=lambda m: (m["users"], m["merchant"]))
        third = merchants[: len(merchants) // 3]
        smallest.append(mean(m["federated"] for m in third) / mean(m["local_only"] for m in third) - 1)
        worse.append(float(sum(m["difference"] < 0 for m in merchants)))
    return [
        row("uplift_novel_smallest_third", mean(smallest), "ratio", len(found)),
        row("merchants_worse_off", mean(worse), "count", len(found)),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
