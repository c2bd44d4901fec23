# SPDX-License-Identifier: Apache-2.0
"""A league beyond one roster, from files to rounds over masked sums with shared noise, through drop-outs."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from client.enrolment import open_pinned
from client.home import open_home
from data.catalogue import Vocabulary
from simulation.league import vocabulary_file
from simulation.nodes import home_path
from simulation.plans import PRIVATE
from tests.flow.test_secure_rounds import run, tiny

MERCHANTS, ITEMS, WEEKS = 261, 20, 14


def write(folder):
    """Two users a merchant; the last item is sold by four merchants alone."""
    rng = np.random.default_rng(5)
    begin = datetime(2025, 1, 6, 9, tzinfo=UTC)
    rows = []
    for merchant in range(MERCHANTS):
        for user in range(2):
            for week in range(WEEKS):
                when = begin + timedelta(weeks=week, days=int(rng.integers(6)), hours=int(rng.integers(10)))
                bought = [*rng.choice(ITEMS - 1, size=2, replace=False), *([ITEMS - 1] if merchant < 4 else [])]
                rows += [(f"shop-{merchant:03d}", f"u-{user}", f"item-{i:02d}", when.isoformat()) for i in bought]
    events = pl.DataFrame(rows, ["merchant_id", "user_id", "item_id", "timestamp"], orient="row")
    events.with_columns(event=pl.lit("purchase"), quantity=1.0, price=2.5).write_csv(folder / "events.csv")
    items = [f"item-{i:02d}" for i in range(ITEMS)]
    pl.DataFrame({"item_id": items, "name": items, "shelf": "one"}).write_csv(folder / "catalogue.csv")
    return folder


def pinned(run):
    """The rosters of a run, as their members' names."""
    homes = (open_home(home) for home in (run / "homes").glob("0*"))
    return {tuple(member.name for member in open_pinned(home).members) for home in homes}


@pytest.mark.slow
def test_a_league_of_261_merchants_trains_over_two_rosters_through_drop_outs(tmp_path):
    made = tiny(write(tmp_path), tmp_path / "made", "engine.workers=2")
    folder, _, merchants = made
    rosters = {}  # its number to homes

    def lose(number, count):
        for home in rosters[number][:count]:
            [stored] = (home / "secagg").glob("state-*.bin")
            stored.unlink()

    def spoil(federation):
        def observe(state):
            if state.round == 0:
                homes = [home_path(federation.nodes, merchant) for merchant in merchants.merchants]
                for home in homes:
                    rosters.setdefault(open_pinned(open_home(home)).digest, []).append(home)
            if state.round == 1:
                lose(min(rosters), 5)
                lose(max(rosters), 20)

        return observe

    final = run(made, tmp_path / "run", PRIVATE, "secure", workers=2, spoil=spoil, rounds=2)
    assert sorted(len(homes) for homes in rosters.values()) == [130, 131]
    whole, one = final.history
    assert (whole.survivors, whole.dropped) == (MERCHANTS, {})
    counted, trained = (pinned(each) for each in (folder / "runs" / "vocabulary", tmp_path / "run"))
    assert counted == trained
    left = len(rosters[min(rosters)]) - 5
    assert (one.survivors, len(one.dropped)) == (left, MERCHANTS - left)
    assert sum("set up anew" in why for why in one.dropped.values()) == 5 + 20
    assert sum("its roster's sum failed" in why for why in one.dropped.values()) == MERCHANTS - left - 25
    assert not any(record.failure for record in final.history)
    assert "item-19" not in Vocabulary.load(vocabulary_file(folder / "league")).item_ids
