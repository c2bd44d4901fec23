# SPDX-License-Identifier: Apache-2.0
"""The last stages of the main job: the gate, the signed release, a merchant that verifies it and serves it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.home import open_home
from client.local_part import fit_local_part
from client.runtime import open_runtime, read_runtime
from client.wire import Array
from data.catalogue import Vocabulary
from data.files import load_merchant
from privacy.plan import PrivacyPlan
from releases.publish import Repository
from server.gate import GateDecision, ask_gate
from simulation.comparison import Comparison
from simulation.config import Config
from simulation.federation import FederatedRun
from simulation.grid import InProcessGrid
from simulation.league import Merchant, PreparedLeague, events_file, vocabulary_file
from simulation.nodes import RUNTIME, home_path, nodes
from simulation.plans import workers
from simulation.pool import executor
from simulation.progress import Display
from simulation.publication import install, last_model, model_card, open_repository, publish, same_model, weights
from simulation.shop_front import Shopper, example, recommend, serving, shoppers

SHOPPERS, RECOMMENDED = 3, 5


@dataclass(frozen=True, slots=True)
class Release:
    """What became of a run's model.

    Attributes:
        part: of `results.json`.
        repository: where it was published, None where it was not.
    """

    part: dict[str, Any]
    repository: Repository | None = None


UNFINISHED = Release({"version": None, "published": False, "gate": "not reached"})
NOT_ASKED_FOR = Release({"version": None, "published": False, "gate": "not asked for (serve=false)"})


def release(
    config: Config,
    folder: Path,
    league: PreparedLeague,
    run: FederatedRun,
    comparison: Comparison,
    display: Display,
    *,
    resumed: bool,
) -> Release:
    """Publish the run's model when the gate lets it pass.

    A resumed run whose model is the newest release already published it before it was killed.
    """
    repository = open_repository(Path(config.repository) if config.repository else folder / "platform")
    previous = last_model(repository, folder / "gate")
    if resumed and previous is not None and same_model(previous, run.final.model):
        version = repository.versions()[-1]
        display.say(f"release {version} was published before this run was interrupted")
        return _published(run, version, "published before", repository)
    decision = None if previous is None else _gate(config, league, run, previous)
    words = "first release of this repository: nothing to compare with" if decision is None else decision.words
    if decision is not None and not decision.passed:
        display.say(f"release gate: {words}")
        return Release({"version": repository.versions()[-1], "published": False, "gate": words})
    plan = run.federation.settings.plan
    row = next(row for row in comparison.methods if row["name"] == run.federation.folder.name)
    card = model_card(run.federation, league, plan, row, _limitations(config, plan))
    version = publish(repository, run.federation, run.final, card)
    display.say(f"release {version} published ({words}); pulling, verifying and activating it at a merchant")
    return _published(run, version, words, repository)


def _published(run: FederatedRun, version: int, gate: str, repository: Repository) -> Release:
    sha256 = hashlib.sha256(weights(run.final)).hexdigest()
    return Release({"version": version, "published": True, "gate": gate, "model_sha256": sha256}, repository)


def _gate(
    config: Config, league: PreparedLeague, run: FederatedRun, previous: Mapping[str, Array]
) -> GateDecision:
    plan = run.federation.settings.plan
    proposal = run.federation.settings.proposal() | {"server-round": plan.rounds}
    pool = executor(nodes(run.federation.nodes), workers(config))
    try:
        return ask_gate(
            InProcessGrid(league.names, pool),
            run.federation.cohort(),
            run.final.model,
            previous,
            proposal,
            plan.merchant_noise("gate"),
            config.cohort.round_timeout_s,
        )
    finally:
        pool.close()


def _limitations(config: Config, plan: PrivacyPlan) -> tuple[str, ...]:
    known = [
        "Trained and measured on one league; figures do not carry over to another.",
        "Shows what sells together, not what is good for anybody.",
    ]
    if plan.private:
        known.append("No figures of quality: they are exact, of users whom epsilon does not cover.")
    if config.repository:
        known.append("Releases of several runs share this repository: their losses of privacy add up.")
    return tuple(known)


def serve(
    league: PreparedLeague, run: FederatedRun, repository: Repository, display: Display
) -> dict[str, Any] | None:
    """The largest merchant that has shoppers installs the newest release and serves it; what one of them is shown.

    None where no merchant has any. Raises `ServingFailed`.
    """
    chosen = _merchant_with_shoppers(league, run)
    if chosen is None:
        display.say("nobody bought anything before the test weeks: the release is not shown to anybody")
        return None
    merchant, found = chosen
    home = home_path(run.federation.nodes, merchant)
    installed = install(home, repository)
    fit_local_part(open_home(home), open_runtime(read_runtime(run.federation.nodes.homes / RUNTIME)))
    names = _names(run.federation.league)
    with serving(home) as address:
        answers = [recommend(address, shopper, RECOMMENDED) for shopper in found]
    display.say(
        f"{merchant.name} serves release {installed.version}; {len(answers)} of its users asked over HTTP:"
    )
    shown = [
        example(f"user {number}", shopper, merchant.name, answer, names)
        for number, (shopper, answer) in enumerate(zip(found, answers, strict=True), start=1)
    ]
    for each in shown:
        _print(each, display)
    return shown[0]


def _merchant_with_shoppers(
    league: PreparedLeague, run: FederatedRun
) -> tuple[Merchant, tuple[Shopper, ...]] | None:
    for merchant in sorted(league.merchants, key=lambda each: each.users, reverse=True):
        events = load_merchant(str(events_file(run.federation.league, merchant)))
        if found := shoppers(events, league.split.valid_end, SHOPPERS):
            return merchant, found
    return None


def _names(league: Path) -> dict[str, str]:
    vocabulary = Vocabulary.load(vocabulary_file(league))
    return dict(zip(vocabulary.item_ids, vocabulary.names, strict=True))


def _print(shown: Mapping[str, Any], display: Display) -> None:
    newest = ", ".join(item["name"] for item in shown["history"][-3:])
    display.say(f"  {shown['user']} (last bought {newest})")
    for item in shown["recommended"]:
        because = f"  because of {', '.join(item['because'])}" if item["because"] else ""
        display.say(f"    {item['score']:7.2f}  {item['name']}{because}")
