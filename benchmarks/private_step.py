# SPDX-License-Identifier: Apache-2.0
"""What a private training step costs beside an ordinary one, and beside Opacus: time and peak memory.

    python -m benchmarks.private_step [--quick] [--plot]   --plot: also 10,000 to 1,000,000 items, and the plot

Every way to do the step runs in a process of its own, so that its peak memory is its own, on one thread; the
processes take turns, so that a busy moment hits all of them. Seconds are the processor's, which on one thread and
an idle machine are the clock's, and on a busy one leave out who else ran. Ratios are medians over turns. --quick:
one size, each of Opacus's two slowest ways once.
"""

import argparse
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from statistics import median

from benchmarks.measure import Row, alternate, paired_ratio, row, spread, table, write
from benchmarks.private_step_cost import LINES, SIZES, cost_rows, draw

FAST = ("ours", "ours_fast_noise", "dense", "sparse")
SLOW = ("opacus_ghost", "opacus_hooks", "opacus_functorch")
PEERS = {
    "dense": "non-private dense",
    "sparse": "non-private sparse",
    "opacus_ghost": "ghost",
    "opacus_hooks": "opacus hooks",
    "opacus_functorch": "functorch",
}


class Variant:
    """A process that does one step whenever it is asked to."""

    def __init__(self, name: str, items: int, users: int, encoder: str) -> None:
        command = [sys.executable, "-m", "benchmarks.private_step_variants", name, str(items), str(users), encoder]
        self.peak_mib = 0.0
        self.ready = False
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def wait(self) -> None:
        """Until libraries are loaded and the model is built."""
        assert self.process.stdout
        self.ready = self.ready or self.process.stdout.readline() == "ready\n"

    def step(self) -> float:
        """Seconds of one more step; raises RuntimeError when the process is gone (out of memory?)."""
        self.wait()
        assert self.process.stdin
        assert self.process.stdout
        print(file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().split()
        if not answer:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        self.peak_mib = float(answer[1])
        return float(answer[0])


@contextmanager
def variant(name: str, items: int, users: int, encoder: str) -> Iterator[Variant]:
    held = Variant(name, items, users, encoder)
    try:
        yield held
    finally:
        held.process.kill()
        held.process.communicate()


def measure(
    items: int, users: int, encoder: str, turns: int, slow_turns: int, until_s: float, give_up_s: float
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each way by turns, and each way's peak memory in MiB."""
    size = (items, users, encoder)
    with ExitStack() as stack:
        held = {name: stack.enter_context(variant(name, *size)) for name in FAST}
        slows = {name: stack.enter_context(variant(name, *size)) for name in SLOW if slow_turns}
        for each in (*held.values(), *slows.values()):
            each.wait()
        for each in (*held.values(), *held.values()):
            each.step()  # the first steps allocate, check the graph and start libraries
        seconds = alternate({name: each.step for name, each in held.items()}, turns, least=4, until_s=until_s)
        for name, slow in slows.items():
            if time.monotonic() > give_up_s:
                print(f"skipped for lack of time on a machine under load {os.getloadavg()[0]:.1f}: {name}")
                continue
            if slow_turns > 1 or name == "opacus_ghost":
                slow.step()
            pair = {"ours": held["ours"].step, name: slow.step}
            taken = alternate(pair, slow_turns if name != "opacus_ghost" else max(3, slow_turns))
            seconds[name], seconds[f"ours beside {name}"] = taken[name], taken["ours"]
            held[name] = slow
            slow.process.kill()  # it took gigabytes
        return seconds, {name: each.peak_mib for name, each in held.items()}


def measure_cost(turns: int) -> list[Row]:
    """Seconds of a step with 128 users for every size of the plot."""
    rows = []
    for items in SIZES:
        with ExitStack() as stack:
            held = {name: stack.enter_context(variant(name, items, 128, "transformer")) for name in LINES}
            for each in (*held.values(), *held.values()):
                each.step()
            rows += cost_rows(items, alternate({name: each.step for name, each in held.items()}, turns))
        print(f"measured {items} items", flush=True)
    return rows


def rows_of(label: str, seconds: Mapping[str, list[float]], peak_mib: Mapping[str, float]) -> list[Row]:
    """The step's and the memory's rows for one size, against each peer."""
    rows = []
    for name, shown in PEERS.items():
        if name not in seconds:
            continue
        for figure, own in (("step", "ours"), ("step_fast_noise", "ours_fast_noise")):
            if figure != "step" and name in SLOW:
                continue
            mine = seconds.get(f"ours beside {name}", seconds[own])
            made = row(f"{figure}_{label}", median(mine), "s", len(seconds[name]), median(seconds[name]), shown)
            ratio = paired_ratio(mine, seconds[name])
            rows.append(Row(**{f: getattr(made, f) for f in Row.__slots__} | {"ratio": ratio}))
        rows.append(row(f"peak_memory_{label}", peak_mib["ours"], "MiB", 1, peak_mib[name], shown))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="one size, within 50 seconds")
    parser.add_argument("--plot", action="store_true", help="also measure up to 1,000,000 items and draw the cost")
    arguments = parser.parse_args()
    quick = arguments.quick
    warnings.simplefilter("ignore")
    begin, rows = time.monotonic(), []
    sizes = [(70_000, 128, "transformer", 1)]
    if not quick:
        sizes += [
            (30_000, 128, "transformer", 1),
            (30_000, 256, "transformer", 0),
            (70_000, 256, "transformer", 0),
        ]
        sizes += [(v, 128, "mean", 0) for v in (30_000, 70_000)]
    for items, users, encoder, slow_turns in sizes:
        turns, until_s, give_up_s = (12, begin + 20, begin + 35) if quick else (24, float("inf"), float("inf"))
        slow_turns *= 1 if quick else 3
        seconds, peak_mib = measure(items, users, encoder, turns, slow_turns, until_s, give_up_s)
        label = f"v{items // 1000}k_b{users}" + ("" if encoder == "transformer" else f"_{encoder}")
        for name, taken in seconds.items():
            print(f"{label}  {name:32} {spread(taken)}", flush=True)
        rows += rows_of(label, seconds, peak_mib)
    if arguments.plot:
        cost = measure_cost(12)
        draw(cost)
        rows += cost
    print(table(rows))
    print(f"wrote {write('private_step', rows)} after {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
