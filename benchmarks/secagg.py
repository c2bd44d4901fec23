# SPDX-License-Identifier: Apache-2.0
"""Secure aggregation beside Flower 1.41's legacy SecAgg+ functions, in one run on one machine.

A merchant's time is all that it computes in a round: quantise, mask, share, seal, commit, hash, sign, confirm,
answer. The other merchants' messages are made beforehand. Flower's time is its four client stages, likewise.
Flower's platform is composed from its own functions (one reconstruction of each kind timed and multiplied): whole,
it takes minutes.
"""

import argparse
import importlib
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from flwr.app import ConfigRecord
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation import secaggplus_utils as flower_utils
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

from benchmarks.measure import Row, alternate, row, table, write
from privacy.quantisation import VectorPlan, plan_for, quantise
from privacy.secagg import commitments, exchange, keys, shamir, tags
from privacy.secagg.exchange import League
from privacy.secagg.masks import BLOCK_SIZE, Vector, apply_masks
from privacy.secagg.merchant import MerchantSession, RoundTerms
from privacy.secagg.platform import PlatformRound
from privacy.secagg.round_messages import (
    Answer,
    Certificate,
    Opened,
    Report,
    RoundOpen,
    Sealed,
    SignedHeader,
    Survivors,
    survivors_digest,
)

PARAMETERS = 6_000_000
flower = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")  # hidden by a function
FLOWER = "Flower 1.41 legacy SecAgg+"
MODEL = bytes(32)


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def medians(figure: str, ours: Sequence[float], unit: str, peer: Sequence[float] = (), peer_name: str = "") -> Row:
    """A row of medians."""
    other = statistics.median(peer) if peer else None
    return row(figure, statistics.median(ours), unit, len(ours), other, peer_name)


class OurMerchant:
    """Merchant 0 of n with all that the others send it."""

    def __init__(self, n: int, parameters: int) -> None:
        self.league = exchange.make_league([f"m{k:03d}" for k in range(n)], bound=4.0)
        exchange.set_up(self.league.merchants, self.league.platform, epoch=1, base_round=1)
        rng = np.random.default_rng(0)
        self.update = {"w": rng.normal(scale=0.1, size=parameters).astype(np.float32)}
        self.plan: VectorPlan = plan_for(self.league.roster, "bench", self.update)
        self.terms = RoundTerms(MODEL, self.plan.digest, self.plan.d, self.plan.e)
        self.n, self.number = n, 0
        self.sent_bytes = 0
        self.on_line_s = 0.0

    def round(self, masks_first: bool = False) -> float:
        """Seconds of one round; with masks_first their expansion is not on the critical path."""
        self.number += 1
        merchant = self.league.merchants["m000"]
        opening = self.league.platform.open_round(self.number, 0, self.terms)
        start = time.perf_counter()
        merchant.open_round(opening.opening(), self.terms)
        if masks_first:
            merchant.expand_masks()
            start = time.perf_counter()
        report = merchant.report(quantise(self.plan, self.update))
        spent = time.perf_counter() - start
        survivors, certificate = self._others(opening, merchant, report)
        start = time.perf_counter()
        confirmation = merchant.confirm(survivors)
        answer = merchant.unmask(certificate(confirmation))
        self.sent_bytes = len(report) + len(confirmation) + len(answer)
        return spent + time.perf_counter() - start

    def _others(self, round_: PlatformRound, merchant: MerchantSession, report: bytes):  # type: ignore[no-untyped-def]
        ctx, league = round_._ctx, self.league
        headers = [Report.decode(report).signed]
        for index, identity in enumerate(league.identities.values()):
            if index:
                headers.append(signed_header(identity, ctx, index, bytes(32), bytes(32), bytes(32)))
        listed = tuple(headers)
        digest = survivors_digest(ctx, listed)
        roots = dict(merchant._state.epoch.roots)  # type: ignore[union-attr]
        cohort = tuple(range(self.n))
        sealed = []
        for author in cohort:
            shares = [os.urandom(32) for _ in cohort]
            root = commitments.ShareTree.over(shares, cohort).root(ctx, author, 0)
            sealed.append(Sealed(root, keys.seal(roots[author], ctx, author, 0, root, b"".join(shares))))

        def certificate(confirmation: bytes) -> bytes:
            signatures = tuple(
                (index, identity.sign(tags.CONFIRM, ctx, digest))
                for index, identity in enumerate(league.identities.values())
            )[: league.roster.threshold]
            return Certificate(0, ctx, cohort, digest, signatures, self.n, tuple(sealed)).encode()

        return Survivors(ctx, listed).encode(), certificate


def signed_header(identity, ctx, index, vector, sealed, committed) -> SignedHeader:  # type: ignore[no-untyped-def]
    unsigned = SignedHeader(index, vector, sealed, committed, b"")
    return replace(unsigned, signature=identity.sign(tags.REPORT, ctx, unsigned.header()))


class FlowerMerchant:
    """Flower's client stages for node 0 of n, threshold 2/3, all neighbours."""

    def __init__(self, n: int, parameters: int) -> None:
        self.n, self.threshold = n, 2 * n // 3 + 1
        pairs = [(generate_key_pairs(), generate_key_pairs()) for _ in range(n - 1)]
        self.peers = {
            k + 1: (private_key_to_bytes(two[0]), public_key_to_bytes(one[1]), public_key_to_bytes(two[1]))
            for k, (one, two) in enumerate(pairs)
        }
        rng = np.random.default_rng(0)
        self.update = ndarrays_to_parameters([rng.normal(scale=0.1, size=parameters).astype(np.float32)])
        self.sent_bytes = 0

    def round(self) -> float:
        state = flower.SecAggPlusState()
        state.nid = 0
        settings = {
            Key.SAMPLE_NUMBER: self.n,
            Key.SHARE_NUMBER: self.n,
            Key.THRESHOLD: self.threshold,
            Key.CLIPPING_RANGE: 8.0,
            Key.TARGET_RANGE: 1 << 22,
            Key.MOD_RANGE: 1 << 32,
            Key.MAX_WEIGHT: 1000.0,
        }
        start = time.perf_counter()
        own = flower._setup(state, ConfigRecord(settings))
        announced = {"0": [own[Key.PUBLIC_KEY_1], own[Key.PUBLIC_KEY_2]]}
        announced |= {str(k): [one, two] for k, (_, one, two) in self.peers.items()}
        shares = flower._share_keys(state, ConfigRecord(announced))
        spent = time.perf_counter() - start
        incoming = self._incoming(state)
        start = time.perf_counter()
        masked = flower._collect_masked_vectors(state, incoming, 500, self.update)
        lists = {Key.ACTIVE_NODE_ID_LIST: list(range(self.n)), Key.DEAD_NODE_ID_LIST: []}
        flower._unmask(state, ConfigRecord(lists))
        spent += time.perf_counter() - start
        parts = [*masked[Key.MASKED_PARAMETERS], *shares[Key.CIPHERTEXT_LIST]]  # type: ignore[misc]
        self.sent_bytes = sum(len(part) for part in parts)  # type: ignore[arg-type]
        return spent

    def _incoming(self, state: Any) -> ConfigRecord:
        """What the others would have sent: shares of the right size, encrypted for node 0."""
        mine = bytes_to_public_key(state.pk2)
        texts = []
        for k, (secret, _, _) in self.peers.items():
            key = generate_shared_key(bytes_to_private_key(secret), mine)
            text = flower_utils.share_keys_plaintext_concat(
                k, 0, state.rd_seed_share_dict[0], state.sk1_share_dict[0]
            )
            texts.append(encrypt(key, text))
        return ConfigRecord({Key.SOURCE_LIST: list(self.peers), Key.CIPHERTEXT_LIST: texts})


class OurPlatform:
    """A platform's round with made-up reports: its work does not depend on what the vectors are."""

    def __init__(self, n: int, dropped: int, parameters: int) -> None:
        self.league: League = exchange.make_league([f"m{k:03d}" for k in range(n)], bound=4.0)
        roster = self.league.roster
        cohort = tuple(range(n))
        opening = RoundOpen(bytes(32), 1, 0, cohort, cohort, MODEL, MODEL, parameters, 1)
        self.opening, self.ctx = opening, opening.ctx(roster.digest)
        self.survivors, self.dropped = cohort[dropped:], cohort[:dropped]
        pair = {(i, j): os.urandom(32) for i in cohort for j in cohort if i <= j}
        self.seeds = {i: [pair[min(i, j), max(i, j)] for j in cohort] for i in self.survivors}
        self.vector = os.urandom(4 * parameters + 8)
        points = [k + 1 for k in cohort]
        self.dealt = {
            i: shamir.split(b"".join(seeds), points, roster.threshold, os.urandom)
            for i, seeds in self.seeds.items()
        }

    def report(self, author: int) -> bytes:
        ctx, n = self.ctx, len(self.opening.cohort)
        secrets = tuple(
            commitments.commit_secret(ctx, min(author, j), max(author, j), seed)
            for j, seed in enumerate(self.seeds[author])
        )
        roots, sealed = (bytes(16),) * n, (bytes(32 * n + 16),) * n
        identity = list(self.league.identities.values())[author]
        digests = tags.digest(self.vector), tags.digest(*sealed), tags.digest(*secrets, *roots)
        signed = signed_header(identity, ctx, author, *digests)
        return Report(ctx, signed, secrets, roots, sealed, (memoryview(self.vector),)).encode()

    def answer(self, holder: int, digest: bytes) -> bytes:
        own = tuple(self.seeds[holder][d] for d in self.dropped)
        places = (*self.dropped,)
        opened = []
        for author in self.survivors:
            raw = self.dealt[author][holder]
            shares = tuple(raw[32 * k : 32 * k + 32] for k in sorted((*places, author)))
            opened.append(Opened(False, shares, ()))
        unsigned = Answer(holder, self.ctx, digest, own, 1 + len(self.dropped), tuple(opened), b"")
        identity = list(self.league.identities.values())[holder]
        signature = identity.sign(tags.ANSWER, self.ctx, digest, tags.digest(unsigned.body()))
        return replace(unsigned, signature=signature).encode()

    def run(self) -> tuple[float, float]:
        """Seconds of the platform in a round, and of the seeds' reconstruction alone."""
        round_ = PlatformRound(self.league.roster, self.opening)
        spent = 0.0
        for author in self.survivors:
            report = self.report(author)
            spent += seconds(lambda data=report: round_.receive_report(data))  # type: ignore[misc]
        spent += seconds(round_.survivors)
        digest = round_._digest
        identities = list(self.league.identities.values())
        for index in self.survivors:
            round_._confirmations[index] = identities[index].sign(tags.CONFIRM, self.ctx, digest)
        spent += seconds(round_.certificates)
        for holder in self.survivors[: self.league.roster.threshold]:
            answer = self.answer(holder, digest)
            spent += seconds(lambda data=answer: round_.receive_answer(data))  # type: ignore[misc]
        apart = seconds(round_._unmasking().seeds)
        spent += seconds(round_.finish)
        return spent, apart


def flower_platform(n: int, dropped: int, parameters: int) -> float:
    """Flower's unmask stage, composed: every kind of step timed once and multiplied.

    A share of its 306-byte key has as many 16-byte pieces more than one of a seed as the key is longer.
    """
    threshold, active = 2 * n // 3 + 1, n - dropped
    shares = create_shares(os.urandom(32), threshold, n)[:active]
    seed_s = seconds(lambda: combine_shares(shares))
    pieces_seed, pieces_key = 3, 20  # 32 and 306 bytes, padded
    key_s = seed_s * pieces_key / pieces_seed
    vector = [np.zeros(parameters, np.int64)]
    seed = os.urandom(44)
    mask = flower_utils.pseudo_rand_gen(seed, 1 << 32, [(parameters,)])
    mask_s = seconds(lambda: flower_utils.pseudo_rand_gen(seed, 1 << 32, [(parameters,)]))
    add_s = seconds(lambda: vector[0] + mask[0])
    one, two = generate_key_pairs(), generate_key_pairs()
    pair_s = seconds(lambda: generate_shared_key(one[0], two[1]))
    collect_s = active * add_s
    return collect_s + active * (seed_s + mask_s + add_s) + dropped * (key_s + active * (pair_s + mask_s + add_s))


def key_stream(size: int) -> float:
    """Seconds of the bare AES-256-CTR key stream, in the same blocks."""
    stream = Cipher(AES(os.urandom(32)), CTR(bytes(16))).encryptor()
    zeros, out = bytes(BLOCK_SIZE), bytearray(BLOCK_SIZE + 16)
    start = time.perf_counter()
    for _ in range(size // BLOCK_SIZE):
        stream.update_into(zeros, out)
    return time.perf_counter() - start


def expansion(parameters: int, count: int) -> Row:
    """Rate of mask expansion with its additions over the rate of the bare key stream."""
    vector, seeds = Vector.zeros(parameters, 0), [os.urandom(32) for _ in range(count)]
    gigabytes = 4 * parameters / 1e9
    spent = alternate(
        {
            "ours": lambda: seconds(lambda: apply_masks(vector, seeds, [], 1)) / count,
            "bare": lambda: key_stream(4 * parameters),
        },
        5,
    )
    ours, bare = ([gigabytes / turn for turn in spent[name]] for name in ("ours", "bare"))
    return medians("mask_expansion_over_key_stream", ours, "GB/s", bare, "bare AES-256-CTR key stream")


def merchant_rows(sizes: tuple[int, ...], repeats: int) -> list[Row]:
    rows = []
    for n in sizes:
        ours, peer = OurMerchant(n, PARAMETERS), FlowerMerchant(n, PARAMETERS)
        times = alternate({"ours": ours.round, "peer": peer.round}, 1 if n > 30 else 2)
        mine = times["ours"] + [ours.round() for _ in range(repeats - len(times["ours"]))]
        rows.append(medians(f"merchant_6e6_n{n}", mine, "s", times["peer"], FLOWER))
        if n == sizes[0]:
            ready = [ours.round(masks_first=True) for _ in range(repeats)]
            rows.append(medians(f"merchant_6e6_n{n}_masks_expanded", ready, "s", times["peer"], FLOWER))
            rows.append(peak_memory(ours))
        each = [ours.sent_bytes / PARAMETERS], "bytes", [peer.sent_bytes / PARAMETERS], FLOWER
        name = "upload_bytes_per_parameter" if n == sizes[-1] else f"upload_bytes_per_parameter_n{n}"
        rows.append(medians(name, *each))
    return rows


def peak_memory(ours: OurMerchant) -> Row:
    """Peak of what a round allocates, over the vector's size; the update itself is not counted."""
    merchant = ours.league.merchants["m000"]
    ours.number += 1
    opening = ours.league.platform.open_round(ours.number, 0, ours.terms).opening()
    tracemalloc.start()
    merchant.open_round(opening, ours.terms)
    merchant.report(quantise(ours.plan, ours.update))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return medians("merchant_peak_memory_over_vector", [peak / (4 * PARAMETERS)], "ratio")


def platform_rows() -> list[Row]:
    ours = OurPlatform(100, 10, PARAMETERS)
    spent, apart = ours.run()
    peer = flower_platform(100, 10, PARAMETERS)
    return [
        medians("platform_6e6_n100_drop10", [spent], "s", [peer], f"{FLOWER}, composed"),
        medians("platform_seeds_n100_drop10", [apart], "s"),
    ]


def league_rows() -> list[Row]:
    """A merchant's time at 1e5 parameters from 3 to 200 merchants: what does not depend on the model."""
    rows = []
    for n in (3, 10, 30, 100, 200):
        ours = OurMerchant(n, 100_000)
        rows.append(medians(f"merchant_1e5_n{n}", [ours.round() for _ in range(3)], "s"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Secure aggregation beside Flower's legacy SecAgg+.")
    parser.add_argument("--quick", action="store_true", help="at most 50 seconds")
    quick = parser.parse_args().quick
    rows = [expansion(PARAMETERS, 10)]
    rows += merchant_rows((10, 30, 100), 3 if quick else 7)
    rows += platform_rows()
    if not quick:
        rows += league_rows()
    print(table(rows))
    print(write("secagg", rows))


if __name__ == "__main__":
    main()
