# SPDX-License-Identifier: Apache-2.0
"""Noise: the right scale is accepted, a wrong one rejected; streams are independent and never reused."""

import math

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from privacy.errors import NoiseError
from privacy.noise import NoiseSource, add_noise, add_noise_to_array
from privacy.stages import ClippedUpdate, Rows

KINDS = ("secure", "fast")
N = 200_000


def drawn(source, label, n=N):
    out = torch.empty(n, dtype=torch.float32)
    source.stream(label).standard_normal(out)
    return out.numpy()


def scale_is(values, deviation, level=1e-6):
    """Chi-squared test of the variance; true when `deviation` cannot be rejected."""
    statistic = float(np.square(values / deviation).sum())
    p = 2 * min(stats.chi2.cdf(statistic, len(values)), stats.chi2.sf(statistic, len(values)))
    return p > level


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_has_the_stated_deviation(kind):
    noise = add_noise_to_array(np.zeros(N), 3.0, NoiseSource.from_seed(1, kind=kind).stream("a"))
    assert noise.dtype == np.float32
    assert scale_is(noise, 3.0)
    assert abs(noise.mean()) < 6 * 3.0 / math.sqrt(N)
    assert stats.kstest(noise / 3.0, "norm").pvalue > 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [0.95, 1.05])
def test_a_wrong_scale_is_rejected(kind, wrong):
    noise = add_noise_to_array(np.zeros(N), 3.0 * wrong, NoiseSource.from_seed(1, kind=kind).stream("a"))
    assert not scale_is(noise, 3.0)


def test_the_secure_normal_has_its_tails():
    values = drawn(NoiseSource.from_seed(3), "tails", 2_000_000)
    for bound in (3.0, 4.0):
        expected = 2_000_000 * 2 * stats.norm.sf(bound)
        assert abs((np.abs(values) > bound).sum() - expected) < 6 * math.sqrt(expected)


@pytest.mark.parametrize(("kind", "largest"), [("secure", 9.42), ("fast", 6.67)])
def test_a_draw_is_box_and_mullers_of_the_key_streams_bits(kind, largest):
    stream, n = NoiseSource.from_seed(3, kind=kind).stream("bits"), 1 << 14
    counter = bytes(15) + b"\2"  # NIST SP 800-38D, 7.1: nonce, then 1 for the tag, from 2 on for the text
    key_stream = Cipher(algorithms.AES(stream._key), modes.CTR(counter)).encryptor()
    radius_type = np.dtype(np.int64 if kind == "secure" else np.int32)
    unit = 2.0 ** (1 - 8 * radius_type.itemsize)
    bits = np.frombuffer(key_stream.update(bytes(radius_type.itemsize * n)), radius_type).astype(np.float64)
    angle = np.frombuffer(key_stream.update(bytes(4 * n)), np.int32) * math.pi * 2.0**-31
    radius = np.sqrt(-2 * np.log((np.abs(bits) + 0.5) * unit))
    found = torch.empty(2 * n)
    stream.standard_normal(found)
    error = np.abs(found.numpy() - np.concatenate([radius * np.cos(angle), radius * np.sin(angle)]))
    assert (error > 2.0**-20).mean() < 1e-3
    assert error.max() < 2.0**-11
    assert math.sqrt(-2 * math.log(0.5 * unit)) == pytest.approx(largest, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_streams_of_different_keys_or_labels_are_independent_equal_ones_are_equal(kind):
    base = drawn(NoiseSource.from_seed(7, "merchant a", "run", "round 1", kind=kind), "step/0")
    others = [
        drawn(NoiseSource.from_seed(7, "merchant a", "run", "round 1", kind=kind), "step/1"),
        drawn(NoiseSource.from_seed(7, "merchant b", "run", "round 1", kind=kind), "step/0"),
        drawn(NoiseSource.from_seed(7, "merchant a", "run", "round 2", kind=kind), "step/0"),
        drawn(NoiseSource.from_seed(8, "merchant a", "run", "round 1", kind=kind), "step/0"),
        drawn(NoiseSource.from_seed(7, "merchant a", "runround 1", "", kind=kind), "step/0"),
    ]
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 6 / math.sqrt(N)
    again = drawn(NoiseSource.from_seed(7, "merchant a", "run", "round 1", kind=kind), "step/0")
    np.testing.assert_array_equal(base, again)


def test_neighbouring_draws_are_independent():
    values = drawn(NoiseSource.from_seed(5), "lags")
    for lag in (1, 2, 3, 1 << 15):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 6 / math.sqrt(N - lag)


def test_threads_change_nothing():
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            stream = NoiseSource.from_seed(5).stream("threads")
            found.append([add_noise_to_array(np.zeros(n), 1.0, stream) for n in (200_000, 7, 40_000)])
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*found, strict=True):
        np.testing.assert_array_equal(one, three)
    assert abs(np.corrcoef(found[0][0][:40_000], found[0][2])[0, 1]) < 6 / 200


def test_a_failure_in_a_thread_is_not_lost():
    with pytest.raises(ValueError, match="broadcast"):
        NoiseSource.fresh().stream("x").add_to(torch.zeros(200_000, 2), 1.0)


def test_a_label_is_drawn_from_once_per_source():
    source = NoiseSource.fresh()
    source.stream("step/0")
    with pytest.raises(NoiseError, match="drawn before"):
        source.stream("step/0")


def test_with_a_fresh_key_no_noise_is_ever_used_twice():
    one, two = (drawn(NoiseSource.fresh(), "step/0", 1000) for _ in range(2))
    assert not np.intersect1d(one, two).size


def test_keys_do_not_print():
    source = NoiseSource(b"s" * 32)
    assert "ssss" not in repr(source)


def update(rows=50, width=8, norm=0.5):
    dense = {"b": torch.ones(width)}
    part = Rows((rows, width), torch.tensor([3, 3]), torch.ones(2, width))
    return ClippedUpdate(norm, dense, {"a": (part,)}, torch.zeros(2))


def test_untouched_rows_get_noise_too_and_touched_ones_keep_their_sum():
    noised = add_noise(update(), 2.0, NoiseSource.from_seed(0).stream("x"))
    assert (noised.values["a"] != 0).all()
    means = [
        add_noise(update(), 1e-3, NoiseSource.from_seed(0).stream(str(i))).values["a"][3].mean() for i in range(50)
    ]
    assert float(np.mean(means)) == pytest.approx(2.0, abs=1e-3)
    assert noised.receipts[0].noise_multiplier == 2.0
    assert noised.receipts[0].clipping_norm == 0.5


def test_the_deviation_is_multiplier_times_clipping_norm():
    clipped = ClippedUpdate(0.25, {"w": torch.zeros(N)}, {}, torch.zeros(1))
    noised = add_noise(clipped, 4.0, NoiseSource.from_seed(0).stream("x"))
    assert scale_is(noised.values["w"].numpy(), 1.0)
    assert not scale_is(noised.values["w"].numpy(), 1.05)


def test_results_lie_on_the_grid():
    noise = add_noise_to_array(np.linspace(-1, 1, 1000), 3.0, NoiseSource.from_seed(0).stream("x"))
    grid = 2.0 ** (math.floor(math.log2(3.0)) - 20)
    np.testing.assert_array_equal(np.round(noise / grid) * grid, noise)


def test_buffers_are_reused_and_change_nothing():
    buffers = {}
    first = add_noise(update(), 2.0, NoiseSource.from_seed(0).stream("x"), out=buffers)
    held = buffers["a"]
    expected = first.values["a"].clone()
    second = add_noise(update(), 2.0, NoiseSource.from_seed(0).stream("x"), out=buffers)
    assert second.values["a"] is held
    torch.testing.assert_close(held, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deviation", [0.0, 1e-23, 9e-13, 2e12, 1e20, math.nan])
def test_a_deviation_at_which_float32_is_no_gaussian_is_refused(kind, deviation):
    total = torch.zeros(3)
    with pytest.raises(NoiseError, match="deviation must be within 1e-12 and 1e"):
        NoiseSource(bytes(32), kind).stream("x").add_to(total, deviation)
    assert not total.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deviation", [1e-12, 1e12])
def test_the_noise_has_the_stated_deviation_at_the_ends_of_its_range(kind, deviation):
    noise = add_noise_to_array(np.zeros(N), deviation, NoiseSource.from_seed(1, kind=kind).stream("a"))
    assert scale_is(noise, deviation)
    assert stats.kstest(noise / deviation, "norm").pvalue > 1e-6


@pytest.mark.parametrize("noise", [0.0, -1.0, math.inf, math.nan])
def test_noise_that_is_none_is_refused(noise):
    with pytest.raises(NoiseError):
        add_noise(update(), noise, NoiseSource.fresh().stream("x"))
    with pytest.raises(NoiseError):
        add_noise_to_array(np.zeros(3), noise, NoiseSource.fresh().stream("x"))


def test_short_keys_and_unknown_kinds_are_refused():
    with pytest.raises(NoiseError, match="32 bytes"):
        NoiseSource(b"short")
    with pytest.raises(NoiseError, match="kind"):
        NoiseSource(bytes(32), kind="quick")
