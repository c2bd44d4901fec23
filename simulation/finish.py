# SPDX-License-Identifier: Apache-2.0
"""The last stages of the main job: the gate, the signed release, a merchant that verifies it and serves it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.home import open_home
from client.local_part import write_local_part
from client.runtime import open_runtime, read_runtime
from client.wire import Array
from client.worker import Worker
from data.catalogue import Vocabulary
from data.files import load_merchant
from releases.publish import Repository
from server.gate import GateDecision, ask_gate
from simulation.comparison import Comparison
from simulation.config import Config
from simulation.federation import FederatedRun
from simulation.grid import InProcessGrid
from simulation.league import PreparedLeague, events_file, vocabulary_file
from simulation.nodes import RUNTIME, home_path, nodes
from simulation.plans import workers
from simulation.pool import executor
from simulation.progress import Display
from simulation.publication import install, last_model, model_card, open_repository, publish
from simulation.shop_front import example, recommend, serving, shoppers

SHOPPERS, RECOMMENDED = 3, 5


@dataclass(frozen=True, slots=True)
class Finish:
    """Parts of `results.json`."""

    release: dict[str, Any]
    example: dict[str, Any] | None


def release_and_serve(
    config: Config,
    folder: Path,
    league: PreparedLeague,
    run: FederatedRun,
    comparison: Comparison,
    display: Display,
) -> Finish:
    """Publish the run's model when the gate lets it pass; then one merchant installs and serves it."""
    if not config.serve:
        return Finish({"version": None, "published": False, "gate": "not asked for (serve=false)"}, None)
    repository = open_repository(Path(config.repository) if config.repository else folder / "platform")
    decision = _gate(config, folder, league, run, repository)
    words = "first release of this repository: nothing to compare with" if decision is None else decision.words
    if decision is not None and not decision.passed:
        display.say(f"release gate: {words}")
        return Finish({"version": repository.versions()[-1], "published": False, "gate": words}, None)
    row = next(row for row in comparison.methods if row["name"] == run.federation.folder.name)
    card = model_card(run.federation, league, run.federation.settings.plan, row, _limitations(row))
    version = publish(repository, run.federation, run.final, card)
    display.say(f"release {version} published ({words}); pulling, verifying and activating it at a merchant")
    shown = _serve(league, run, repository, display)
    return Finish({"version": version, "published": True, "gate": words}, shown)


def _gate(
    config: Config, folder: Path, league: PreparedLeague, run: FederatedRun, repository: Repository
) -> GateDecision | None:
    previous = last_model(repository, folder / "gate")
    if previous is None:
        return None
    plan = run.federation.settings.plan
    proposal = run.federation.settings.proposal() | {"server-round": plan.rounds}
    pool = executor(nodes(run.federation.nodes), workers(config))
    try:
        return ask_gate(
            InProcessGrid(league.names, pool),
            run.federation.cohort(),
            {**run.final.arrays, **run.final.fixed},
            previous,
            proposal,
            plan.gate_noise_multiplier * plan.gate_clipping_norm,
            config.cohort.round_timeout_s,
        )
    finally:
        pool.close()


def _limitations(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "Trained and measured on one league; figures do not carry over to another.",
        "Shows what sells together, not what is good for anybody.",
    )


def _serve(league: PreparedLeague, run: FederatedRun, repository: Repository, display: Display) -> dict[str, Any]:
    merchant = max(league.merchants, key=lambda each: each.users)
    home = home_path(run.federation.nodes, merchant)
    release = install(home, repository)
    public = {**run.final.arrays, **run.final.fixed}
    _write_local_part(run, home, public)
    names = _names(run.federation.league)
    events = load_merchant(str(events_file(run.federation.league, merchant)))
    found = shoppers(events, league.split.valid_end, SHOPPERS)
    with serving(home) as address:
        answers = [recommend(address, shopper, RECOMMENDED) for shopper in found]
    display.say(f"{merchant.name} serves release {release.version}; {len(answers)} of its users asked over HTTP:")
    shown = [example(s, merchant.name, a, names) for s, a in zip(found, answers, strict=True)]
    for each in shown:
        _print(each, display)
    return shown[0]


def _write_local_part(run: FederatedRun, home: Path, public: dict[str, Array]) -> None:
    runtime = open_runtime(read_runtime(run.federation.nodes.homes / RUNTIME))
    write_local_part(home, runtime, Worker(open_home(home), runtime).histories, public)


def _names(league: Path) -> dict[str, str]:
    vocabulary = Vocabulary.load(vocabulary_file(league))
    return dict(zip(vocabulary.item_ids, vocabulary.names, strict=True))


def _print(shown: Mapping[str, Any], display: Display) -> None:
    newest = ", ".join(item["name"] for item in shown["history"][-3:])
    display.say(f"  user {shown['user']} (last bought {newest})")
    for item in shown["recommended"]:
        because = f"  because of {', '.join(item['because'])}" if item["because"] else ""
        display.say(f"    {item['score']:7.2f}  {item['name']}{because}")
