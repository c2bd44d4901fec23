# SPDX-License-Identifier: Apache-2.0
"""One merchant and one platform of ours, with all that the others would send them made beforehand."""

import os
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from privacy.quantisation import VectorPlan, plan_for, quantise
from privacy.secagg import commitments, exchange, keys, shamir, tags
from privacy.secagg.exchange import League
from privacy.secagg.identity import _check
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
from privacy.secagg.setup_messages import Delivery
from privacy.secagg.state import Epoch

MODEL = bytes(32)


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class OurMerchant:
    """Merchant 0 of n with all that the others send it."""

    def __init__(self, n: int, parameters: int) -> None:
        self.league = exchange.make_league([f"m{k:03d}" for k in range(n)], bound=4.0)
        self.merchant = self.league.merchants["m000"]
        self.merchant._state.epoch = Epoch(MODEL, 1, 0, {index: os.urandom(32) for index in range(n)})
        rng = np.random.default_rng(0)
        self.update = {"w": rng.normal(scale=0.1, size=parameters).astype(np.float32)}
        self.plan: VectorPlan = plan_for(self.league.roster, "bench", self.update)
        self.terms = RoundTerms(MODEL, self.plan.digest, self.plan.d, self.plan.e)
        self.n, self.number = n, 0
        self.sent_bytes = 0

    def opening(self) -> RoundOpen:
        """The next round's, of the whole league."""
        self.number += 1
        everybody, terms = tuple(range(self.n)), self.terms
        digests = terms.model_digest, terms.plan_digest
        return RoundOpen(MODEL, self.number, 0, everybody, everybody, *digests, terms.d, terms.e)

    def round(self, masks_first: bool = False) -> float:
        """Seconds of one round; with masks_first their expansion is not on the critical path."""
        merchant, opening = self.merchant, self.opening()
        start = time.perf_counter()
        merchant.open_round(opening.encode(), self.terms)
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

    def _others(self, opening: RoundOpen, merchant: MerchantSession, report: bytes):  # type: ignore[no-untyped-def]
        league = self.league
        ctx = opening.ctx(league.roster.digest)
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


def set_up_s(n: int) -> float:
    """Seconds of merchant 0 in an epoch's set-up: the keys of n - 1 others checked, a ciphertext made for each."""
    league = exchange.make_league([f"m{k:03d}" for k in range(n)])
    merchant, setup = league.merchants["m000"], league.platform.open_epoch(1, 1)
    opening = setup.opening()
    for name, other in league.merchants.items():
        if name != "m000":
            setup.receive_keys(other.announce(opening))
    start = time.perf_counter()
    own = merchant.announce(opening)
    spent = time.perf_counter() - start
    setup.receive_keys(own)
    bundle = setup.bundle()
    _check.cache_clear()  # the platform of this process has verified the same signatures
    start = time.perf_counter()
    merchant.encapsulate(bundle)
    merchant.establish(Delivery(0, ()).encode())
    return spent + time.perf_counter() - start
