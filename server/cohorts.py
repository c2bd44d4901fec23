# SPDX-License-Identifier: Apache-2.0
"""Which cohort a run has: `plain` adds answers in clear, `secure` opens masked sums alone.

A secure run's folder holds `roster.bin`, the signed roster that the merchants pinned, or, for a divided league, a
folder `rosters` with one such file for each. The numbers of epochs and rounds lie in `numbers`, beside the run's
folder, for each roster: they are its next run's too.
"""

from collections.abc import Sequence
from pathlib import Path

from privacy.integer_update import check_roster
from privacy.plan import PrivacyPlan
from privacy.secagg.errors import SecAggError
from privacy.secagg.roster import Roster, SignedRoster
from server.checkpoints import write_durably
from server.errors import ServerError
from server.numbers import RisingNumbers
from strategies.cohort import Cohort
from strategies.divided_cohort import DividedCohort
from strategies.plain_cohort import PlainCohort
from strategies.secure_cohort import SecureCohort

PLAIN, SECURE = "plain", "secure"
ROSTER, ROSTERS = "roster.bin", "rosters"
NUMBERS = "numbers"


def open_cohort(folder: Path, aggregation: str, run: str, plan: PrivacyPlan, min_survivors: float) -> Cohort:
    """The cohort of the run in `folder`; `min_survivors` counts in plain cohorts, the roster in secure ones.

    Raises:
        ServerError: the folder lacks what the aggregation needs, it is neither `plain` nor `secure`, a roster is
            unsafe or damaged, or a merchant stands in two.
        privacy.errors.CalibrationError: a roster promises less than the plan counts on.
    """
    if aggregation == PLAIN:
        return PlainCohort(min_survivors)
    if aggregation != SECURE:
        raise ServerError(f"cohort.aggregation={aggregation!r}; choose {PLAIN} or {SECURE}")
    rosters = _read_rosters(folder)
    if plan.sharing is not None:
        for roster in rosters.values():
            check_roster(plan, roster)
    _check_apart(list(rosters.values()))
    numbers = folder.resolve().parent / NUMBERS
    cohorts = [SecureCohort(roster, run, RisingNumbers(numbers, roster.digest)) for roster in rosters.values()]
    return cohorts[0] if list(rosters) == [folder / ROSTER] else DividedCohort(cohorts)


def save_rosters(folder: Path, signed: Sequence[bytes]) -> None:
    """Lay a league's signed rosters down as `open_cohort` reads them."""
    if len(signed) == 1:
        write_durably(folder / ROSTER, signed[0])
        return
    (folder / ROSTERS).mkdir(exist_ok=True)
    for number, data in enumerate(signed, start=1):
        write_durably(folder / ROSTERS / f"{number:03d}.bin", data)


def _read_rosters(folder: Path) -> dict[Path, Roster]:
    files = sorted((folder / ROSTERS).glob("*.bin"))
    if files and (folder / ROSTER).exists():
        raise ServerError(f"{folder} holds both {ROSTER} and {ROSTERS}/: keep the league's newest alone")
    files = files or [folder / ROSTER]
    return {file: _read_roster(file) for file in files}


def _read_roster(file: Path) -> Roster:
    try:
        return SignedRoster.decode(file.read_bytes()).roster()
    except FileNotFoundError:
        raise ServerError(f"{file}: a secure run needs the league's roster; prepare the run again") from None
    except SecAggError as unfit:
        raise ServerError(f"{file}: {unfit}; lay down the roster that the council signed") from None


def _check_apart(rosters: Sequence[Roster]) -> None:
    """Nobody is in two sums: a second one would show it under less company, and spend its budget twice."""
    members = [member for roster in rosters for member in roster.members]
    for what, values in (("name", [m.name for m in members]), ("key", [m.key.hex() for m in members])):
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ServerError(f"{what} {twice[0]} stands in two rosters; a merchant belongs to one: divide again")
