# SPDX-License-Identifier: Apache-2.0
"""Splitting by time, never at random: train, then validation weeks, then test weeks.

All ends are exclusive. The default (4 validation weeks, 8 test weeks) is the split of the study whose figures
the design quotes: on the Complete Journey it makes weeks 1–41, 42–45 and 46–53.

Guarantees:
- no event of the validation or test weeks is in the training part
- every event before the test end is in exactly one part
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from data.errors import PreparationError

__all__ = ["TimeSplit", "last_weeks", "split_by_time"]

VALID_WEEKS = 4
TEST_WEEKS = 8


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Exclusive ends in UTC: train before `train_end`, then valid, then test until `test_end`."""

    train_end: datetime
    valid_end: datetime
    test_end: datetime

    def __post_init__(self) -> None:
        for name in ("train_end", "valid_end", "test_end"):
            if getattr(self, name).tzinfo is None:
                raise ValueError(f"{name} has no time zone; give it in UTC")
        if not self.train_end < self.valid_end < self.test_end:
            raise ValueError(
                f"a split needs train_end < valid_end < test_end, found {self.train_end:%Y-%m-%d}, "
                f"{self.valid_end:%Y-%m-%d}, {self.test_end:%Y-%m-%d}"
            )


def last_weeks(events: pl.DataFrame, *, valid_weeks: int = VALID_WEEKS, test_weeks: int = TEST_WEEKS) -> TimeSplit:
    """The split whose test part is the last `test_weeks` weeks of `events`.

    The test part ends at the first full hour after the last event. Raises PreparationError when nothing would
    be left to train on.
    """
    first, last = events.select(first=pl.col("timestamp").min(), last=pl.col("timestamp").max()).row(0)
    if last is None:
        raise PreparationError("There are no events to split. Bring events of more weeks.")
    test_end = last.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    valid_end = test_end - timedelta(weeks=test_weeks)
    train_end = valid_end - timedelta(weeks=valid_weeks)
    if first >= train_end:
        held = (last - first).days / 7
        raise PreparationError(
            f"{valid_weeks} validation and {test_weeks} test weeks leave nothing to train on: the events "
            f"span {held:.1f} weeks. Bring older events or ask for fewer weeks."
        )
    return TimeSplit(train_end, valid_end, test_end)


def split_by_time(events: pl.DataFrame, split: TimeSplit) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The events of the train, validation and test parts; what lies at or after `test_end` is in none."""
    moment = pl.col("timestamp")
    train = events.filter(moment < split.train_end)
    valid = events.filter((moment >= split.train_end) & (moment < split.valid_end))
    test = events.filter((moment >= split.valid_end) & (moment < split.test_end))
    return train, valid, test
