# SPDX-License-Identifier: Apache-2.0
"""Numbers to ring elements and back."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privacy import quantisation
from privacy.quantisation import ArraySpec, VectorPlan, mean, plan_for, quantise, totals
from privacy.secagg import exchange
from privacy.secagg.errors import ValueRefused
from privacy.secagg.masks import Vector
from privacy.secagg.merchant import RoundTerms

STEP = 2.0**-20


def plan(arrays: dict[str, np.ndarray], cohort: int = 10, **changes: Any) -> VectorPlan:
    specs = tuple(ArraySpec(name, tuple(a.shape), a.dtype.name) for name, a in sorted(arrays.items()))
    fields: dict[str, Any] = {"counters": (), "metrics": (), "bound": 8.0, "scale_log2": 20, "weight_bound": 1}
    return VectorPlan("test", specs, **(fields | changes), cohort=cohort)


def added(vectors: list[Vector]) -> Vector:
    total = Vector.zeros(vectors[0].body.size, vectors[0].tail.size)
    for vector in vectors:
        total.add(vector)
    return total


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_decoded_sum_is_the_sum_of_the_quantised_inputs_bit_for_bit(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["float16", "float32", "float64"]))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    n = data.draw(st.integers(1, 10))
    values = st.floats(-8, 8, width=16)
    inputs = [{"x": data.draw(hnp.arrays(dtype, shape, elements=values))} for _ in range(n)]
    made = plan(inputs[0])
    vectors = [quantise(made, arrays) for arrays in inputs]
    alone = [totals(made, vector).arrays["x"] for vector in vectors]
    together = totals(made, added(vectors)).arrays["x"]
    assert np.array_equal(together, np.sum(alone, axis=0))
    assert together.shape == shape
    for arrays, decoded in zip(inputs, alone, strict=True):
        assert np.all(np.abs(decoded - arrays["x"].astype(np.float64)) < STEP)


def test_rounding_is_unbiased_and_independent_of_the_sign() -> None:
    x = {"x": np.full(200_000, 0.3 * STEP, np.float32)}
    y = {"x": np.full(200_000, -0.3 * STEP, np.float32)}
    for arrays, share in ((x, 0.3), (y, -0.3)):
        decoded = totals(plan(x), quantise(plan(x), arrays)).arrays["x"] / STEP
        assert set(np.unique(decoded)) == ({0.0, 1.0} if share > 0 else {-1.0, 0.0})
        assert abs(float(decoded.mean()) - share) < 5 * (0.3 * 0.7 / 200_000) ** 0.5


def test_the_dither_never_looks_at_the_data() -> None:
    drawn: list[int] = []

    def entropy(size: int) -> bytes:
        drawn.append(size)
        return bytes(size)

    ups = []
    for offset in (0.0, 1.0, -5.0):
        arrays = {"x": np.full(5000, offset + 0.5 * STEP, np.float64)}
        decoded = totals(plan(arrays), quantise(plan(arrays), arrays, entropy=entropy)).arrays["x"]
        ups.append(decoded > offset)
    assert drawn == [32, 32, 32]
    assert np.array_equal(ups[0], ups[1])
    assert np.array_equal(ups[0], ups[2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 8.01, -8.01, 3e38])
@pytest.mark.parametrize("place", [0, 20_000, 39_999])
def test_nan_infinite_and_out_of_range_values_are_refused_never_clipped(bad: float, place: int) -> None:
    x = np.zeros(40_000, np.float32)
    x[place] = bad
    with pytest.raises(ValueRefused, match=r"^weights: found (NaN|a weighted)"):
        quantise(plan({"weights": x}), {"weights": x})


def test_the_bound_itself_is_accepted() -> None:
    x = {"x": np.array([8.0, -8.0], np.float32)}
    assert totals(plan(x), quantise(plan(x), x)).arrays["x"].tolist() == [8.0, -8.0]


@pytest.mark.parametrize("n", [3, 100, 255])
def test_no_sum_of_a_whole_cohort_leaves_the_ring(n: int) -> None:
    x = {"x": np.full(4, -4.0, np.float64), "y": np.full(4, 4.0, np.float64)}
    made = plan(x, cohort=n, bound=4.0)
    total = totals(made, added([quantise(made, x)] * n))
    assert total.arrays["x"].tolist() == [-4.0 * n] * 4
    assert total.arrays["y"].tolist() == [4.0 * n] * 4
    with pytest.raises(ValueRefused, match="wrap around"):
        plan(x, cohort=n, bound=2.0**31 / 2**20 / n)


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint16", "uint32", "bool"]
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_dtypes_and_shapes_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    x = {"x": np.ones(shape, dtype)}
    made = plan(x)
    out = mean(made, added([quantise(made, x)] * 3), 3)["x"]
    assert out.dtype == x["x"].dtype
    assert out.shape == shape
    assert np.array_equal(out, x["x"])


def test_bfloat16_as_bits_and_as_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.array([1.0, -2.5, 0.15625, 7.96875], ml_dtypes.bfloat16)
    for name, array in (("bfloat16", values), ("bfloat16-bits", values.view(np.uint16))):
        made = VectorPlan("t", (ArraySpec("x", (4,), name),), (), (), 8.0, 20, 10)
        out = mean(made, added([quantise(made, {"x": array})] * 3), 3)["x"]
        assert out.dtype == array.dtype
        assert np.array_equal(out.view(np.uint16), values.view(np.uint16))


def test_integers_are_exact_and_bounded() -> None:
    x = {"n": np.array([2**53 + 1, -(2**55), 0], np.int64)}
    made = plan(x)
    assert totals(made, added([quantise(made, x)] * 10)).arrays["n"].tolist() == [10 * (2**53 + 1), -10 * 2**55, 0]
    for bad in (2**62, -(2**62)):
        with pytest.raises(ValueRefused, match="n: found an integer beyond"):
            quantise(made, {"n": np.array([0, bad, 0], np.int64)})
    top = {"n": np.array([2**64 - 1], np.uint64)}
    with pytest.raises(ValueRefused, match="beyond"):
        quantise(plan(top), top)


def test_weights_in_ratio_a_million_to_one() -> None:
    rng = np.random.default_rng(3)
    weights = [1_000_000, 1, 1, 30_000, 7]
    inputs = [{"x": rng.normal(size=500).astype(np.float32)} for _ in weights]
    made = plan(inputs[0], weight_bound=1_000_000)
    total = added([quantise(made, x, weight=w) for x, w in zip(inputs, weights, strict=True)])
    exact = sum(w * x["x"].astype(np.float64) for x, w in zip(inputs, weights, strict=True)) / sum(weights)
    assert totals(made, total).weight == sum(weights)
    error = np.abs(mean(made, total, 5)["x"] - exact).max()
    assert error < 5 * 1_000_000 * STEP / sum(weights) + 1e-6
    for bad in (0, -1, 1_000_001):
        with pytest.raises(ValueRefused, match="weight"):
            quantise(made, inputs[0], weight=bad)


def test_counters_and_metrics_travel_inside_the_vector() -> None:
    x = {"x": np.zeros(2, np.float32)}
    made = plan(x, counters=("examples",), metrics=("loss",))
    vectors = [quantise(made, x, counters={"examples": 10**12 + k}, metrics={"loss": -0.5 - k}) for k in range(3)]
    total = totals(made, added(vectors))
    assert total.counters == {"examples": 3 * 10**12 + 3}
    assert total.metrics == {"loss": -4.5}
    for loss in (float("nan"), float("inf"), 1e18):
        with pytest.raises(ValueRefused, match="metric loss"):
            quantise(made, x, counters={"examples": 1}, metrics={"loss": loss})
    with pytest.raises(ValueRefused, match="counter examples"):
        quantise(made, x, counters={"examples": 2**62}, metrics={"loss": 0.0})
    with pytest.raises(ValueRefused, match="missing"):
        quantise(made, x, metrics={"loss": 0.0})


def test_other_names_shapes_and_dtypes_are_refused() -> None:
    made = plan({"x": np.zeros((2, 3), np.float32)})
    for arrays, message in (
        ({}, "missing"),
        ({"x": np.zeros((2, 3), np.float32), "y": np.zeros(1)}, "not in the plan"),
        ({"x": np.zeros((3, 2), np.float32)}, "expected float32"),
        ({"x": np.zeros((2, 3), np.float64)}, "expected float32"),
    ):
        with pytest.raises(ValueRefused, match=message):
            quantise(made, arrays)
    with pytest.raises(ValueRefused, match="complex64"):
        plan({"x": np.zeros(1, np.complex64)})
    with pytest.raises(ValueRefused, match="words"):
        totals(made, Vector.zeros(5, 1))


def test_the_plans_digest_covers_every_field() -> None:
    x = {"x": np.zeros((2, 3), np.float32)}
    base = plan(x, counters=("a",), metrics=("b",))
    others = [
        plan({"y": x["x"]}, counters=("a",), metrics=("b",)),
        plan({"x": np.zeros((3, 2), np.float32)}, counters=("a",), metrics=("b",)),
        plan({"x": np.zeros((2, 3), np.float64)}, counters=("a",), metrics=("b",)),
        plan(x, counters=(), metrics=("a", "b")),
        plan(x, counters=("a",), metrics=("b",), bound=7.0),
        plan(x, counters=("a",), metrics=("b",), scale_log2=19),
        plan(x, counters=("a",), metrics=("b",), weight_bound=2),
        plan(x, cohort=11, counters=("a",), metrics=("b",)),
        VectorPlan("other", base.arrays, ("a",), ("b",), 8.0, 20, 10),
    ]
    assert len({made.digest for made in [base, *others]}) == 1 + len(others)


def test_a_large_float32_array_in_odd_blocks() -> None:
    rng = np.random.default_rng(0)
    x = {"x": rng.uniform(-8, 8, 2 * quantisation.BLOCK + 17).astype(np.float32)}
    decoded = totals(plan(x), quantise(plan(x), x)).arrays["x"]
    assert np.abs(decoded - x["x"]).max() < STEP


def test_a_secure_round_gives_the_weighted_mean(bench: Callable[..., Any]) -> None:
    made = bench(5)
    made.set_up()
    rng = np.random.default_rng(1)
    inputs = {
        name: {"w": rng.normal(size=(7, 3)).astype(np.float32), "t": np.float32(rng.normal()).reshape(())}
        for name in made.names
    }
    agreed = plan_for(made.league.roster, "train", inputs["m000"], counters=["examples"], weight_bound=100)
    terms = RoundTerms(os.urandom(32), agreed.digest, agreed.d, agreed.e)
    vectors = {
        name: (lambda a=arrays, k=k: quantise(agreed, a, counters={"examples": 10 * k}, weight=1 + 10 * k))
        for k, (name, arrays) in enumerate(inputs.items())
    }
    result = exchange.run_round(
        *(made.league.merchants, vectors, made.league.platform),
        number=1,
        terms=dict.fromkeys(made.names, terms),
        platform_terms=terms,
    )
    weights = [1 + 10 * k for k in range(5)]
    found = mean(agreed, result.vector, len(result.survivors))
    for name in ("w", "t"):
        exact = np.average([inputs[m][name].astype(np.float64) for m in made.names], axis=0, weights=weights)
        assert np.allclose(found[name], exact, atol=5 * 100 * STEP / sum(weights) + 1e-6)
        assert found[name].dtype == np.float32
    assert totals(agreed, result.vector).counters == {"examples": 100}
