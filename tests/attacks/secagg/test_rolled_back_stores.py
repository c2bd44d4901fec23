# SPDX-License-Identifier: Apache-2.0
"""A merchant's key store is rolled back, and the platform opens the same attempt to it again over other data.

The attack: with one seal key for both reports, the seals of one holder add up to the difference of its shares, t
of them give b ⊕ b', and the round's opened b then gives b' and the difference of both vectors.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.secagg import keys, shamir, tags
from privacy.secagg.keystore import MemoryKeyStore
from privacy.secagg.masks import Vector, apply_masks
from privacy.secagg.merchant import MerchantSession
from privacy.secagg.round_messages import Answer, Report

Make = Callable[..., Any]
VICTIM, D = 2, 4096


def vector_of(report: Report) -> Vector:
    words = Vector.from_bytes(report.vector[0], D, 2)
    return Vector(words.body.copy(), words.tail.copy())


def rolled_back(made: Any) -> tuple[Report, Report, bytes, Vector]:
    """Both reports of the victim, its seed in the opened one, the vector that nobody may learn."""
    made.set_up()
    name, league = made.names[VICTIM], made.league
    before = MemoryKeyStore(league.stores[name].load())
    round_, reports = made.reported()
    again = MerchantSession(league.identities[name], league.roster, before)
    again.open_round(round_.opening(), made.terms)
    secret = Vector(made.vectors[name].body + np.arange(D, dtype=np.uint32), made.vectors[name].tail)
    second = again.report(Vector(secret.body.copy(), secret.tail.copy()))
    survivors = round_.survivors()
    for merchant in league.merchants.values():
        round_.receive_confirmation(merchant.confirm(survivors))
    shares = {}
    for index, (holder, certificate) in enumerate(round_.certificates().items()):
        answer = league.merchants[holder].unmask(certificate)
        round_.receive_answer(answer)
        shares[index + 1] = Answer.decode(answer).opened[VICTIM].shares[0]
    made.assert_exact(round_.finish())
    chosen = list(shares)[: league.roster.threshold]
    opened = shamir.combine([shares[point] for point in chosen], chosen)
    return Report.decode(reports[name]), Report.decode(second), opened, secret


def guess(made: Any, first: Report, second: Report, opened: bytes) -> np.ndarray:
    """The attack: the second vector's words as far as the platform can tell, given the first."""
    points = range(1, made.league.roster.threshold + 1)
    place = slice(tags.KEY_SIZE * VICTIM, tags.KEY_SIZE * (VICTIM + 1))
    added = [bytes(np.bitwise_xor(*pair)) for pair in sealed_words(first, second, place)]
    mixed = shamir.combine(added[: len(points)], list(points))
    other = bytes(a ^ b for a, b in zip(opened, mixed, strict=True))
    known, wanted = vector_of(first), vector_of(second)
    apply_masks(known, [], [opened])
    apply_masks(wanted, [], [other])
    return wanted.body - known.body + made.vectors[made.names[VICTIM]].body


def sealed_words(first: Report, second: Report, place: slice) -> list[tuple[np.ndarray, np.ndarray]]:
    pairs = zip(first.sealed, second.sealed, strict=True)
    return [(np.frombuffer(one[place], np.uint8), np.frombuffer(two[place], np.uint8)) for one, two in pairs]


def test_a_second_report_from_a_rolled_back_store_shows_nothing_of_its_vector(bench: Make) -> None:
    made = bench(5, d=D)
    first, second, opened, secret = rolled_back(made)
    assert first.ctx == second.ctx
    off = guess(made, first, second, opened) - secret.body
    counts = np.bincount(off >> 24, minlength=256)
    assert ((counts - 16) ** 2 / 16).sum() < 400  # 255 degrees of freedom: uniform words, nothing learned


def test_with_seal_keys_of_the_context_alone_the_same_attack_finds_every_word(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_the_context_alone(root: bytes, binding: bytes) -> AESGCM:
        return AESGCM(tags.mac(root, tags.SEAL, binding[: -tags.NODE_SIZE]))

    monkeypatch.setattr(keys, "_cipher", of_the_context_alone)
    made = bench(5, d=D)
    first, second, opened, secret = rolled_back(made)
    assert np.array_equal(guess(made, first, second, opened), secret.body)


def test_two_reports_of_one_context_never_share_a_seal_key_also_from_a_key_store_that_was_rolled_back(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[bytes] = []

    def watched(key: bytes) -> AESGCM:
        used.append(key)
        return AESGCM(key)

    made = bench(5)
    made.set_up()
    name, league = made.names[VICTIM], made.league
    opening = league.platform.open_round(1, 0, made.terms).opening()
    stored = league.stores[name].load()
    monkeypatch.setattr(keys, "AESGCM", watched)
    for _ in range(2):
        merchant = MerchantSession(league.identities[name], league.roster, MemoryKeyStore(stored))
        merchant.open_round(opening, made.terms)
        merchant.report(made.fresh()[name]())
    assert len(used) == len(set(used)) == 10
