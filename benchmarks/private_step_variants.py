# SPDX-License-Identifier: Apache-2.0
"""One training step of one recommender, done in several ways; run by `private_step`, each way in its own process.

Model: item table V x 64, histories of 50, one causal transformer layer (or mean pooling), next-item softmax at
every position against 512 negatives through the same table. Opacus's ways get the negatives with a batch
dimension, in one lookup, as it cannot do without; all ways use Adam, fused where torch has it.

Shapes: B users, T positions, N negatives, D width, V items.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, LENGTH, NEGATIVES, HEADS = 64, 50, 512, 2
NORM, NOISE, RATE = 1.0, 1.0, 1e-3


class Layer(nn.Module):
    """Pre-norm causal self-attention and feed-forward, of plain linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x_BTD: Tensor) -> Tensor:
        size, length, _ = x_BTD.shape
        normed = self.norm1(x_BTD)
        heads = [
            f(normed).view(size, length, HEADS, -1).transpose(1, 2) for f in (self.query, self.key, self.value)
        ]
        seen = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x_BTD = x_BTD + self.out(seen.transpose(1, 2).reshape(size, length, WIDTH))
        return x_BTD + self.down(torch.relu(self.up(self.norm2(x_BTD))))


class MeanPool(nn.Module):
    """Running mean of the history: the cheapest encoder."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        counts = torch.arange(1, x_BTD.shape[1] + 1, dtype=x_BTD.dtype)
        return x_BTD.cumsum(1) / counts[None, :, None]


class Recommender(nn.Module):
    """Loss per user [B] of histories [B, T + 1] and negatives [N], or [B, N] when they must have users."""

    def __init__(self, items: int, encoder: str, *, sparse: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.item = nn.Embedding(items, WIDTH, sparse=sparse)
        nn.init.normal_(self.item.weight, std=1 / math.sqrt(WIDTH))
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.encoder = Layer() if encoder == "transformer" else MeanPool()

    def forward(self, history: Tensor, negatives: Tensor) -> Tensor:
        positions = torch.arange(LENGTH)
        if negatives.ndim == 1:
            vectors, shared = self.item(history), self.item(negatives)
            states = self.encoder(vectors[:, :-1] + self.position(positions))
            scores_BTN = states @ shared.T
        else:
            every = self.item(torch.cat([history, negatives], 1))
            vectors, own = every[:, : LENGTH + 1], every[:, LENGTH + 1 :]
            states = self.encoder(vectors[:, :-1] + self.position(positions.repeat(len(history), 1)))
            scores_BTN = torch.bmm(states, own.transpose(1, 2))
        target_BT = (states * vectors[:, 1:]).sum(-1)
        return (torch.logaddexp(torch.logsumexp(scores_BTN, -1), target_BT) - target_BT).mean(1)


def _data(items: int, users: int, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    rank = torch.rand(users, LENGTH + 1, generator=generator)
    history = (items**rank).long().clamp_(0, items - 1)  # popular items more often
    return history, torch.randint(0, items, (NEGATIVES,), generator=generator)


Step = Callable[[Tensor, Tensor], None]


def _plain(model: nn.Module, optimisers: list[torch.optim.Optimizer]) -> Step:
    def step(history: Tensor, negatives: Tensor) -> None:
        for optimiser in optimisers:
            optimiser.zero_grad()
        model(history, negatives).mean().backward()
        for optimiser in optimisers:
            optimiser.step()

    return step


def dense(items: int, encoder: str) -> Step:
    model = Recommender(items, encoder)
    return _plain(model, [torch.optim.Adam(model.parameters(), RATE, fused=True)])


def sparse(items: int, encoder: str) -> Step:
    model = Recommender(items, encoder, sparse=True)
    rest = [p for n, p in model.named_parameters() if n != "item.weight"]
    table = torch.optim.SparseAdam([model.item.weight], RATE)
    return _plain(model, [table, torch.optim.Adam(rest, RATE, fused=True)])


def _ours(items: int, encoder: str, kind: str) -> Step:
    from privacy.clipping import PerUserGradients
    from privacy.noise import NoiseSource, add_noise

    model = Recommender(items, encoder)
    engine = PerUserGradients(model)
    optimiser = torch.optim.Adam(model.parameters(), RATE, fused=True)
    source = NoiseSource(bytes(32), kind)  # type: ignore[arg-type]
    buffers: dict[str, Tensor] = {}
    count = iter(range(1 << 30))

    def step(history: Tensor, negatives: Tensor) -> None:
        with engine.record(len(history), shared=[negatives]):
            losses = model(history, negatives)
        clipped = engine.clipped_sum(losses, NORM)
        noised = add_noise(clipped, NOISE, source.stream(str(next(count))), out=buffers)
        for name, parameter in engine.parameters.items():
            parameter.grad = noised.values[name].div_(len(history))
        optimiser.step()

    return step


def ours(items: int, encoder: str) -> Step:
    return _ours(items, encoder, "secure")


def ours_fast_noise(items: int, encoder: str) -> Step:
    return _ours(items, encoder, "fast")


def noise(items: int, encoder: str) -> Step:
    """The noise alone, as `ours` adds it to the table."""
    from privacy.noise import NoiseSource, add_noise
    from privacy.stages import ClippedUpdate, Rows

    nothing = Rows((items, WIDTH), torch.zeros(0, dtype=torch.int64), torch.zeros(0, WIDTH))
    clipped = ClippedUpdate(NORM, {}, {"item.weight": (nothing,)}, torch.zeros(0))
    source, count = NoiseSource(bytes(32)), iter(range(1 << 30))
    buffers: dict[str, Tensor] = {}

    def step(_history: Tensor, _negatives: Tensor) -> None:
        add_noise(clipped, NOISE, source.stream(str(next(count))), out=buffers)

    return step


def _opacus_default(items: int, encoder: str, **options: bool) -> Step:
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    model = GradSampleModule(Recommender(items, encoder), loss_reduction="sum", **options)
    optimiser = DPOptimizer(
        torch.optim.Adam(model.parameters(), RATE, fused=True),
        noise_multiplier=NOISE,
        max_grad_norm=NORM,
        expected_batch_size=None,
        loss_reduction="sum",
    )

    def step(history: Tensor, negatives: Tensor) -> None:
        optimiser.zero_grad()
        model(history, negatives.expand(len(history), -1)).sum().backward()
        optimiser.step()

    return step


def opacus_hooks(items: int, encoder: str) -> Step:
    return _opacus_default(items, encoder)


def opacus_functorch(items: int, encoder: str) -> Step:
    return _opacus_default(items, encoder, force_functorch=True)


def opacus_ghost(items: int, encoder: str) -> Step:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping

    model = GradSampleModuleFastGradientClipping(
        Recommender(items, encoder), loss_reduction="sum", max_grad_norm=NORM, use_ghost_clipping=True
    )
    optimiser = DPOptimizerFastGradientClipping(
        torch.optim.Adam(model.parameters(), RATE, fused=True),
        noise_multiplier=NOISE,
        max_grad_norm=NORM,
        expected_batch_size=None,
        loss_reduction="sum",
    )

    def step(history: Tensor, negatives: Tensor) -> None:
        optimiser.zero_grad()
        losses = model(history, negatives.expand(len(history), -1))
        losses.sum().backward(retain_graph=True)
        optimiser.zero_grad()
        factors = model.get_clipping_coef()
        model.disable_hooks()
        (factors * losses).sum().backward()
        model.enable_hooks()
        optimiser.step()

    return step


VARIANTS: dict[str, Callable[[int, str], Step]] = {
    f.__name__: f
    for f in (ours, ours_fast_noise, noise, dense, sparse, opacus_ghost, opacus_hooks, opacus_functorch)
}


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def serve(variant: str, items: int, users: int, encoder: str) -> None:
    """Do one step for each line on stdin and answer with its CPU seconds and the peak memory in MiB so far."""
    torch.set_num_threads(1)
    step = VARIANTS[variant](items, encoder)
    print("ready", flush=True)
    for number, _ in enumerate(sys.stdin):
        data = _data(items, users, number)
        begin = time.process_time()
        step(*data)
        print(time.process_time() - begin, _peak_mib(), flush=True)


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
