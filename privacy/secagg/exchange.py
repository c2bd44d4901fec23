# SPDX-License-Identifier: Apache-2.0
"""Carries messages between one platform and merchants in one process: for the in-process engine and for tests.

The order of calls here is the order of the specification; an adapter over a network makes the same calls.
`Carrier` is the seam where tests drop, repeat and alter messages.

Guarantees:
- a merchant that raises counts as dropped and the others go on
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Protocol

from privacy.secagg.errors import BelowThreshold, Misbehaviour, SecAggError
from privacy.secagg.identity import Identity
from privacy.secagg.keystore import MemoryKeyStore
from privacy.secagg.masks import Vector
from privacy.secagg.merchant import MerchantSession, RoundTerms
from privacy.secagg.platform import PlatformRound, PlatformSession, Sum
from privacy.secagg.roster import Member, Roster, make_roster


class Step(Enum):
    """The steps at which a merchant may drop out."""

    KEYS = "keys"
    KEM = "kem"
    READY = "ready"
    REPORT = "report"
    CONFIRM = "confirm"
    UNMASK = "unmask"


class Carrier(Protocol):
    """What lies between the parties: returns the answer to deliver, or None where it is lost."""

    def __call__(self, step: Step, name: str, answer: Callable[[], bytes]) -> bytes | None: ...


def deliver(step: Step, name: str, answer: Callable[[], bytes]) -> bytes | None:
    """A carrier that loses nothing."""
    return answer()


@dataclass(frozen=True, slots=True)
class League:
    """A league in one process: what simulation and tests start from."""

    roster: Roster
    identities: Mapping[str, Identity]
    stores: Mapping[str, MemoryKeyStore]
    merchants: Mapping[str, MerchantSession]
    platform: PlatformSession


def make_league(
    names: Sequence[str],
    *,
    run: bytes = bytes(16),
    colluders: int | None = None,
    min_survivors: int | None = None,
    scale_log2: int = 20,
    bound: float = 8.0,
) -> League:
    """Fresh identities, a roster with the default thresholds, memory key stores, merchants and a platform."""
    identities = {name: Identity.generate() for name in sorted(names)}
    roster = make_roster(
        "in-process",
        [Member(name, identity.public) for name, identity in identities.items()],
        colluders=colluders,
        min_survivors=min_survivors,
        scale_log2=scale_log2,
        bound=bound,
    )
    stores = {name: MemoryKeyStore() for name in identities}
    merchants = {name: MerchantSession(identities[name], roster, stores[name]) for name in identities}
    return League(roster, identities, stores, merchants, PlatformSession(roster, run))


@dataclass(slots=True)
class Log:
    """What was refused on the way: (step, merchant, error)."""

    refusals: list[tuple[Step, str, SecAggError]] = field(default_factory=list)


def set_up(
    merchants: Mapping[str, MerchantSession],
    platform: PlatformSession,
    *,
    epoch: int,
    base_round: int,
    carry: Carrier = deliver,
    log: Log | None = None,
) -> tuple[str, ...]:
    """Set up an epoch; returns the names that are ready. Raises BelowThreshold when too few take part."""
    log = log or Log()
    setup = platform.open_epoch(epoch, base_round)
    opening = setup.opening()
    for name, merchant in merchants.items():
        _ask(log, carry, Step.KEYS, name, partial(merchant.announce, opening), setup.receive_keys)
    bundle = setup.bundle()
    for name in setup.announced():
        _ask(log, carry, Step.KEM, name, partial(merchants[name].encapsulate, bundle), setup.receive_kem)
    for name, delivery in setup.deliveries().items():
        _ask(log, carry, Step.READY, name, partial(merchants[name].establish, delivery), setup.receive_ready)
    return setup.established()


def run_attempt(
    merchants: Mapping[str, MerchantSession],
    vectors: Mapping[str, Callable[[], Vector]],
    round_: PlatformRound,
    terms: Mapping[str, RoundTerms],
    *,
    carry: Carrier = deliver,
    log: Log | None = None,
) -> Sum:
    """One attempt: three exchanges. `vectors` makes a fresh vector for each merchant of the cohort.

    Raises BelowThreshold or Misbehaviour; nothing was opened then.
    """
    log = log or Log()
    opening = round_.opening()
    here = []
    for name, merchant in merchants.items():
        report = partial(_report, merchant, opening, terms[name], vectors[name])
        if _ask(log, carry, Step.REPORT, name, report, round_.receive_report):
            here.append(name)
    survivors = round_.survivors()
    for name in here:
        confirm = partial(merchants[name].confirm, survivors)
        _ask(log, carry, Step.CONFIRM, name, confirm, round_.receive_confirmation)
    for name, certificate in round_.certificates().items():
        unmask = partial(merchants[name].unmask, certificate)
        _ask(log, carry, Step.UNMASK, name, unmask, round_.receive_answer)
    return round_.finish()


def run_round(
    merchants: Mapping[str, MerchantSession],
    vectors: Mapping[str, Callable[[], Vector]],
    platform: PlatformSession,
    *,
    number: int,
    terms: Mapping[str, RoundTerms],
    platform_terms: RoundTerms,
    cohort: Collection[str] | None = None,
    attempts: int = 2,
    carry: Carrier = deliver,
    log: Log | None = None,
) -> Sum:
    """A round with retries: a later attempt leaves out those who did not report or were named [T1].

    Raises the last attempt's BelowThreshold or Misbehaviour.
    """
    log = log or Log()
    asked = set(merchants if cohort is None else cohort)
    for attempt in range(attempts):
        round_ = platform.open_round(number, attempt, platform_terms, asked)
        try:
            return run_attempt(merchants, vectors, round_, terms, carry=carry, log=log)
        except BelowThreshold:
            if attempt + 1 == attempts:
                raise
        except Misbehaviour as error:
            if attempt + 1 == attempts:
                raise
            asked -= set(error.merchants)
    raise BelowThreshold("expected at least one attempt")


def _report(merchant: MerchantSession, opening: bytes, terms: RoundTerms, vector: Callable[[], Vector]) -> bytes:
    """A witness opens the round and reports nothing."""
    opened = merchant.open_round(opening, terms)
    if merchant.index not in opened.cohort:
        return b""
    return merchant.report(vector())


def _ask(
    log: Log,
    carry: Carrier,
    step: Step,
    name: str,
    answer: Callable[[], bytes],
    receive: Callable[[bytes], str],
) -> bool:
    """Carry one answer and say whether it arrived. A refusal of either side is logged."""
    try:
        message = carry(step, name, answer)
        if message:
            receive(message)
    except SecAggError as error:
        log.refusals.append((step, name, error))
        return False
    return message is not None
