# SPDX-License-Identifier: Apache-2.0
"""Attack our own training and hold what is found against its claims: `python -m simulation.audit_cli [--quick]`.

Sound training in both noise modes must stay under its claims; broken training must be refuted. Exit code 0: both
hold. 1: a claim is refuted (a bug in clipping, noise, sampling or accounting), or broken training got through
(the audit itself is blind). By chance alone a sound claim is refuted in at most 5 of 100 runs; try another --seed.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from models.recommendation import RecommendationTask
from privacy.audit import AuditResult
from privacy.plan import Mode, PrivacyPlan, PrivacyRequest, calibrate
from simulation.audit import NORM, InBatchNegatives, audit, coordinates

DELTA, RATE = 1e-5, 0.1


@dataclass(frozen=True, slots=True)
class Size:
    """How much work an audit is."""

    canaries: int
    rounds: int
    epsilons: tuple[float, ...]


FULL = Size(canaries=4_000, rounds=240, epsilons=(1.0, 3.0, 8.0))
QUICK = Size(canaries=2_000, rounds=60, epsilons=(2.0,))


@dataclass(frozen=True, slots=True)
class Case:
    """`done` is what the training really does, `claimed` what its epsilon is said to be."""

    name: str
    done: PrivacyPlan
    claimed: PrivacyPlan
    sound: bool
    task: type[RecommendationTask] = RecommendationTask


def main(argv: Sequence[str] | None = None) -> int:
    """Audit every case and print a table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m simulation.audit_cli",
        description="Attack the private training and compare with its claims.",
    )
    parser.add_argument("--quick", action="store_true", help="one claim per mode, fewer canaries and rounds")
    parser.add_argument("--seed", type=int, default=0, help="of the coins, draws and noise; default 0")
    arguments = parser.parse_args(argv)
    size = QUICK if arguments.quick else FULL
    _say(f"{size.canaries} canaries, {size.rounds} steps, q = {RATE:g}, delta = {DELTA:g}, confidence 0.95")
    _say(f"{'mode':12} {'training':28} {'claim':>7} {'at least':>9} {'right guesses':>15}  verdict")
    failures = 0
    for mode in (Mode.LOCAL, Mode.DISTRIBUTED):
        for case in cases(mode, size):
            result = audit(case.done, case.claimed, size.canaries, arguments.seed, case.task)
            good = result.refuted != case.sound
            failures += not good
            _say(_line(case, result, good))
    _say("the claims stand" if not failures else f"{failures} of these must not be")
    return int(failures > 0)


def cases(mode: Mode, size: Size) -> Iterator[Case]:
    """Sound training at each claim, and what is broken under the first."""
    plans = [_plan(mode, epsilon, size) for epsilon in size.epsilons]
    yield from (Case("sound", plan, plan, True) for plan in plans)
    claimed = plans[0]
    draft = replace(claimed, epsilon=float("inf"))
    little = claimed.noise_multiplier / 20
    yield Case("a twentieth of the noise", replace(draft, noise_multiplier=little), claimed, False)
    loud = replace(draft, clipping_norm=20 * NORM, noise_multiplier=little)
    yield Case("clipped at 20 times the norm", loud, claimed, False)
    yield Case("all users in every step", replace(draft, sampling_rate=1.0), claimed, False)
    yield Case("in-batch negatives", claimed, claimed, False, InBatchNegatives)


def _plan(mode: Mode, epsilon: float, size: Size) -> PrivacyPlan:
    request = PrivacyRequest(mode, epsilon, DELTA, size.rounds, 1, RATE, NORM)
    if mode is Mode.DISTRIBUTED:
        request = replace(request, cohort=4, dropouts=1, colluders=1, coordinates=coordinates(size.canaries))
    return calibrate(request)


def _line(case: Case, result: AuditResult, good: bool) -> str:
    verdict = "refuted" if result.refuted else "not refuted"
    expected = "" if good else ", WRONG"
    return (
        f"{case.done.mode:12} {case.name:28} {result.claim:7.3f} {result.lower_bound:9.3f} "
        f"{result.correct:7d} of {result.guesses:<5d} {verdict}{expected}"
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
