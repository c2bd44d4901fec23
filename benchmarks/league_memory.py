# SPDX-License-Identifier: Apache-2.0
"""Memory against the size of the league: the whole comparison over leagues of merchants of one size.

    python -m benchmarks.league_memory [--quick]     --quick: 10 and 20 merchants

Peaks of all processes together: `run_memory_N` from the first worker process to the end (training, comparison,
report), `whole_memory_N` with the reading of the league's source too, which is one table of all events.
`…_per_merchant` is the slope from the smallest league to the largest. No merchant shares a user with another: the
worst case, as what is kept is kept per person.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from benchmarks.job import run_job
from benchmarks.measure import Row, row, table, write

SIZES, QUICK_SIZES = (20, 40, 80, 160), (10, 20)
USERS, EVENTS, ITEMS, WEEKS = 60, 150, 2000, 26
SMALL = (
    *("data=files", "data.min_users=2", "serve=false", "engine.workers=2", "cohort.aggregation=plain"),
    *("privacy=local", "rounds=1", "privacy.rounds=1", "privacy.steps_per_round=1"),
    *("model.options.dimension=16", "model.options.negatives=32"),
    *("model.training.steps_per_round=1", "model.centralised.steps_per_round=2"),
)


def main() -> int:
    """Run a job for each size and print the rows."""
    rows = [each for size in (QUICK_SIZES if "--quick" in sys.argv else SIZES) for each in _measure(size)]
    for figure, first, last in (("run_memory", rows[0], rows[-2]), ("whole_memory", rows[1], rows[-1])):
        merchants = last.n - first.n
        rows.append(row(f"{figure}_per_merchant", (last.ours - first.ours) / merchants, "MiB", merchants))
    print(table(rows))
    write("league_memory", rows)
    return 0


def _measure(merchants: int) -> list[Row]:
    with TemporaryDirectory() as folder:
        events, catalogue = _write(Path(folder), merchants)
        found = run_job(*SMALL, f"data.events='{events}'", f"data.catalogue='{catalogue}'")
    return [
        row(f"run_memory_{merchants}", found.prepared_peak_mib, "MiB", merchants),
        row(f"whole_memory_{merchants}", found.peak_mib, "MiB", merchants),
    ]


def _write(folder: Path, merchants: int) -> tuple[Path, Path]:
    """Users of every merchant buy from one skewed catalogue, over half a year."""
    rng, n = np.random.default_rng(0), merchants * USERS * EVENTS
    user = np.arange(n) // EVENTS
    begin = int(datetime(2025, 1, 6, tzinfo=UTC).timestamp())
    frame = pl.DataFrame(
        {
            "merchant_id": user // USERS,
            "user_id": user,
            "item_id": rng.zipf(1.3, n) % ITEMS,
            "timestamp": begin + rng.integers(0, WEEKS * 7 * 86_400, n),
        }
    ).unique(maintain_order=True)
    named = frame.with_columns(
        pl.col("merchant_id", "user_id", "item_id").cast(pl.String),
        pl.from_epoch("timestamp").dt.replace_time_zone("UTC"),
        event=pl.lit("purchase"),
        quantity=1.0,
        price=2.0,
    )
    events, catalogue = folder / "events.parquet", folder / "catalogue.parquet"
    named.write_parquet(events)
    items = [str(item) for item in range(ITEMS)]
    shelves = [f"shelf {item // 50}" for item in range(ITEMS)]
    pl.DataFrame({"item_id": items, "name": items, "shelf": shelves}).write_parquet(catalogue)
    return events, catalogue


if __name__ == "__main__":
    raise SystemExit(main())
