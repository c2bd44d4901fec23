# SPDX-License-Identifier: Apache-2.0
"""Attack our own training and hold what is found against what is claimed: `python -m privacy.audit_cli [--quick]`.

Sound mechanisms of both noise modes must stay under their claims; broken ones must be refuted. Exit code 0: both
hold. 1: a claim is refuted (a bug in clipping, noise, sampling or accounting), or a broken mechanism got through
(the audit itself is blind). By chance alone a sound claim is refuted in at most 5 of 100 runs; try another --seed.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from privacy.audit import AuditResult, Release, audit, distributed_release, training_release
from privacy.noise import NoiseSource
from privacy.plan import PrivacyPlan, PrivacyRequest, calibrate

MakeRelease = Callable[[PrivacyPlan, int, NoiseSource], Release]
RELEASES: dict[str, MakeRelease] = {"local": training_release, "distributed": distributed_release}
DELTA, RATE, NORM = 1e-5, 0.1, 0.7


@dataclass(frozen=True, slots=True)
class Size:
    """How much work an audit is."""

    canaries: int
    rounds: int
    epsilons: tuple[float, ...]


FULL = Size(canaries=10_000, rounds=240, epsilons=(1.0, 3.0, 8.0))
QUICK = Size(canaries=1_000, rounds=30, epsilons=(2.0,))


@dataclass(frozen=True, slots=True)
class Case:
    """`done` is what the training really does, `claimed` what its epsilon is said to be."""

    name: str
    done: PrivacyPlan
    claimed: PrivacyPlan
    sound: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Audit every case and print a table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m privacy.audit_cli", description="Attack the private training and compare with its claims."
    )
    parser.add_argument("--quick", action="store_true", help="one claim per mode, fewer canaries and rounds")
    parser.add_argument("--seed", type=int, default=0, help="of the coins, draws and noise; default 0")
    arguments = parser.parse_args(argv)
    size = QUICK if arguments.quick else FULL
    _say(f"{size.canaries} canaries, {size.rounds} steps, q = {RATE:g}, delta = {DELTA:g}, confidence 0.95")
    _say(f"{'mode':12} {'mechanism':28} {'claim':>7} {'at least':>9} {'right guesses':>15}  verdict")
    failures = 0
    for case in _cases(size):
        result = _audit(case, size.canaries, arguments.seed)
        good = result.refuted != case.sound
        failures += not good
        _say(_line(case, result, good))
    _say("the claims stand" if not failures else f"{failures} of these must not be")
    return int(failures > 0)


def _cases(size: Size) -> Iterator[Case]:
    for mode in RELEASES:
        plans = [_plan(mode, epsilon, size) for epsilon in size.epsilons]
        yield from (Case("sound", plan, plan, True) for plan in plans)
        claimed = plans[0]
        draft = replace(claimed, epsilon=float("inf"))
        little = claimed.noise_multiplier / 20
        yield Case("a twentieth of the noise", replace(draft, noise_multiplier=little), claimed, False)
        loud = replace(draft, clipping_norm=20 * NORM, noise_multiplier=little)
        yield Case("clipped at 20 times the norm", loud, claimed, False)
        yield Case("all users in every step", replace(draft, sampling_rate=1.0), claimed, False)


def _plan(mode: str, epsilon: float, size: Size) -> PrivacyPlan:
    request = PrivacyRequest(mode, epsilon, DELTA, size.rounds, 1, RATE, NORM)
    if mode == "distributed":
        request = replace(request, cohort=10, dropouts=2, colluders=2, coordinates=size.canaries)
    return calibrate(request)


def _audit(case: Case, canaries: int, seed: int) -> AuditResult:
    source = NoiseSource.from_seed(seed, case.name, str(case.done.mode), str(case.claimed.epsilon))
    release = RELEASES[case.done.mode](case.done, canaries, source)
    found = audit(case.done, release, canaries, np.random.default_rng(seed))
    return replace(found, claim=case.claimed.epsilon)


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
