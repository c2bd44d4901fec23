# SPDX-License-Identifier: Apache-2.0
"""The released scorer: one small ONNX graph, written node by node, and the item vectors for explanations.

The graph holds public parts only (item vectors, mixing weights, constants). The merchant's popularity and the
filters are inputs, so that one release serves every merchant and tells nothing about any. A merchant with item
vectors of its own puts them in the place of the constant that the metadata key `replaceable` names.

Inputs: `history` int64 [B, L] (0 = padding), `age_days` float32 [B, L], `merchant_log_popularity` float32 [V+1],
`mask` float32 [B, V+1] or [1, V+1] (0 or -inf, added), `k` int64 scalar. Outputs, best first:
`items` int64 [B, k], `scores` float32 [B, k]; k is cut to V; -inf marks what is masked and comes last.

Guarantees:
- the graph holds no merchant's data
- an exported scorer that differs from the model (by more than 1e-4) is never returned
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.errors import ExportError

__all__ = ["ExportedScorer", "ScorerParts", "build_scorer", "check_scorer", "item_vectors_npy"]

REPLACEABLE = "item_vectors"
OPSET = 18
IR_VERSION = 9
TOLERANCE = 1e-4

Floats = NDArray[np.float32]
Reference = Callable[[NDArray[np.int64], Floats], Floats]


@dataclass(frozen=True, slots=True, eq=False)
class ExportedScorer:
    """`scorer`: ONNX bytes. `item_vectors`: npy bytes (no pickle), float32 [V+1, D], row 0 zeros."""

    scorer: bytes
    item_vectors: bytes


@dataclass(frozen=True, slots=True, eq=False)
class ScorerParts:
    """What the graph computes with.

    `item_vectors` float32 [V+1, D], row 0 zeros; `mixing`: the weights in the order of mixing.FEATURES; `context`
    float32 [D, 3]: the tower's context weights.
    """

    item_vectors: Floats
    mixing: tuple[float, float, float, float]
    context: Floats
    prior_items: float
    repeat_half_life_days: float
    repeat_smoothing: float


def item_vectors_npy(item_vectors: Floats) -> bytes:
    """The vectors as a npy file's bytes."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(item_vectors, dtype=np.float32), allow_pickle=False)
    return file.getvalue()


def build_scorer(parts: ScorerParts) -> bytes:
    """The graph's bytes, checked by ONNX's own checker; the same parts give the same bytes."""
    columns = len(parts.item_vectors)
    graph = _Graph(parts)
    graph.tables()
    graph.user_vector()
    graph.repeats()
    graph.combine()
    floats, ints = TensorProto.FLOAT, TensorProto.INT64
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "hansa_recommendation",
            [
                helper.make_tensor_value_info("history", ints, ["batch", "length"]),
                helper.make_tensor_value_info("age_days", floats, ["batch", "length"]),
                helper.make_tensor_value_info("merchant_log_popularity", floats, [columns]),
                helper.make_tensor_value_info("mask", floats, ["mask_batch", columns]),
                helper.make_tensor_value_info("k", ints, []),
            ],
            [
                helper.make_tensor_value_info("items", ints, ["batch", "found"]),
                helper.make_tensor_value_info("scores", floats, ["batch", "found"]),
            ],
            graph.constants,
        ),
        producer_name="hansa",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, {"replaceable": REPLACEABLE})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def check_scorer(
    scorer: bytes, reference: Reference, popularity: Floats, item_vectors: Floats | None = None, *, seed: int = 0
) -> None:
    """Compare with `reference` (history [B, L], age_days [B, L] -> scores [B, V+1]); raises ExportError.

    `item_vectors` float32 [V+1, D]: a merchant's, in the place of the league's.

    Probes are made up: random histories, an empty one and a full one. All V scores of each are compared.
    """
    rng = np.random.default_rng(seed)
    size, length = len(popularity) - 1, 12
    history = rng.integers(1, size + 1, size=(4, length), dtype=np.int64)
    history[np.arange(length) >= np.array([[0], [1], [length // 2], [length]])] = 0
    age = np.where(history > 0, rng.uniform(0.0, 400.0, history.shape), 0.0).astype(np.float32)
    options = ort.SessionOptions()
    if item_vectors is not None:
        own = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(item_vectors))
        options.add_initializer(REPLACEABLE, own)
    session = ort.InferenceSession(scorer, options, ["CPUExecutionProvider"])
    mask = np.zeros((4, size + 1), dtype=np.float32)
    items, scores = session.run(
        ["items", "scores"],
        {
            "history": history,
            "age_days": age,
            "merchant_log_popularity": popularity,
            "mask": mask,
            "k": np.array(size, dtype=np.int64),
        },
    )
    expected = np.take_along_axis(reference(history, age), items, axis=1)
    worst = float(np.abs(expected - scores).max()) if np.isfinite(scores).all() else math.inf
    if not worst <= TOLERANCE:
        raise ExportError(
            f"the exported scorer differs from the model by {worst:.2e}, allowed is {TOLERANCE:.0e}. "
            "Do not release it; look for weights that are not finite or very large."
        )


class _Graph:
    """Collects nodes and constants; a tensor's name says what it holds."""

    def __init__(self, parts: ScorerParts) -> None:
        self.parts = parts
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.constant(REPLACEABLE, parts.item_vectors.astype(np.float32))
        self.constant("zero", np.array(0, dtype=np.int64))
        self.node("Greater", ["history", "zero"], "is_event")
        self.node("Cast", ["is_event"], "present", to=TensorProto.FLOAT)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def scalar(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, dtype=np.float32))

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def tables(self) -> None:
        """`table` [B, V+1]: zeros to scatter into; `count_of_event` [B, L]: events with the same item."""
        columns = self.constant("columns", np.array([len(self.parts.item_vectors)], dtype=np.int64))
        self.node("Shape", ["history"], "batch_size", start=0, end=1)
        self.node("Concat", ["batch_size", columns], "table_shape", axis=0)
        self.node("ConstantOfShape", ["table_shape"], "table")
        self.sum_of_event("count", "present")

    def sum_of_event(self, name: str, weights: str) -> str:
        """The sum of `weights` over a user's events with the same item, for each event, [B, L]."""
        self.node("ScatterElements", ["table", "history", weights], f"{name}_table", axis=1, reduction="add")
        return self.node("GatherElements", [f"{name}_table", "history"], f"{name}_of_event", axis=1)

    def user_vector(self) -> None:
        """The tower: `tower` [B, V+1], already weighted."""
        self.constant("axis_1", np.array([1], dtype=np.int64))
        self.scalar("one", 1.0)
        self.node("Max", ["count_of_event", "one"], "multiplicity")
        self.node("Div", ["present", "multiplicity"], "item_weights")
        self.node("Gather", ["item_vectors", "history"], "history_vectors", axis=0)
        self.node("Unsqueeze", ["item_weights", "axis_1"], "item_weights_row")
        self.node("MatMul", ["item_weights_row", "history_vectors"], "history_sum_row")
        self.node("Squeeze", ["history_sum_row", "axis_1"], "history_sum")
        self.node("ReduceSum", ["item_weights", "axis_1"], "distinct", keepdims=1)
        self.node("Add", ["distinct", self.scalar("prior_items", self.parts.prior_items)], "mass")
        self.node("Div", ["history_sum", "mass"], "mean")
        self.node("Add", ["distinct", "one"], "distinct_1")
        self.node("Log", ["distinct_1"], "log_distinct")
        self.node("Div", ["log_distinct", self.scalar("three", 3.0)], "third_of_log")
        self.node("Sub", ["third_of_log", "one"], "x")
        self.node("Mul", ["x", "x"], "x_squared")
        context = self.parts.context.astype(np.float32).T
        self.node("Concat", ["x", "x_squared"], "powers", axis=1)
        self.node("MatMul", ["powers", self.constant("context", context[1:])], "context_of_powers")
        self.node("Add", ["context_of_powers", self.constant("context_constant", context[0])], "context_part")
        self.node("Add", ["mean", "context_part"], "user")
        self.node("Gemm", ["user", "item_vectors"], "tower", transB=1, alpha=self.parts.mixing[0])

    def repeats(self) -> None:
        """`repeats` [B, V+1]: both repeat features, weighted; logarithms only where there is an event."""
        self.scalar("smoothing", self.parts.repeat_smoothing)
        rate = self.scalar("recency_rate", -math.log(2.0) / self.parts.repeat_half_life_days)
        self.node("Relu", ["age_days"], "age")
        self.node("Mul", ["age", rate], "recency_exponent")
        self.node("Exp", ["recency_exponent"], "decay")
        self.node("Mul", ["decay", "present"], "recency")
        self.sum_of_event("recent", "recency")
        terms = []
        for name, factor in (("count", self.parts.mixing[2]), ("recent", self.parts.mixing[3])):
            self.node("Div", [f"{name}_of_event", "smoothing"], f"{name}_ratio")
            self.node("Add", [f"{name}_ratio", "one"], f"{name}_ratio_1")
            self.node("Log", [f"{name}_ratio_1"], f"{name}_log")
            terms.append(self.node("Mul", [f"{name}_log", self.scalar(f"{name}_factor", factor)], f"{name}_term"))
        self.node("Add", terms, "repeat_of_event")
        # Several events of one item write the same value, so their order does not matter.
        self.node("ScatterElements", ["table", "history", "repeat_of_event"], "repeats", axis=1)

    def combine(self) -> None:
        """Sum, mask, take the best k."""
        popularity = [self.scalar("popularity_factor", self.parts.mixing[1]), "merchant_log_popularity"]
        no_padding = np.zeros(len(self.parts.item_vectors), dtype=np.float32)
        no_padding[0] = -np.inf
        self.node("Mul", popularity, "popularity")
        self.node("Add", ["popularity", self.constant("no_padding", no_padding)], "prior_score")
        self.node("Add", ["tower", "prior_score"], "tower_and_prior")
        self.node("Add", ["tower_and_prior", "repeats"], "unmasked")
        self.node("Add", ["unmasked", "mask"], "masked")
        largest = self.constant("items_in_all", np.array(len(no_padding) - 1, dtype=np.int64))
        self.constant("one_element", np.array([1], dtype=np.int64))
        self.node("Min", ["k", largest], "k_cut")
        self.node("Reshape", ["k_cut", "one_element"], "k_row")
        self.nodes.append(
            helper.make_node(
                "TopK", ["masked", "k_row"], ["scores", "items"], name="top", axis=1, largest=1, sorted=1
            )
        )
