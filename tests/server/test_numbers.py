# SPDX-License-Identifier: Apache-2.0
"""Numbers of secure epochs and rounds, and the cohort that a run's folder asks for."""

from datetime import UTC, datetime

import pytest

from client.home import MerchantSettings, create_home
from privacy.errors import CalibrationError
from privacy.secagg.roster import SignedRoster
from server.cohorts import NUMBERS, ROSTERS, open_cohort, save_rosters
from server.errors import ServerError
from server.numbers import RisingNumbers
from simulation.rosters import write_rosters
from strategies.divided_cohort import DividedCohort
from strategies.plain_cohort import PlainCohort
from strategies.secure_cohort import SecureCohort
from tests.server.plans import OPEN, shared

ROSTER = bytes(32)


def test_a_number_is_on_disk_before_it_is_used_and_a_restarted_platform_goes_on_above_it(tmp_path):
    first = RisingNumbers(tmp_path, ROSTER)
    assert first.next_round() == 1
    assert first.next_epoch() == (1, 2)
    assert first.next_round() == 2
    again = RisingNumbers(tmp_path, ROSTER)
    assert again.next_epoch() == (2, 3)
    assert again.next_round() == 3


@pytest.mark.parametrize("damage", [b"", b"{", b'{"epoch": 1, "round": "2"}', b'{"epoch": 1, "other": 2}'])
def test_damaged_numbers_are_refused_and_never_begun_anew(tmp_path, damage):
    (tmp_path / f"{ROSTER.hex()}.json").write_bytes(damage)
    with pytest.raises(ServerError, match="above every one"):
        RisingNumbers(tmp_path, ROSTER).next_round()


def test_a_secure_run_without_a_roster_and_an_unknown_aggregation_are_refused(tmp_path):
    assert isinstance(open_cohort(tmp_path, "plain", "run", OPEN, 0.5), PlainCohort)
    with pytest.raises(ServerError, match=r"needs the league's roster"):
        open_cohort(tmp_path, "secure", "run", OPEN, 0.5)
    with pytest.raises(ServerError, match="choose plain or secure"):
        open_cohort(tmp_path, "blind", "run", OPEN, 0.5)


def homes_of(folder, *names):
    moments = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)
    for name in names:
        create_home(folder / name, MerchantSettings(name, "events.parquet", *moments, 8), "", bytes(32))
    return {name: folder / name for name in names}


def test_a_folder_with_several_rosters_has_a_divided_cohort_with_numbers_for_each(tmp_path):
    signed = write_rosters(homes_of(tmp_path, *"abcdefg"), "run", 0, most=4)
    cohort = opened(tmp_path / "run", signed)
    assert sorted(path.name for path in (tmp_path / "run" / ROSTERS).iterdir()) == ["001.bin", "002.bin"]
    assert isinstance(cohort, DividedCohort)
    assert [part.required for part in cohort.parts] == [3, 3]
    first, second = cohort.parts
    assert [first._numbers.next_round(), first._numbers.next_round(), second._numbers.next_round()] == [1, 2, 1]


def opened(folder, signed):
    folder.mkdir()
    save_rosters(folder, signed)
    return open_cohort(folder, "secure", "run", OPEN, 0.5)


def test_a_rosters_numbers_rise_over_run_folders_whatever_the_name_of_its_file(tmp_path):
    signed = write_rosters(homes_of(tmp_path, *"abcdefg"), "run", 0, most=4)
    first, second = opened(tmp_path / "count", signed).parts
    assert [first._numbers.next_round(), first._numbers.next_round(), second._numbers.next_round()] == [1, 2, 1]
    second, first = opened(tmp_path / "train", signed[::-1]).parts
    assert (first._numbers.next_epoch(), second._numbers.next_epoch()) == ((1, 3), (1, 2))
    alone = opened(tmp_path / "alone", signed[:1])
    assert alone._numbers.next_epoch() == (2, 3)
    digests = {part.roster for part in (first, second)}
    assert {path.stem for path in (tmp_path / NUMBERS).iterdir()} == digests


def test_a_merchant_in_two_rosters_is_refused_before_anybody_is_asked(tmp_path):
    signed = write_rosters(homes_of(tmp_path, *"abcdefg"), "run", 0, most=4)
    save_rosters(tmp_path, [*signed, signed[0]])
    with pytest.raises(ServerError, match=r"name [a-g] stands in two rosters; a merchant belongs to one"):
        open_cohort(tmp_path, "secure", "run", OPEN, 0.5)


def test_every_roster_must_promise_what_the_plan_counts_on(tmp_path):
    plan = shared(cohort=4, dropouts=1)
    save_rosters(tmp_path, write_rosters(homes_of(tmp_path, *"abcdefg"), "run", 0, plan.sharing, most=4))
    assert isinstance(open_cohort(tmp_path, "secure", "run", plan, 0.5), DividedCohort)
    with pytest.raises(CalibrationError, match="min_survivors >= 4"):
        open_cohort(tmp_path, "secure", "run", shared(cohort=4, dropouts=0), 0.5)


def test_a_roster_that_promises_less_than_the_plan_counts_on_is_refused_before_the_first_round(tmp_path):
    homes = homes_of(tmp_path, "a", "b", "c", "d")
    plan = shared(cohort=4, dropouts=0)
    save_rosters(tmp_path, write_rosters(homes, "run", 0, plan.sharing))
    assert isinstance(open_cohort(tmp_path, "secure", "run", plan, 0.5), SecureCohort)
    with pytest.raises(CalibrationError, match="the plan counts on a roster with at most 3 members"):
        open_cohort(tmp_path, "secure", "run", shared(cohort=3, dropouts=0), 0.5)


def test_a_damaged_or_unsafe_roster_is_refused_by_its_files_name(tmp_path):
    good, other = write_rosters(homes_of(tmp_path, *"abcdefg"), "run", 0, most=4)
    encoded = bytearray(SignedRoster.decode(good).encoded)
    encoded[3] += 1  # a version that nobody knows
    for number, damaged in enumerate((b"", other[:-1], SignedRoster(bytes(encoded)).encode())):
        with pytest.raises(ServerError, match=r"rosters/002\.bin: .*expected .*; lay down"):
            opened(tmp_path / f"run-{number}", [good, damaged])


def test_a_folder_with_one_roster_and_several_is_refused_as_nobody_knows_which_is_the_newest(tmp_path):
    homes = homes_of(tmp_path, *"abcdefg")
    save_rosters(tmp_path, write_rosters(homes, "run", 0, most=4))
    save_rosters(tmp_path, write_rosters(homes, "run", 0))
    with pytest.raises(ServerError, match=r"both roster\.bin and rosters"):
        open_cohort(tmp_path, "secure", "run", OPEN, 0.5)
