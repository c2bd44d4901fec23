# SPDX-License-Identifier: Apache-2.0
"""The end of the platform's part of the main job: export, gate, sign, publish; and the merchant's first pull."""

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.numpy import load, save

from client.runtime import open_runtime, read_runtime
from models.parameters import load_public
from privacy.accountant import epsilon
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from releases.card import Metric, ModelCard
from releases.installed import activate
from releases.keys import Signers, SigningKey, load_signers
from releases.publish import Repository
from releases.pull import pull, trust
from releases.stages import VerifiedRelease
from server.checkpoints import Checkpoint, model_hash
from simulation.federation import Federation
from simulation.league import PreparedLeague, vocabulary_file
from simulation.nodes import RUNTIME
from simulation.rounding import up

ROOT_KEYS, ROOT_THRESHOLD = 3, 2
CARD_METRICS = ("recall@10", "ndcg@10", "hit_rate@10", "recall@20", "ndcg@20", "coverage@10")


def open_repository(folder: Path) -> Repository:
    """The platform's release repository below `folder`, made with fresh keys where there is none.

    Keys that a killed run left without a repository are used. In a deployment the root keys never meet on one
    machine; a simulation has one machine.
    """
    keys, repository = folder / "keys", folder / "repository"
    if repository.is_dir():
        return Repository(repository, load_signers(keys))
    root = [_key(keys / "offline" / f"root-{number}.pem") for number in range(1, ROOT_KEYS + 1)]
    online = {role: _key(keys / f"{role}.pem") for role in ("targets", "snapshot", "timestamp")}
    signers = Signers([online["targets"]], [online["snapshot"]], [online["timestamp"]])
    return Repository.create(repository, signers, root, root_threshold=ROOT_THRESHOLD)


def _key(path: Path) -> SigningKey:
    """The key at `path`, or a fresh one; an empty file is one that a kill left before its bytes came."""
    if path.exists() and not path.stat().st_size:
        path.unlink()
    if not path.exists():
        SigningKey.generate().save(path)
    return SigningKey.load(path)


def last_model(repository: Repository, scratch: Path) -> dict[str, Any] | None:
    """The weights of the newest release, verified as a merchant would; None where nothing is published."""
    if not repository.versions():
        return None
    trust(scratch, repository.root_bytes())
    return load(pull(scratch, str(repository.folder)).read("model.safetensors"))


def same_model(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two models are equal to the bit."""
    return model_hash(one) == model_hash(other)


def spent_epsilon(federation: Federation, plan: PrivacyPlan) -> float:
    """The largest epsilon, at the plan's delta, that any merchant's ledger of this run holds."""
    paths = sorted(federation.nodes.homes.glob("*/ledger.jsonl"))
    spent = {tuple(sorted(Ledger(path).events(), key=repr)) for path in paths}
    return max(epsilon(events, plan.delta, plan.accountant) for events in spent)


def weights(final: Checkpoint) -> bytes:
    """The released file of weights; its SHA-256 is the card's model hash."""
    return save(final.model)


def publish(repository: Repository, federation: Federation, final: Checkpoint, card: ModelCard) -> int:
    """Export the final model and publish it with its card; returns the release's version."""
    runtime = open_runtime(read_runtime(federation.nodes.homes / RUNTIME))
    load_public(runtime.model, runtime.spec, final.model)
    exported = runtime.task.export(runtime.model)
    files: dict[str, Path | bytes] = {
        "model.safetensors": weights(final),
        "scorer.onnx": exported.scorer,
        "item_vectors.npy": exported.item_vectors,
        "catalogue.parquet": vocabulary_file(federation.league),
    }
    return repository.publish(files, card)


def model_card(
    federation: Federation,
    league: PreparedLeague,
    plan: PrivacyPlan,
    row: Mapping[str, Any],
    limitations: tuple[str, ...],
) -> ModelCard:
    """The card of the final model; `row` is its row of the results' methods.

    A private release carries no figures: they are computed exactly, from users whom epsilon does not cover there.
    """
    metrics = tuple(
        Metric(view=view, name=name, **found[name])
        for view, found in row["views"].items()
        for name in CARD_METRICS
        if not plan.private and name in found and math.isfinite(found[name]["mean"])
    )
    spent = spent_epsilon(federation, plan) if plan.private else None
    return ModelCard(
        created=datetime.now(UTC),
        league=league.name,
        data_licence=league.licence,
        task=federation.task,
        mode=str(plan.mode),  # type: ignore[arg-type]
        unit=str(plan.unit),
        epsilon=spent,
        delta=plan.delta if plan.private else None,
        accountant=plan.accountant,
        privacy_statement=plan.statement if spent is None else _spent_and_planned(plan, spent),
        rounds=federation.settings.rounds.rounds,
        merchants=len(league.merchants),
        items=league.items,
        config_hash=federation.settings.config_hash,
        code_hash=code_hash(),
        metrics=metrics,
        limitations=limitations,
    )


def _spent_and_planned(plan: PrivacyPlan, spent: float) -> str:
    return (
        f"{plan.stated(spent)} {up(spent, 3)} is what the fullest ledger of a merchant holds as spent; planned "
        f"was {up(plan.epsilon, 3)}, which leaves room for what was not asked."
    )


def code_hash() -> str:
    """SHA-256 over the app's Python files, names and bytes in the order of names."""
    root, digest = Path(__file__).resolve().parent.parent, hashlib.sha256(b"hansa.code/1")
    rooms = ("client", "data", "models", "privacy", "releases", "server", "simulation", "strategies")
    for path in sorted(file for room in rooms for file in (root / room).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def install(home: Path, repository: Repository) -> VerifiedRelease:
    """What a merchant does: pin the root, pull, verify, activate."""
    trust(home, repository.root_bytes())
    release = pull(home, str(repository.folder))
    return activate(home, release.version)
