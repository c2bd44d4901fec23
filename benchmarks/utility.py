# SPDX-License-Identifier: Apache-2.0
"""What privacy costs in recommendations: by kind of noise and epsilon, beside no noise and beside no league.

    python -m benchmarks.utility [--quick]     --quick: one seed, one epsilon, two rounds, no plot

The main job's own code on the league that ships, test weeks, three seeds. Prints the table of docs/model.md and
draws docs/utility.svg; takes an hour on two cores, as every round with shared noise is a whole secure round.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.job import metric, run_job
from benchmarks.measure import Row, row, table, write

SEEDS = (0, 1, 2)
EPSILONS = (8.0, 3.0, 1.0)
ROUNDS = {("distributed", 8.0): ("privacy.rounds=120",)}  # with so little noise more rounds pay (docs/model.md)
NOISES = {"distributed": (), "local": ("cohort.aggregation=plain",)}
VIEWS, METRICS = ("novel", "all"), ("ndcg@10", "ndcg@20")
BASELINES = ("own_repeats", "item_knn_repeats")
ALONE = (
    *("compare.non_private=false", "compare.local_only=false", "compare.centralised=false"),
    *("compare.baselines=false", "serve=false"),
)
QUICK = ("rounds=2", "privacy.rounds=2", "model.centralised.steps_per_round=4")
PLOT = Path("docs/utility.svg")

Results = dict[str, Any]
Runs = dict[str, list[Results]]


def main() -> int:
    """Run, print, write and draw; what is known so far is written after every run."""
    quick = "--quick" in sys.argv
    runs: Runs = {}
    for name, overrides in _asked(quick):
        runs.setdefault(name, []).append(run_job(*overrides, *(QUICK if quick else ())).results)
        write("utility", _rows(runs))
    rows = _rows(runs)
    print(table(rows))
    print(_markdown(runs))
    if not quick:
        _draw(runs)
    return 0


def _asked(quick: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    for seed in SEEDS[:1] if quick else SEEDS:
        yield "none", ("experiment=open", "serve=false", "compare.centralised=false", f"seed={seed}")
        for noise, overrides in NOISES.items():
            for epsilon in EPSILONS[1:2] if quick else EPSILONS:
                asked = (f"privacy={noise}", f"privacy.epsilon={epsilon}", f"seed={seed}")
                yield f"{noise}, ε = {epsilon:g}", (*asked, *overrides, *ROUNDS.get((noise, epsilon), ()), *ALONE)


def _values(runs: Runs, name: str, view: str, figure: str) -> list[float]:
    """The figure of a run of ours, or of another method that the runs without noise measured, one a seed."""
    if name in runs:
        method = "federated" if name == "none" else "federated_private"
        return [metric(found, method, view, figure) for found in runs[name]]
    return [metric(found, name, view, figure) for found in runs["none"]]


def _names(runs: Runs) -> list[str]:
    known = {method["name"] for method in runs["none"][0]["methods"]}
    return [*runs, *(name for name in ("local_only", *BASELINES) if name in known)]


def _rows(runs: Runs) -> list[Row]:
    rows = []
    for name in _names(runs):
        for view in VIEWS:
            for figure in METRICS:
                values, peer = _values(runs, name, view, figure), _values(runs, "none", view, figure)
                rows.append(row(f"{figure} {view}: {name}", mean(values), figure, len(values), mean(peer), "none"))
    return rows


def _markdown(runs: Runs) -> str:
    lines = [
        "| | novel: NDCG@10 | novel: NDCG@20 | of no noise | all: NDCG@20 | of no noise |",
        "|---|---|---|---|---|---|",
    ]
    for name in _names(runs):
        ten, twenty, everything = (
            _values(runs, name, view, figure)
            for view, figure in (("novel", "ndcg@10"), ("novel", "ndcg@20"), ("all", "ndcg@20"))
        )
        shares = [
            mean(values) / mean(_values(runs, "none", view, "ndcg@20"))
            for values, view in ((twenty, "novel"), (everything, "all"))
        ]
        lines.append(
            f"| {name} | {_spread(ten)} | {_spread(twenty)} | {shares[0]:.1%} | {_spread(everything)} | "
            f"{shares[1]:.1%} |"
        )
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    deviation = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):.4f}{deviation}".replace("0.", ".")


def _draw(runs: Runs) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, view in zip(figure.subplots(1, 2), VIEWS, strict=True):
        _panel(axes, runs, view)
    figure.savefig(PLOT, metadata={"Date": None})


def _panel(axes: Axes, runs: Runs, view: str) -> None:
    places = range(len(EPSILONS))
    for noise, marker in (("distributed", "o"), ("local", "s")):
        seeds = [_values(runs, f"{noise}, ε = {epsilon:g}", view, "ndcg@20") for epsilon in reversed(EPSILONS)]
        spreads = [stdev(values) for values in seeds]
        axes.errorbar(places, [mean(values) for values in seeds], spreads, marker=marker, capsize=3, label=noise)
    for name, style in (("none", "-"), ("local_only", "--"), (BASELINES[view == "novel"], ":")):
        level = mean(_values(runs, name, view, "ndcg@20"))
        axes.axhline(level, linestyle=style, color="0.4", linewidth=1, label=name.replace("_", " "))
    axes.set_xticks(list(places), [f"ε = {epsilon:g}" for epsilon in reversed(EPSILONS)])
    axes.set_title(f"{view} items")
    axes.set_ylabel("NDCG@20, test weeks")
    axes.legend(fontsize="small", frameon=False)


if __name__ == "__main__":
    raise SystemExit(main())
