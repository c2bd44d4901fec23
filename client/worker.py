# SPDX-License-Identifier: Apache-2.0
"""The merchant's worker: long-lived, holds data, policy and ledger, answers one request at a time.

It is called in process by the simulation and over a UNIX socket by the Flower relay (`client.daemon`). Events are
read once, when first needed; start the worker anew after they changed.

Guarantees:
- A plan that the merchant's policy does not allow is refused before any event is read.
- Arrays that do not fit the model are refused before anything is reserved.
- Privacy is reserved before training, and the answer is on disk and spent before it leaves.
- A request asked twice gets the same answer again: a lost answer costs no second release.
- A claim of secure aggregation is not taken for it: what opens a secure round leaves masked or not at all.
- What is refused quotes the request, the policy and the budget; anything else that fails is not `Refused`.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

import msgspec
import numpy as np
import polars as pl

from client.answers import AnswerStore
from client.errors import Refused
from client.gate import SUMS, gate_sums, models_of
from client.home import Home
from client.popularity import HISTOGRAM, noisy_histogram
from client.runtime import Runtime
from client.secure import SecureSeat
from client.trainer import Draws, TrainingConfig, train_as_one, train_in_shares, train_locally, train_privately
from client.vocabulary import carried
from client.wire import Reply, Request, encode_request
from data.files import load_merchant
from data.samples import EvaluationSet, UserHistories, evaluation_set, histories
from models.errors import ParameterMismatch
from models.parameters import load_public
from privacy.adaptive_clipping import SCALE, SCALES
from privacy.errors import AccountingError, CalibrationError, PolicyRefusal
from privacy.ledger import Ledger
from privacy.noised_exchange import NoisedExchange
from privacy.plan import FAMILY, Mode, PrivacyPlan, Unit
from privacy.policy import RoundRequest
from privacy.secagg.errors import SecAggError
from privacy.secagg.masks import Vector
from privacy.secagg.roster import Roster
from privacy.secagg.vocabulary import CARRIED
from privacy.secagg.vocabulary import QUESTION as VOCABULARY
from privacy.secure_exchange import TRANSPORT, Exchange
from privacy.units import SHARED_NOISE

Act = Callable[[Draws], Reply]
PROXIMAL = "proximal-mu"
PROTOCOL = "secagg"
MAX_RUN_NAME = 200
MAX_STEPS = 10_000
MAX_MERCHANTS = 32  # of one user
# Far from these, float32 rounds a clipped share up past its bound, or overflows.
CLIPPING_NORMS = (1e-6, 1e6)


class Worker:
    """One merchant's worker."""

    def __init__(self, home: Home, runtime: Runtime) -> None:
        self._home = home
        self._runtime = runtime
        self._answers = AnswerStore(home.answers, runtime.durable)
        self._seat = SecureSeat(home, runtime.durable)

    def answer(self, request: Request) -> Reply:
        """Answer a request of the platform.

        Raises:
            Refused: the merchant's policy, its budget, or the request itself forbids it; fit for the platform.
            Exception: anything else (data, ledger, disk) is the merchant's own affair and stays at home.
        """
        if request.kind not in (*FAMILY, VOCABULARY, PROTOCOL):
            known = ", ".join((*FAMILY, VOCABULARY))
            raise Refused(f"request kind {request.kind!r} is unknown; this node takes {known}")
        if not 1 <= len(request.run) <= MAX_RUN_NAME:
            raise Refused(f"a run's name has 1 to {MAX_RUN_NAME} characters, found {len(request.run)}")
        try:
            if request.kind == PROTOCOL:
                return self._seat.follow(request.secagg)
            plan = self._allowed_plan(request)
            act = self._prepared(request, plan)
            if request.secagg:
                return self._masked(request, plan, act)
            return (
                self._once(request, plan, act)
                if _charged(request, plan)
                else act(self._draws(request, self._inputs(request)))
            )
        except (PolicyRefusal, CalibrationError, AccountingError, ParameterMismatch, SecAggError) as refused:
            raise Refused(str(refused)) from None

    @cached_property
    def histories(self) -> UserHistories:
        """The bounded histories of this merchant's users before `train_until`."""
        settings = self._home.settings
        return histories(
            self._events(), self._runtime.vocabulary, until=settings.train_until, max_events=settings.max_events
        )

    @cached_property
    def validation(self) -> EvaluationSet:
        """The weeks on which a candidate release is judged."""
        settings = self._home.settings
        return evaluation_set(
            self._events(),
            self._runtime.vocabulary,
            cut=settings.train_until,
            end=settings.gate_until,
            max_events=settings.max_events,
        )

    def _events(self) -> pl.DataFrame:
        """The merchant's events; where they are home users' only, it may be nobody's home."""
        return load_merchant(self._home.events, may_be_empty=Unit.HOME_USER in self._home.policy.units)

    @cached_property
    def _ledger(self) -> Ledger:
        return Ledger(self._home.ledger, durable=self._runtime.durable)

    def _allowed_plan(self, request: Request) -> PrivacyPlan:
        proposed = _json(request, "plan")
        _check_size(proposed)
        plan = PrivacyPlan.from_dict(proposed)
        if plan.private and not int(request.kind == "train") <= request.round <= plan.rounds:
            raise Refused(f"round {request.round} is outside the plan's {plan.rounds} rounds")
        if plan.private:
            _check_norms(plan)
        task = self._runtime.task.name
        secure = bool(request.secagg)
        stated = _whole(request.settings, "cohort-size")
        cohort_size = self._seat.cohort_size(request.secagg) if secure else stated
        self._home.policy.check(plan, RoundRequest(task, cohort_size, secure_aggregation=secure))
        self._check_vocabulary(request)
        return plan

    def _check_vocabulary(self, request: Request) -> None:
        """The run is over the vocabulary of this home, and enough merchants carry what it holds."""
        own, named = self._runtime.vocabulary, str(request.settings.get(VOCABULARY, ""))
        if named != own.digest:
            raise Refused(
                f"the run is over vocabulary {named[:16] or 'of no name'}, this merchant's runtime.json names "
                f"{own.digest[:16]}; get the league's newest and start the node anew"
            )
        if request.kind != VOCABULARY:
            self._home.policy.check_vocabulary(own.carriers)
        elif own.carriers:
            raise Refused(
                "this league has its vocabulary: a second count over other merchants would show what one of them "
                "carries; count anew over a new catalogue"
            )

    def _prepared(self, request: Request, plan: PrivacyPlan) -> Act:
        """Check all that was sent; what comes back is the part that touches the data."""
        runtime = self._runtime
        if request.kind == "popularity":
            return lambda draws: noisy_histogram(self.histories, runtime.vocabulary.size, plan, draws)
        if request.kind == VOCABULARY:
            return lambda draws: carried(self.histories, runtime.vocabulary.size)
        if request.kind == "gate":
            for model in models_of(request.arrays):
                load_public(runtime.model, runtime.spec, model)
            return lambda draws: gate_sums(runtime, self.histories, self.validation, request.arrays, plan, draws)
        config = _training(request)
        load_public(runtime.model, runtime.spec, request.arrays)
        if plan.mode is Mode.DISTRIBUTED:
            scale = _clipping_scale(request, plan)
            return lambda draws: train_in_shares(runtime, self.histories, plan, draws, scale)
        if plan.mode is Mode.MERCHANT:
            return lambda draws: train_as_one(runtime, self.histories, plan, config, draws)
        if plan.private:
            return lambda draws: train_privately(runtime, self.histories, plan, config, draws)
        return lambda draws: train_locally(runtime, self.histories, config, draws)

    def _masked(self, request: Request, plan: PrivacyPlan, act: Act) -> Reply:
        """The answer as this merchant's part of a masked sum.

        It is made once, after the round was accepted, and is on disk before it is masked: a later attempt masks
        the same numbers anew.
        """

        exchange = self._exchange(request, plan)

        def answer(roster: Roster) -> Vector:
            inputs = self._inputs(request)
            charged = _charged(request, plan)
            reply = self._once(request, plan, act) if charged else self._kept(request, inputs, act)
            if isinstance(exchange, NoisedExchange):
                return exchange.vector(reply.words)
            dither = self._home.key("dither", inputs.hex())
            return exchange.vector(roster, reply.arrays, reply.statistics, reply.weight, dither)

        return self._seat.report(request, exchange, answer)

    def _kept(self, request: Request, inputs: bytes, act: Act) -> Reply:
        reply = self._answers.find(request.run, request.kind, inputs)
        if reply is None:
            reply = act(self._draws(request, inputs))
            self._answers.store(request.run, request.kind, inputs, reply)
        return reply

    def _exchange(self, request: Request, plan: PrivacyPlan) -> Exchange | NoisedExchange:
        """What an answer to this request holds, by this merchant's own knowledge."""
        arrays = self._answered(request)
        if plan.mode in SHARED_NOISE and request.kind != VOCABULARY:
            return NoisedExchange(plan, FAMILY[request.kind], arrays)
        trained_openly = request.kind == "train" and not plan.private
        statistics: dict[str, tuple[int, ...]] = {"loss": (), "users": ()} if trained_openly else {}
        return Exchange(request.kind, arrays, statistics, _whole(request.settings, "max-weight") or 1)

    def _answered(self, request: Request) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the arrays that are asked for."""
        if request.kind == "popularity":
            return {HISTOGRAM: (self._runtime.vocabulary.size + 1,)}
        if request.kind == "gate":
            return {SUMS: (4,)}
        if request.kind == VOCABULARY:
            return {CARRIED: (self._runtime.vocabulary.size,)}
        return {name: request.arrays[name].shape for name in self._runtime.spec.shared}

    def _once(self, request: Request, plan: PrivacyPlan, act: Act) -> Reply:
        inputs = self._inputs(request)
        purpose = FAMILY[request.kind]
        reservation = self._ledger.reserve(
            plan.release_events(purpose),
            run=request.run,
            round=request.round,
            purpose=purpose,
            policy=self._home.policy,
            accountant=plan.accountant,
            inputs_digest=inputs.hex(),
            unit=plan.unit,
            merchants_per_user=plan.merchants_per_user,
        )
        stored = self._answers.find(request.run, request.kind, inputs)
        reply = stored or act(self._draws(request, inputs))
        self._ledger.spend(reservation, self._answers.store(request.run, request.kind, inputs, reply))
        return reply

    def _inputs(self, request: Request) -> bytes:
        """SHA-256 over all that decides an answer: what was asked, the data that it looks at, the secret."""
        settings = {name: value for name, value in request.settings.items() if name not in TRANSPORT}
        asked = replace(request, settings=settings, secagg=b"")
        digest = hashlib.sha256(b"hansa.inputs/1")
        digest.update(hashlib.sha256(encode_request(asked)).digest())
        digest.update(self._data_digest)
        if request.kind == "gate":
            digest.update(self._validation_digest)
        digest.update(self._home.key("inputs"))
        return digest.digest()

    @cached_property
    def _data_digest(self) -> bytes:
        own = self.histories
        return _digest(own.offsets, own.items, own.days, own.quantities)

    @cached_property
    def _validation_digest(self) -> bytes:
        weeks = self.validation
        past, novel, seen = weeks.histories, weeks.targets_novel, weeks.seen
        return _digest(past.offsets, past.items, past.days, novel.offsets, novel.items, seen.offsets, seen.items)

    def _draws(self, request: Request, inputs: bytes) -> Draws:
        """All chance of one answer, fixed by the merchant's secret and everything that was asked."""
        context = (request.kind, request.run, str(request.round), inputs.hex())
        return Draws(self._home.key("sampling", *context), self._home.key("noise", *context))


def _charged(request: Request, plan: PrivacyPlan) -> bool:
    """Whether an answer spends privacy: what a merchant carries has no noise and is in no budget."""
    return plan.private and request.kind in FAMILY


def _digest(*arrays: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> bytes:
    digest = hashlib.sha256(b"hansa.data/1")
    for array in arrays:
        digest.update(np.asarray(array, order="C").tobytes())
    return digest.digest()


def _check_size(proposed: Mapping[str, object]) -> None:
    """A plan so long that accounting for it would keep the node busy is refused unread."""
    merchants = proposed.get("merchants_per_user", 1)
    if isinstance(merchants, int) and merchants > MAX_MERCHANTS:
        raise Refused(f"merchants_per_user may be {MAX_MERCHANTS}, found {merchants}")
    counts = [proposed.get(name, 1) for name in ("rounds", "steps_per_round", "merchants_per_user")]
    sizes = [count for count in counts if isinstance(count, int)]
    if len(sizes) < len(counts) or any(size > MAX_STEPS for size in sizes) or math.prod(sizes) > MAX_STEPS:
        raise Refused(f"rounds x steps_per_round x merchants_per_user may be {MAX_STEPS} in all, found {counts}")


def _check_norms(plan: PrivacyPlan) -> None:
    low, high = CLIPPING_NORMS
    for name in ("clipping_norm", "popularity_clipping_norm", "gate_clipping_norm"):
        if not low <= getattr(plan, name) <= high:
            raise Refused(f"{name} must lie in {low:g}..{high:g}, found {getattr(plan, name):g}")


def _clipping_scale(request: Request, plan: PrivacyPlan) -> float:
    """How many times the plan's clipping norm is asked for; whatever it is, the cost is the plan's."""
    value, (low, high) = request.settings.get(SCALE, 1.0), SCALES if plan.clipping_quantile else (1.0, 1.0)
    if not isinstance(value, (int, float)) or not low <= value <= high:
        raise Refused(f"{SCALE} must lie in {low:g}..{high:g} under this plan, found {value!r}")
    return float(value)


def _whole(settings: Mapping[str, object], name: str) -> int:
    value = settings.get(name, 0)
    if not isinstance(value, int):
        raise Refused(f"{name} must be a whole number")
    return value


def _json(request: Request, name: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(str(request.settings[name]), type=dict[str, object])
    except KeyError:
        raise Refused(f"the request lacks {name}: the platform's version is another one") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as broken:
        raise Refused(f"{name} is not a JSON object: {broken}") from None


def _training(request: Request) -> TrainingConfig:
    settings = _json(request, "training")
    if PROXIMAL in request.settings:  # how Flower's FedProx tells it, each round
        settings["proximal_mu"] = request.settings[PROXIMAL]
    try:
        return msgspec.convert(settings, TrainingConfig)
    except msgspec.ValidationError as wrong:
        raise Refused(f"training: {wrong}") from None
