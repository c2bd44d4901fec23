# SPDX-License-Identifier: Apache-2.0
"""Numbers of secure epochs and rounds, and the cohort that a run's folder asks for."""

import pytest

from server.cohorts import open_cohort
from server.errors import ServerError
from server.numbers import NUMBERS, RisingNumbers
from strategies.cohort import PlainCohort


def test_a_number_is_on_disk_before_it_is_used_and_a_restarted_platform_goes_on_above_it(tmp_path):
    first = RisingNumbers(tmp_path)
    assert first.next_round() == 1
    assert first.next_epoch() == (1, 2)
    assert first.next_round() == 2
    again = RisingNumbers(tmp_path)
    assert again.next_epoch() == (2, 3)
    assert again.next_round() == 3


@pytest.mark.parametrize("damage", [b"", b"{", b'{"epoch": 1, "round": "2"}', b'{"epoch": 1, "other": 2}'])
def test_damaged_numbers_are_refused_and_never_begun_anew(tmp_path, damage):
    (tmp_path / NUMBERS).write_bytes(damage)
    with pytest.raises(ServerError, match="above every one"):
        RisingNumbers(tmp_path).next_round()


def test_a_secure_run_without_a_roster_and_an_unknown_aggregation_are_refused(tmp_path):
    assert isinstance(open_cohort(tmp_path, "plain", "run", 0.5), PlainCohort)
    with pytest.raises(ServerError, match=r"needs the league's roster"):
        open_cohort(tmp_path, "secure", "run", 0.5)
    with pytest.raises(ServerError, match="choose plain or secure"):
        open_cohort(tmp_path, "blind", "run", 0.5)
