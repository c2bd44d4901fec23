# SPDX-License-Identifier: Apache-2.0
"""Whole runs of the recommender: mode `distributed` over secure rounds beside central DP-SGD on pooled data.

A made-up league of 8 merchants with planted tastes, the main job's settings. Ours: workers, ledgers, shares of
integer noise, masks, the secure cohort; all merchants arrive. The peer: pooled users, the same start, Poisson
rate, per-user clipping, server steps and average of models, and Gaussian noise from one trusted hand, either

- `equal noise`: of the variance that all 8 shares add up to; they are laid out for one colluder, whose share is in
  the sum all the same, and for rounding and the grid; or
- `equal epsilon`: of the plan's noise multiplier times the clipping norm, as a trusted curator would add.
"""

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy import stats

from benchmarks.measure import Row, row
from client.runtime import Runtime, open_runtime, read_runtime
from data.files import load_merchant
from data.samples import EvaluationSet, UserHistories, evaluation_set, histories, merge_histories
from data.sampling import poisson_sample
from models.parameters import load_public
from models.popularity import log_popularity, popularity_counts
from privacy.clipping import PerUserGradients
from privacy.stages import ClippedUpdate
from simulation.config import register
from simulation.federation import Federation, federate, set_up
from simulation.league import PreparedLeague, events_file, prepare
from simulation.nodes import RUNTIME, nodes
from simulation.plans import PRIVATE, federations
from simulation.pool import executor
from simulation.vocabulary import agreed
from strategies.averaging import averaged

MERCHANTS, USERS, KINDS, MAKERS, WEEKS = 8, 40, 12, 10, 20
SETTINGS = (
    *("data=files", "data.min_users=2", "data.test_weeks=1", "privacy.rounds=30", "privacy.gate_share=0"),
    *("model.options.dimension=8", "model.options.history_events=64", "model.options.negatives=128"),
    *("privacy.dropouts=0", "engine.workers=1", "compare.non_private=false"),
    f"model.under_noise.distributed.training.expected_users={USERS}",
)
ARMS = ("equal noise", "equal epsilon")
UNITS = {"loss": "nats", "ndcg@10": "novel"}
LOSS_DRAWS = 4
Arrays = dict[str, npt.NDArray[np.float32]]
Noise = dict[str, float]  # family of releases to deviation
Figures = dict[str, float]


@dataclass(frozen=True)
class Runs:
    """One epsilon's runs over the league in `folder`; `planned` names plan and settings of them all."""

    folder: Path
    league: PreparedLeague
    planned: Federation

    @classmethod
    def of(cls, folder: Path, epsilon: float) -> "Runs":
        """Make the league in an empty folder."""
        _events().write_csv(folder / "events.csv")
        _catalogue().write_csv(folder / "catalogue.csv")
        register()
        files = (f"data.events='{folder / 'events.csv'}'", f"data.catalogue='{folder / 'catalogue.csv'}'")
        with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "conf"), version_base="1.3"):
            overrides = [*SETTINGS, *files, f"privacy.epsilon={epsilon}"]
            config = OmegaConf.to_object(compose("config", overrides))
        league = agreed(config, folder, prepare(config.data, folder / "league"))
        planned = federations(config, folder, league)[PRIVATE]
        set_up(planned, league)
        return cls(folder, league, planned)

    def shared(self, seed: int) -> Figures:
        """A run in mode `distributed`; its name decides all that merchants draw."""
        name = f"run {seed}"
        settings = replace(self.planned.settings, run=name)
        run = replace(self.planned, folder=self.folder / name, settings=settings)
        pool = executor(nodes(run.nodes), 1)
        try:
            final = federate(run, self.league, pool, lambda state: None)
        finally:
            pool.close()
        assert all(record.survivors == MERCHANTS for record in final.history)
        return self.judged(final.model)

    def deviations(self, arm: str) -> Noise:
        """What a trusted hand adds to the sums over all users."""
        plan = self.planned.settings.plan
        if arm == "equal noise":
            return {family: plan.share(family).total_deviation for family in ("popularity", "training")}
        return {
            "popularity": plan.popularity_noise_multiplier * plan.popularity_clipping_norm,
            "training": plan.noise_multiplier * plan.clipping_norm,
        }

    def central(self, seed: int, noise: Noise) -> Figures:
        """A run of DP-SGD on pooled users."""
        settings, rng = self.planned.settings, np.random.default_rng(seed)
        options, averaging = settings.strategy.options, settings.strategy.averaging
        fixed = self._popularity(noise["popularity"], rng)
        model: Arrays = dict(set_up(self.planned, self.league).arrays)
        momentum = {name: np.zeros_like(array) for name, array in model.items()}
        published: Arrays = {}
        users = settings.plan.sampling_rate * MERCHANTS * USERS
        for number in range(1, settings.plan.rounds + 1):
            clipped = self._clipped({**model, **fixed}, rng)
            for name, array in model.items():
                noised = clipped.tensor(name).numpy() + noise["training"] * rng.standard_normal(array.shape)
                momentum[name] = options["server_momentum"] * momentum[name] + noised / users
                model[name] = np.asarray(array - options["server_learning_rate"] * momentum[name], np.float32)
            published = averaged(published, model, number, averaging)
        return self.judged({**published, **fixed})

    def _popularity(self, deviation: float, rng: np.random.Generator) -> Arrays:
        """The noised histogram's logarithm, raised to the public floor of the runs in mode `distributed`."""
        plan, name = self.planned.settings.plan, self.planned.settings.popularity
        counts = popularity_counts(self.pooled, self.runtime.vocabulary.size, clipping_norm=1.0)
        noised = counts + deviation * rng.standard_normal(counts.shape)
        floor = max(0.5, plan.share("popularity").total_deviation)
        fixed = set_up(self.planned, self.league).fixed
        return {**fixed, name: log_popularity(noised.astype(np.float32), floor=floor)}

    def _clipped(self, model: Arrays, rng: np.random.Generator) -> ClippedUpdate:
        runtime, plan = self.runtime, self.planned.settings.plan
        load_public(runtime.model, runtime.spec, model)
        drawn, negatives = poisson_sample(len(self.pooled), plan.sampling_rate, rng), self._negatives(rng)
        engine = PerUserGradients(runtime.model, runtime.spec.shared)
        with engine.record(len(drawn), [negatives]):
            batch = runtime.task.batch(self.pooled, drawn, rng, runtime.device)
            losses = runtime.task.loss_per_user(runtime.model, batch, negatives)
        return engine.clipped_sum(losses, plan.clipping_norm)

    def judged(self, model: Arrays) -> Figures:
        """Loss of the training task on all weeks to the validation weeks' end; NDCG@10 of new items in these."""
        runtime, rng = self.runtime, np.random.default_rng(0)
        load_public(runtime.model, runtime.spec, model)
        everybody, found = merge_histories(self.later), []
        with torch.no_grad():
            for _ in range(LOSS_DRAWS):
                batch = runtime.task.batch(everybody, np.arange(len(everybody)), rng, runtime.device)
                found.append(runtime.task.loss_per_user(runtime.model, batch, self._negatives(rng)).mean().item())
        novel = []
        for own, weeks in zip(self.users, self.validation, strict=True):
            runtime.task.fit_local(runtime.model, own)
            novel.append(runtime.task.evaluate(runtime.model, weeks, (10,))["novel"].per_user["ndcg@10"])
        return {"loss": float(np.mean(found)), "ndcg@10": float(np.concatenate(novel).mean())}

    def _negatives(self, rng: np.random.Generator) -> torch.Tensor:
        return self.runtime.task.negatives(rng, self.runtime.device)

    @cached_property
    def runtime(self) -> Runtime:
        return open_runtime(read_runtime(self.planned.nodes.homes / RUNTIME))

    @cached_property
    def pooled(self) -> UserHistories:
        return merge_histories(self.users)

    @cached_property
    def users(self) -> list[UserHistories]:
        return self._histories(self.league.split.train_end)

    @cached_property
    def later(self) -> list[UserHistories]:
        return self._histories(self.league.split.valid_end)

    def _histories(self, until: datetime) -> list[UserHistories]:
        most = self.league.max_events
        return [histories(own, self.runtime.vocabulary, until=until, max_events=most) for own in self._bought]

    @cached_property
    def validation(self) -> list[EvaluationSet]:
        split, most = self.league.split, self.league.max_events
        window = {"cut": split.train_end, "end": split.valid_end, "max_events": most}
        return [evaluation_set(own, self.runtime.vocabulary, **window) for own in self._bought]

    @cached_property
    def _bought(self) -> list[pl.DataFrame]:
        return [load_merchant(str(events_file(self.planned.league, one))) for one in self.league.merchants]


def compare(runs: Runs, seeds: int, central_seeds: int) -> dict[str, list[Figures]]:
    """Figures over seeds of `shared`, of each of `ARMS`, and of training without noise; no seed serves twice."""
    found = {"shared": [runs.shared(seed) for seed in range(seeds)]}
    noises = {arm: runs.deviations(arm) for arm in ARMS} | {"no noise": {"popularity": 0.0, "training": 0.0}}
    for number, (arm, noise) in enumerate(noises.items(), start=1):
        found[arm] = [runs.central(1000 * number + seed, noise) for seed in range(central_seeds)]
    return found


def difference(found: dict[str, list[Figures]], arm: str, figure: str) -> tuple[float, tuple[float, float], float]:
    """Shared less central: mean, its 95 % interval, and the p-value of none (Welch 1947)."""
    ours, peer = ([each[figure] for each in found[name]] for name in ("shared", arm))
    test = stats.ttest_ind(ours, peer, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return float(np.mean(ours) - np.mean(peer)), (float(low), float(high)), float(test.pvalue)


def rows(quick: bool) -> tuple[list[Row], list[str], float]:
    """Rows, lines for docs/private-training.md, and the smallest p-value where nothing may differ."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    made: list[Row] = []
    lines = ["| ε | | runs | loss | NDCG@10 | ours less this: loss | NDCG@10 |", "|---|---|---|---|---|---|---|"]
    least = 1.0
    for epsilon in (3.0,) if quick else (3.0, 1.0):
        with TemporaryDirectory() as folder:
            found = compare(Runs.of(Path(folder), epsilon), *((2, 4) if quick else (10, 40)))
        lines += [_line(epsilon, name, found) for name in found]
        for figure, unit in UNITS.items():
            least = min(least, difference(found, ARMS[0], figure)[2])
            ours = float(np.mean([each[figure] for each in found["shared"]]))
            for arm in ARMS:
                peer = float(np.mean([each[figure] for each in found[arm]]))
                name = f"runs_{figure}_eps{epsilon:g}"
                made.append(row(name, ours, unit, len(found["shared"]), peer, f"central, {arm}"))
    return made, lines, least


def _line(epsilon: float, name: str, found: dict[str, list[Figures]]) -> str:
    values = {figure: [each[figure] for each in found[name]] for figure in UNITS}
    spread = [f"{np.mean(values[f]):.4f} ± {np.std(values[f], ddof=1):.4f}" for f in UNITS]
    against = ["", ""]
    if name != "shared":
        parts = [difference(found, name, figure) for figure in UNITS]
        against = [f"{mean:+.4f} ({low:+.4f} to {high:+.4f})" for mean, (low, high), _ in parts]
    shown = "**mode `distributed`**" if name == "shared" else f"central, {name}"
    return " | ".join((f"| {epsilon:g}", shown, str(len(found[name])), *spread, *against)) + " |"


def _events() -> pl.DataFrame:
    """Two purchases a week of each user: mostly of the two kinds and the maker that they like."""
    rng, begin = np.random.default_rng(0), datetime(2025, 1, 6, 9, tzinfo=UTC)
    rows = []
    for user in range(MERCHANTS * USERS):
        liked = np.full(KINDS * MAKERS, 0.2)
        for kind in rng.choice(KINDS, 2, replace=False):
            liked[kind * MAKERS : (kind + 1) * MAKERS] += 4.0
        liked[rng.integers(MAKERS) :: MAKERS] *= 4.0
        for week in range(WEEKS):
            day = (begin + timedelta(days=7 * week + int(rng.integers(7)))).isoformat()
            for item in rng.choice(len(liked), 2, replace=False, p=liked / liked.sum()):
                rows.append((f"shop-{user % MERCHANTS}", f"user-{user}", f"item-{item:03d}", day, "purchase"))
    return pl.DataFrame(rows, ["merchant_id", "user_id", "item_id", "timestamp", "event"], orient="row")


def _catalogue() -> pl.DataFrame:
    """Every kind by every maker."""
    items = range(KINDS * MAKERS)
    columns = {"kind": [f"kind {n // MAKERS}" for n in items], "maker": [f"maker {n % MAKERS}" for n in items]}
    return pl.DataFrame({"item_id": [f"item-{n:03d}" for n in items], **columns})
