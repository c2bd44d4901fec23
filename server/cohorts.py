# SPDX-License-Identifier: Apache-2.0
"""Which cohort a run has: `plain` adds answers in clear, `secure` opens masked sums alone.

A secure run's folder holds `roster.bin`, the signed roster that the merchants pinned; the platform keeps the
numbers of epochs and rounds beside its checkpoints.
"""

from pathlib import Path

from privacy.integer_update import check_roster
from privacy.plan import PrivacyPlan
from privacy.secagg.roster import SignedRoster
from server.errors import ServerError
from server.numbers import RisingNumbers
from strategies.cohort import Cohort
from strategies.plain_cohort import PlainCohort
from strategies.secure_cohort import SecureCohort

PLAIN, SECURE = "plain", "secure"
ROSTER = "roster.bin"


def open_cohort(folder: Path, aggregation: str, run: str, plan: PrivacyPlan, min_survivors: float) -> Cohort:
    """The cohort of the run in `folder`; `min_survivors` counts in plain cohorts, the roster in secure ones.

    Raises:
        ServerError: the folder lacks what the aggregation needs, or it is neither `plain` nor `secure`.
        privacy.errors.PrivacyError: the roster is unsafe or damaged, or promises less than the plan counts on.
    """
    if aggregation == PLAIN:
        return PlainCohort(min_survivors)
    if aggregation != SECURE:
        raise ServerError(f"cohort.aggregation={aggregation!r}; choose {PLAIN} or {SECURE}")
    try:
        roster = SignedRoster.decode((folder / ROSTER).read_bytes()).roster()
    except FileNotFoundError:
        raise ServerError(
            f"{folder / ROSTER}: a secure run needs the league's roster; prepare the run again"
        ) from None
    if plan.sharing is not None:
        check_roster(plan, roster)
    return SecureCohort(roster, run, RisingNumbers(folder / "checkpoints"))
