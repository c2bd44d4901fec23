# SPDX-License-Identifier: Apache-2.0
"""The main job from end to end: prepare, train privately, compare, publish, verify, serve, report."""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from client.errors import ClientError
from data.errors import DataError
from models.errors import ModelError
from privacy.errors import PrivacyError
from privacy.plan import PrivacyPlan, Unit
from releases.errors import ReleaseError
from server.checkpoints import Checkpoint, model_hash
from server.errors import ServerError
from simulation.comparison import Comparison, compare
from simulation.config import Config
from simulation.federation import FederatedRun, Federation, federate
from simulation.finish import NOT_ASKED_FOR, UNFINISHED, Release, release, serve
from simulation.flower_runtime import run_on_flower
from simulation.league import PreparedLeague, open_league, prepare
from simulation.metrics_log import MetricsLog
from simulation.nodes import nodes
from simulation.outputs import RESULTS, config_hash, finish, run_folder, write_json
from simulation.plans import SettingsError, check_league, check_settings, federations, workers
from simulation.pool import Executor, executor
from simulation.progress import Display, Stage
from simulation.references import ReferenceFailed, mean_ndcg
from simulation.report import write_report
from simulation.research import VALID
from simulation.results import FORMAT, league_part, privacy_part, round_rows
from simulation.rounding import scientific, up
from simulation.shop_front import ServingFailed
from simulation.summary import summary
from simulation.tables import print_tables
from simulation.verdicts import verdicts
from simulation.vocabulary import agreed
from strategies.errors import StrategyError

DONE, FAILED, WRONG_INPUT = 0, 1, 2
REFUSED = (SettingsError, DataError, ModelError, PrivacyError)
CURVE_POINTS = 4
CURVE = "ndcg@10_novel_valid"


@dataclass(slots=True)
class Timings:
    """Wall seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 3)


def run_job(config: Config, console: Console) -> int:
    """Run the job; one line says why it failed. Returns the exit code."""
    display = Display(console)
    try:
        _run(config, display)
    except REFUSED as wrong:
        display.fail("hansa:", str(wrong))
        return WRONG_INPUT
    except (ClientError, OSError, ReferenceFailed, ReleaseError, ServerError, ServingFailed, StrategyError) as why:
        display.fail("hansa: the run failed:", str(why))
        return FAILED
    return DONE


def _run(config: Config, display: Display) -> None:
    check_settings(config)
    folder, resumed = run_folder(config, datetime.now(UTC))
    timings = Timings()
    try:
        league, planned = _accepted(config, folder, timings)
    except REFUSED:
        if not resumed:  # nothing was trained: what is refused leaves nothing behind
            shutil.rmtree(folder)
        raise
    display.say(f"{'going on in' if resumed else 'writing to'} {folder}")
    small = f"; {league.skipped} left out, under {config.data.min_users} users" if league.skipped else ""
    display.say(
        f"{league.name}: {len(league.merchants)} merchants, {league.items:,} items, "
        f"{sum(merchant.events for merchant in league.merchants):,} events{small}"
    )
    for federation in planned.values():
        _forecast(federation.settings.plan, display)
    runs: dict[str, FederatedRun] = {}
    with MetricsLog(folder) as log:
        for name, federation in planned.items():
            with timings.of(name):
                runs[name] = _federated(config, name, federation, league, display, log)
    with timings.of("compare"):
        comparison = compare(config, folder, league, runs, display)

    def report(released: Release, example: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write all that is known by now: what fails later takes no figures with it."""
        known = _results(config, league, runs, comparison, released, example, timings)
        write_report(known, folder / "report.html")
        write_json(folder / RESULTS, known)
        return known

    results = report(UNFINISHED if config.serve else NOT_ASKED_FOR)
    if config.serve:
        asked = runs[next(iter(planned))]
        with timings.of("release"):
            released = release(config, folder, league, asked, comparison, display, resumed=resumed)
        results = report(released)
        if released.repository is not None:
            with timings.of("serve"):
                example = serve(league, asked, released.repository, display)
            results = report(released, example)
    finish(folder)
    for sentence in results["summary"]:
        display.say(f"• {sentence}")
    print_tables(results, display.console)
    display.say(f"every comparison in words: {folder / 'report.html'}    arrays: {results['model_hash'][:16]}")


def _accepted(config: Config, folder: Path, timings: Timings) -> tuple[PreparedLeague, dict[str, Federation]]:
    """The league and what is to be trained on it, once settings and data are found sound."""
    with timings.of("prepare"):
        league = _league(config, folder)
        check_league(config, league)
    with timings.of("vocabulary"):
        league = agreed(config, folder, league)
        return league, federations(config, folder, league)


def _league(config: Config, folder: Path) -> PreparedLeague:
    path = folder / "league"
    if (path / "league.json").exists():
        return open_league(path)
    return prepare(config.data, path, home_users=config.privacy.unit == Unit.HOME_USER)


def _federated(
    config: Config, name: str, federation: Federation, league: PreparedLeague, display: Display, log: MetricsLog
) -> FederatedRun:
    rounds, plan = federation.settings.rounds.rounds, federation.settings.plan
    title = "private" if plan.private else "without privacy"
    pool = executor(nodes(federation.nodes), workers(config))
    try:
        with display.stage(title, rounds) as stage:
            curve = log.series(name, CURVE)
            observe = _observer(name, federation, league, pool, curve, stage, log)
            if config.engine.name == "ray":
                final = run_on_flower(federation, league, workers(config), observe)
            else:
                final = federate(federation, league, pool, observe)
    finally:
        pool.close()
    return FederatedRun(federation, final, curve)


def _observer(
    name: str,
    federation: Federation,
    league: PreparedLeague,
    pool: Executor,
    curve: dict[int, float],
    stage: Stage,
    log: MetricsLog,
) -> Callable[[Checkpoint], None]:
    rounds, plan = federation.settings.rounds.rounds, federation.settings.plan
    every = max(1, rounds // CURVE_POINTS)

    def observe(state: Checkpoint) -> None:
        measured = state.round % every == 0 or state.round == rounds
        if measured and not log.logged(name, state.round):
            score = mean_ndcg(pool, league.names, state.model, VALID)
            if math.isfinite(score):
                curve[state.round] = score
        values = {CURVE: curve[state.round]} if state.round in curve else {}
        if plan.private:
            values["epsilon"] = plan.epsilon_after(state.round)
        if state.round:
            record = state.history[-1]
            values |= {"survivors": record.survivors, "dropped": len(record.dropped), "wall_s": record.wall_s}
            values |= {f"sum_{key}": value for key, value in record.statistics.items()}
        log.round(name, state.round, values)
        if state.round:
            stage.advance(_detail(state, curve, plan.epsilon_after(state.round) if plan.private else None))

    return observe


def _forecast(plan: PrivacyPlan, display: Display) -> None:
    """What a private run will cost, said before it begins."""
    if plan.private:
        display.say(
            f"planned is to spend at most ε = {up(plan.epsilon, 3)} at δ = {scientific(plan.delta)} over "
            f"{plan.rounds} rounds (unit {plan.unit}, {plan.mode} noise)"
        )


def _detail(state: Checkpoint, curve: dict[int, float], epsilon: float | None) -> str:
    record = state.history[-1]
    parts = [f"{record.survivors} merchants"]
    if record.failure:
        parts = [f"failed: {record.failure[:60]}"]
    if epsilon is not None:
        parts.append(f"ε {epsilon:.2f}")
    if curve:
        parts.append(f"ndcg {curve[max(curve)]:.4f}")
    return " · ".join(parts)


def _results(
    config: Config,
    league: PreparedLeague,
    runs: dict[str, FederatedRun],
    comparison: Comparison,
    released: Release,
    example: dict[str, Any] | None,
    timings: Timings,
) -> dict[str, Any]:
    asked = next(iter(runs.values()))
    results: dict[str, Any] = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(),
        "seed": config.seed,
        "config_hash": config_hash(config),
        "model_hash": model_hash(asked.final.model),
        "league": league_part(league),
        "privacy": privacy_part(asked.federation.settings.plan),
        "methods": comparison.methods,
        "paired": comparison.paired,
        "uplift": comparison.uplift,
        "rounds": [
            row
            for name, run in runs.items()
            for row in round_rows(name, run.final, run.curve, run.federation.settings.plan, league.names)
        ],
        "example": example,
        "release": released.part,
        "timings": timings.seconds,
    }
    return {**results, "summary": list(summary(results)), "verdicts": list(verdicts(results))}
