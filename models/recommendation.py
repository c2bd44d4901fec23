# SPDX-License-Identifier: Apache-2.0
"""The first task: which items will this user buy next at this merchant?

score = w · (content tower, log popularity, own repeats, recent repeats). Training sees the league's popularity,
which is public; a merchant's own would carry one user's purchases into another user's gradient, so it enters at
decision time only (local re-rank), and so does a merchant's own residual to the item vectors. Recipe and figures:
docs/model.md.

Shapes: B users, L history, T targets, N negatives, C candidates, V items, D dimension.

Guarantees:
- the same seed builds the same weights
- row b of the loss depends on user b and on public things only
- fitting the local parts changes nothing shared
- the merchant's local parts are not in the loss
- the same histories give the same local parts
- negatives are drawn without looking at any history
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding

from models.batches import RecommendationBatch, SampleShape, draw_batch, padded
from models.errors import ConfigError
from models.export import ExportedScorer, ScorerParts, build_scorer, check_scorer, item_vectors_npy
from models.inputs import Evaluation, Histories
from models.metrics import ViewMetrics, evaluate_in_chunks
from models.mixing import Mixing, own_counts, recency_weights, repeat_feature
from models.objective import sampled_softmax
from models.parameters import ParameterSpec
from models.popularity import blend, log_popularity, popularity_counts
from models.two_tower import ContentTower

__all__ = ["RecommendationConfig", "RecommendationModel", "RecommendationTask"]

_LEAGUE = "league_log_popularity"
_LOCAL = ("merchant_league_weight", "merchant_log_popularity")
_RESIDUAL = "merchant_item_residual"
_ITEM_IDS = ("none", "local", "shared")
_STARTS = ("random", "catalogue")
_RESIDUAL_USERS = 512
_COUNTS = ("dimension", "history_events", "past_events", "targets", "negatives", "window_days", "residual_steps")
_PARTS = {
    "table": "tower.attributes.weight",
    "context": "tower.context.weight",
    "mixing": "mixing.weights.weight",
}


@dataclass(frozen=True, slots=True)
class RecommendationConfig:
    """The model, its samples and its constants; the defaults are the recipe of docs/model.md.

    `trained`, of "table", "context" and "mixing": what is trained and therefore travels each round; the rest keeps
    its start. `start` of the table: "random", or "catalogue", with values that stand on the same items near one
    another, which is public and costs no privacy. `item_id`: whether an item is more than its attributes. "local"
    adds a vector per item that each merchant trains on its own data, in `residual_steps` steps of SGD from zero;
    "shared" adds one that the league trains.
    """

    dimension: int = 16
    history_events: int = 128
    past_events: int = 512
    targets: int = 8
    negatives: int = 256
    window_days: int = 56
    prior_items: float = 5.0
    repeat_half_life_days: float = 28.0
    repeat_smoothing: float = 0.05
    mixing: tuple[float, float, float, float] = (1.0, 1.0, 4.0, 2.0)
    merchant_prior_purchases: float = 4000.0
    trained: tuple[str, ...] = ("table", "context")
    start: str = "random"
    item_id: str = "none"
    residual_steps: int = 10
    residual_learning_rate: float = 2.0

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("repeat_half_life_days", "repeat_smoothing", "prior_items", "residual_learning_rate"):
            if not getattr(self, name) > 0.0:
                raise ConfigError(f"{name} must be above 0, found {getattr(self, name)}")
        if not self.trained or not set(self.trained) <= set(_PARTS):
            raise ConfigError(f"trained names at least one of {sorted(_PARTS)}, found {self.trained}")
        if self.start not in _STARTS:
            raise ConfigError(f"start is one of {', '.join(_STARTS)}, found {self.start!r}")
        if self.item_id not in _ITEM_IDS:
            raise ConfigError(f"item_id is one of {', '.join(_ITEM_IDS)}, found {self.item_id!r}")


class RecommendationModel(nn.Module):
    """Tower, mixing weights, the league's popularity, float32 [V+1], and the merchant's local parts.

    `merchant_log_popularity` float32 [V+1]; `merchant_league_weight` float32 [1]: 1, or 0 where the merchant
    decides without the league's tower; `merchant_item_residual` float32 [V+1, D], where `item_id` is "local".
    """

    league_log_popularity: Tensor
    merchant_league_weight: Tensor
    merchant_log_popularity: Tensor
    merchant_item_residual: Tensor | None

    def __init__(self, config: RecommendationConfig, codes_VA: NDArray[np.integer], seed: int) -> None:
        super().__init__()
        rows = len(codes_VA)
        self.tower = ContentTower(
            *(codes_VA, config.dimension),
            prior_items=config.prior_items,
            seed=seed,
            ids=config.item_id == "shared",
            catalogue_start=config.start == "catalogue",
        )
        self.mixing = Mixing(config.mixing)
        for part, name in _PARTS.items():
            self.get_parameter(name).requires_grad_(part in config.trained)
        self.register_buffer(_LEAGUE, torch.zeros(rows))
        self.register_buffer("merchant_log_popularity", torch.zeros(rows))
        self.register_buffer("merchant_league_weight", torch.ones(1))
        self.register_buffer(_RESIDUAL, torch.zeros(rows, config.dimension) if config.item_id == "local" else None)


class RecommendationTask:
    """`models.task.Task` for next-purchase recommendation."""

    name = "recommendation"

    def __init__(
        self,
        config: RecommendationConfig,
        codes_VA: NDArray[np.integer],
        league_log_popularity: NDArray[np.float32] | None = None,
    ) -> None:
        """`codes_VA` int [V+1, A], public; `league_log_popularity` float32 [V+1], None: all items alike."""
        self.config = config
        self._codes_VA = codes_VA
        self._league_log_popularity = league_log_popularity
        self._shape = SampleShape(
            history=config.history_events,
            past=config.past_events,
            targets=config.targets,
            window_days=config.window_days,
        )

    @property
    def n_items(self) -> int:
        """V, padding not counted."""
        return len(self._codes_VA) - 1

    def build(self, seed: int) -> RecommendationModel:
        """A fresh model on the CPU; the same seed gives the same weights everywhere."""
        model = RecommendationModel(self.config, self._codes_VA, seed)
        if self._league_log_popularity is not None:
            self.set_league_popularity(model, self._league_log_popularity)
        return model

    def spec(self, model: nn.Module) -> ParameterSpec:
        """Shared: what is trained. Fixed: the rest of the weights and the league's popularity. Local: the rest."""
        weights = dict(model.named_parameters())
        shared = sorted(name for name, weight in weights.items() if weight.requires_grad)
        fixed = sorted({*weights, _LEAGUE} - set(shared))
        local = (_RESIDUAL, *_LOCAL) if self.config.item_id == "local" else _LOCAL
        return ParameterSpec(shared=tuple(shared), fixed=tuple(fixed), local=local)

    def set_league_popularity(self, model: RecommendationModel, log_popularity: NDArray[np.float32]) -> None:
        """The league's public prior, float32 [V+1]; stands in for the merchant's until `fit_local`."""
        values = torch.from_numpy(np.asarray(log_popularity, dtype=np.float32))
        if values.shape != model.league_log_popularity.shape:
            raise ConfigError(
                f"expected a popularity for each of {self.n_items} items and padding, found {tuple(values.shape)}"
            )
        model.league_log_popularity.copy_(values)
        model.merchant_log_popularity.copy_(values)

    def batch(
        self, histories: Histories, users: NDArray[np.int64], rng: np.random.Generator, device: torch.device
    ) -> RecommendationBatch:
        """One bounded sample of each of the B users (rows of `histories`); B may be 0."""
        return draw_batch(histories, users, self._shape, rng, device)

    def negatives(self, rng: np.random.Generator, device: torch.device) -> Tensor:
        """int64 [N] items, evenly drawn from the catalogue."""
        drawn = rng.integers(1, self.n_items + 1, size=self.config.negatives, dtype=np.int64)
        return torch.from_numpy(drawn).to(device)

    def loss_per_user(self, model: nn.Module, batch: RecommendationBatch, negatives: Tensor) -> Tensor:
        """float32 [B]; the negatives are looked up once for all users, everything else per user."""
        assert isinstance(model, RecommendationModel)
        return self._losses(model, batch, negatives, model.league_log_popularity, residual_VD=None)

    def _losses(
        self,
        model: RecommendationModel,
        batch: RecommendationBatch,
        negatives: Tensor,
        log_popularity_V: Tensor,
        residual_VD: Tensor | None,
    ) -> Tensor:
        def vectors(items: Tensor) -> Tensor:
            content = model.tower.items(items)
            return content if residual_VD is None else content + embedding(items, residual_VD)

        targets, length = self.config.targets, self.config.history_events
        device = batch.history.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            own_vectors = vectors(torch.cat([batch.history, batch.targets], dim=1))
            user_BD = model.tower.user(own_vectors[:, :length], self._item_weights(batch.history))
            target_BT = torch.einsum("bd,btd->bt", user_BD, own_vectors[:, length:])
            negative_BN = user_BD @ vectors(negatives).T
        # Scores are float32: bf16 would round popularity by more than items differ.
        tower_BC = torch.cat([target_BT, negative_BN], dim=1).float()
        candidates_BC = torch.cat([batch.targets, negatives.expand(len(batch), -1)], dim=1)
        # Whatever counts in this loss is new to the user, so both repeat features are 0.
        never = torch.zeros_like(tower_BC)
        scores_BC = model.mixing(tower_BC, log_popularity_V[candidates_BC], never, never)
        owned_BV = own_counts(batch.past, (batch.past > 0).float(), self.n_items + 1)
        return sampled_softmax(
            scores_BC[:, :targets],
            scores_BC[:, targets:],
            owned_BN=owned_BV[:, negatives] > 0,
            weights_BT=batch.weights,
            n_items=self.n_items,
        )

    def fit_local(self, model: nn.Module, histories: Histories) -> None:
        """The merchant's popularity, blended with the league's for a small merchant's sake, and its residual."""
        assert isinstance(model, RecommendationModel)
        league = model.league_log_popularity.cpu().numpy()
        counts = popularity_counts(histories, self.n_items)
        own = blend(counts, league, prior_purchases=self.config.merchant_prior_purchases)
        model.merchant_log_popularity.copy_(torch.from_numpy(own))
        model.merchant_league_weight.fill_(1.0)
        if model.merchant_item_residual is not None:
            model.merchant_item_residual.copy_(self._fitted_residual(model, histories))

    def fit_alone(self, model: nn.Module, histories: Histories) -> None:
        """The plain formula on the merchant's own counts: neither the league's tower nor its popularity."""
        assert isinstance(model, RecommendationModel)
        own = log_popularity(popularity_counts(histories, self.n_items))
        model.merchant_log_popularity.copy_(torch.from_numpy(own))
        model.merchant_league_weight.zero_()
        if model.merchant_item_residual is not None:
            model.merchant_item_residual.zero_()

    def _fitted_residual(self, model: RecommendationModel, histories: Histories) -> Tensor:
        """float32 [V+1, D]: a row moves from zero as far as the merchant's evidence pushes it in a few steps.

        At decision time the merchant's popularity counts, so here it stands in the loss too: nothing leaves.
        """
        popularity_V = model.merchant_log_popularity
        residual_VD = torch.zeros(len(popularity_V), self.config.dimension, device=popularity_V.device)
        rng = np.random.default_rng(0)
        users = np.flatnonzero(np.diff(histories.offsets))
        for _ in range(self.config.residual_steps if len(users) else 0):
            drawn = rng.choice(users, min(len(users), _RESIDUAL_USERS), replace=False)
            batch = self.batch(histories, drawn, rng, popularity_V.device)
            negatives = self.negatives(rng, popularity_V.device)
            with torch.enable_grad():
                residual_VD.requires_grad_(True)
                loss = self._losses(model, batch, negatives, popularity_V, residual_VD).mean()
                (gradient_VD,) = torch.autograd.grad(loss, [residual_VD])
            residual_VD = residual_VD.detach() - self.config.residual_learning_rate * gradient_VD
        return residual_VD

    @torch.no_grad()
    def scores(self, model: nn.Module, histories: Histories, users: NDArray[np.int64], at_day: float) -> Tensor:
        """float32 [B, V+1] on the model's device, higher is better; column 0 is -inf."""
        assert isinstance(model, RecommendationModel)
        device = model.league_log_popularity.device
        starts, ends = histories.offsets[users], histories.offsets[users + 1]
        items, days = padded(histories, ends, starts, int((ends - starts).max(initial=1)))
        age = np.where(items > 0, np.maximum(np.float32(at_day) - days, 0.0), 0.0).astype(np.float32)
        return self.decide(model, torch.from_numpy(items).to(device), torch.from_numpy(age).to(device))

    @torch.no_grad()
    def decide(self, model: RecommendationModel, history_BL: Tensor, age_days_BL: Tensor) -> Tensor:
        """Decision scores [B, V+1] from padded histories: what the served scorer computes."""
        vectors_VD = self._own_vectors(model)
        user_BD = model.tower.user(vectors_VD[history_BL], self._item_weights(history_BL))
        repeats, recent = self._repeats(history_BL, age_days_BL)
        scores_BV: Tensor = model.mixing(user_BD @ vectors_VD.T, model.merchant_log_popularity, repeats, recent)
        scores_BV[:, 0] = -torch.inf
        return scores_BV

    @torch.no_grad()
    def item_vectors(self, model: RecommendationModel) -> Tensor:
        """The league's, float32 [V+1, D]; row 0, padding, is zeros."""
        everything = torch.arange(self.n_items + 1, device=model.league_log_popularity.device)
        vectors_VD = model.tower.items(everything)
        vectors_VD[0] = 0.0
        return vectors_VD

    def evaluate(
        self, model: nn.Module, evaluation: Evaluation, ks: Sequence[int] = (10, 20)
    ) -> Mapping[str, ViewMetrics]:
        """recall, ndcg and hit rate at each k per user, views `all` and `novel`, over the whole catalogue."""
        histories, day = evaluation.histories, evaluation.cut_day
        return evaluate_in_chunks(lambda users: self.scores(model, histories, users, day), evaluation, ks)

    def export(self, model: nn.Module) -> ExportedScorer:
        """ONNX and item vectors; raises ExportError when ONNX Runtime answers otherwise than the model."""
        assert isinstance(model, RecommendationModel)
        vectors_VD = self.item_vectors(model).cpu().numpy()
        own_VD = self._own_vectors(model).cpu().numpy()
        tower, popularity, repeats, recent = model.mixing.weights.weight.detach()[0].tolist()
        scorer = build_scorer(
            ScorerParts(
                item_vectors=vectors_VD,
                mixing=(tower, popularity, repeats, recent),
                context=model.tower.context.weight.detach().cpu().numpy(),
                prior_items=self.config.prior_items,
                repeat_half_life_days=self.config.repeat_half_life_days,
                repeat_smoothing=self.config.repeat_smoothing,
            )
        )
        device = model.league_log_popularity.device

        def reference(history: NDArray[np.int64], age_days: NDArray[np.float32]) -> NDArray[np.float32]:
            answer = self.decide(
                model, torch.from_numpy(history).to(device), torch.from_numpy(age_days).to(device)
            )
            return answer.cpu().numpy()

        replaced = None if np.array_equal(own_VD, vectors_VD) else own_VD
        check_scorer(scorer, reference, model.merchant_log_popularity.cpu().numpy(), replaced)
        return ExportedScorer(scorer, item_vectors_npy(vectors_VD))

    def _own_vectors(self, model: RecommendationModel) -> Tensor:
        """float32 [V+1, D]: the league's item vectors as this merchant uses them."""
        vectors_VD = self.item_vectors(model)
        if model.merchant_item_residual is not None:
            vectors_VD += model.merchant_item_residual
        return vectors_VD * model.merchant_league_weight

    def _item_weights(self, history_BL: Tensor) -> Tensor:
        """1 / (events with this item) for each event, 0 at padding: each distinct item weighs 1."""
        present_BL = (history_BL > 0).float()
        counts_BL = own_counts(history_BL, present_BL, self.n_items + 1).gather(1, history_BL)
        return present_BL / counts_BL.clamp_min(1.0)

    def _repeats(self, history_BL: Tensor, age_days_BL: Tensor) -> tuple[Tensor, Tensor]:
        present_BL = (history_BL > 0).float()
        recent_BL = recency_weights(history_BL > 0, age_days_BL, self.config.repeat_half_life_days)
        counts, recent = (own_counts(history_BL, w, self.n_items + 1) for w in (present_BL, recent_BL))
        smoothing = self.config.repeat_smoothing
        return repeat_feature(counts, smoothing), repeat_feature(recent, smoothing)
