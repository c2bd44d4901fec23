# SPDX-License-Identifier: Apache-2.0
"""Up to c merchants collude with the platform: what is left of an honest merchant's vector is uniform."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from privacy.secagg import keys
from privacy.secagg.masks import Vector, apply_masks
from privacy.secagg.round_messages import Report

Make = Callable[..., Any]
D = 1 << 16


def residue(made: Any, colluders: list[str]) -> np.ndarray:
    """What the coalition has of the last merchant's vector after it took away every mask that it knows."""
    league = made.league
    round_ = league.platform.open_round(1, 0, made.terms)
    reports = {}
    for name, merchant in league.merchants.items():
        merchant.open_round(round_.opening(), made.terms)
        reports[name] = merchant.report(made.fresh()[name]())
    victim = made.names[-1]
    words = Vector.from_bytes(Report.decode(reports[victim]).vector[0], D, 2)
    left = Vector(words.body.copy(), words.tail.copy())
    place = made.names.index(victim)
    known = [keys.mask_seed(league.merchants[name]._state.epoch.roots[place], round_._ctx) for name in colluders]
    apply_masks(left, plus=known, minus=[])
    return left.body - made.vectors[victim].body


def looks_uniform(words: np.ndarray) -> bool:
    """Chi-square of the top byte and of the lowest bit, p about 1e-6."""
    counts = np.bincount((words >> 24).astype(np.int64), minlength=256)
    expected = words.size / 256
    spread = float(((counts - expected) ** 2 / expected).sum())
    ones = int((words & 1).sum())
    return spread < 385 and abs(ones - words.size / 2) < 5 * (words.size**0.5) / 2


@pytest.mark.parametrize("n", [3, 10])
def test_up_to_c_colluders_and_the_platform_see_uniform_words(bench: Make, n: int) -> None:
    made = bench(n, d=D)
    made.set_up()
    made.vectors[made.names[-1]].body[:] = 12345
    assert looks_uniform(residue(made, made.names[: made.league.roster.colluders]))


def test_even_all_others_leave_the_own_mask_before_unmasking(bench: Make) -> None:
    made = bench(5, d=D)
    made.set_up()
    assert looks_uniform(residue(made, made.names[:-1]))


def test_a_broken_mask_fails_the_same_test(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench(3, d=D)
    made.set_up()
    monkeypatch.setattr("privacy.secagg.merchant.masks.apply_masks", lambda *_: None)
    assert not looks_uniform(residue(made, []))
    biased = np.frombuffer(os.urandom(4 * D), np.uint32) % np.uint32(2**32 - 1) // np.uint32(2) * np.uint32(2)
    assert not looks_uniform(biased)
