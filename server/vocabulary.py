# SPDX-License-Identifier: Apache-2.0
"""The platform's question before a league's first round: which items of the catalogue do enough merchants carry?

The server knows items by their number in the catalogue alone: `shared.json` is what a vocabulary is cut out with.

Guarantees:
- Over a secure cohort the platform learns how many merchants carry an item, never which.
- In a divided league enough merchants of every roster carry what is shared: each roster's sums are seen alone.
"""

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from flwr.serverapp import Grid

from privacy.secagg.vocabulary import CARRIED, QUESTION, shared
from server.checkpoints import write_durably
from server.errors import ServerError
from server.gate import ask_sum
from server.rounds import gather
from server.run import RunSettings
from strategies.cohort import Cohort, Expected
from strategies.divided_cohort import DividedCohort
from strategies.secure_cohort import SecureCohort

SHARED = "shared.json"
Positive = Annotated[int, msgspec.Meta(ge=1)]


class Count(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is counted: how many of the `candidates` items are carried by at least `carriers` merchants."""

    candidates: Positive
    carriers: Positive


class Shared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`shared.json`: which items, numbered from 1 as in the catalogue of that digest, enough merchants carry.

    `roster`: of a roster's part, its digest.
    """

    catalogue: str
    carriers: int
    items: list[int]
    roster: str = ""


def count_vocabulary(grid: Grid, cohort: Cohort, settings: RunSettings, count: Count, folder: Path) -> None:
    """Count once and write `shared.json` into `folder`; what stands there already is not asked again.

    Each roster's part is on disk before the next one is asked: it can be asked again of the same survivors alone.

    Raises:
        ServerError: the league did not gather, or the folder holds the count of another catalogue or roster.
        CohortFailed, ValueRefused: as `ask_vocabulary`; what was counted by then is kept.
    """
    parts: tuple[Cohort, ...] = cohort.parts if isinstance(cohort, DividedCohort) else (cohort,)
    items = set(range(1, count.candidates + 1))
    for number, part in enumerate(parts, start=1):
        file = folder / f"shared-{number:03d}.json"
        if not file.exists():
            _write(file, _counted(grid, part, settings, count))
        found = _read(file)
        if (found.catalogue, found.carriers, found.roster) != (settings.vocabulary, count.carriers, _over(part)):
            raise ServerError(
                f"{file} counts another catalogue, another roster or with another m; give this count a folder of "
                "its own"
            )
        items &= set(found.items)
    _write(folder / SHARED, Shared(settings.vocabulary, count.carriers, sorted(items)))


def read_shared(folder: Path) -> Shared:
    """What a count wrote; raises ServerError."""
    return _read(folder / SHARED)


def _counted(grid: Grid, cohort: Cohort, settings: RunSettings, count: Count) -> Shared:
    rounds = settings.rounds
    gather(grid, rounds.min_merchants, rounds.gather_timeout_s)
    kept = ask_vocabulary(
        grid, cohort, count.candidates, settings.proposal(), count.carriers, rounds.round_timeout_s
    )
    return Shared(settings.vocabulary, count.carriers, (np.flatnonzero(kept) + 1).tolist(), _over(cohort))


def _over(cohort: Cohort) -> str:
    return cohort.roster if isinstance(cohort, SecureCohort) else ""


def _write(file: Path, shared: Shared) -> None:
    write_durably(file, msgspec.json.encode(shared))


def _read(file: Path) -> Shared:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Shared)
    except FileNotFoundError:
        raise ServerError(f"{file}: nothing was counted here") from None
    except msgspec.MsgspecError as broken:
        raise ServerError(f"{file}: {broken}") from None


def ask_vocabulary(
    grid: Grid, cohort: Cohort, candidates: int, proposal: dict[str, str | int], carriers: int, timeout_s: float
) -> npt.NDArray[np.bool_]:
    """Which of the candidates at least `carriers` merchants carry, bool [candidates].

    `proposal` is a run's, with the candidates' digest as its vocabulary.

    Raises:
        CohortFailed: too few merchants answered; nothing was opened.
        privacy.secagg.errors.ValueRefused: fewer merchants than `carriers` answered, or a count that can't be.
    """
    asked = proposal | {"server-round": 0}
    expected = Expected({CARRIED: (candidates,)}, {}, max_weight=1)
    total = ask_sum(grid, cohort, QUESTION, {}, asked, expected, timeout_s)
    counts = np.rint(total.mean[CARRIED].astype(np.float64) * total.weight).astype(np.int64)
    return shared(counts, total.survivors, carriers)
