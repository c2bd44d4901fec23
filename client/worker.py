# SPDX-License-Identifier: Apache-2.0
"""The merchant's worker: long-lived, holds data, policy and ledger, answers one request at a time.

It is called in process by the simulation and over a UNIX socket by the Flower relay (`client.daemon`).

Guarantees:
- A plan that the merchant's policy does not allow is refused before any event is read.
- Privacy is reserved before training, and the answer is on disk and spent before it leaves.
- A request asked twice gets the same answer again: a lost answer costs no second release.
"""

import hashlib
from collections.abc import Callable
from functools import cached_property

import msgspec
import numpy as np

from client.answers import AnswerStore
from client.errors import Refused
from client.gate import gate_sums
from client.home import Home
from client.popularity import noisy_histogram
from client.runtime import Runtime
from client.trainer import Draws, TrainingConfig, train_locally, train_privately
from client.wire import Reply, Request, encode_request
from data.files import load_merchant
from data.samples import EvaluationSet, UserHistories, evaluation_set, histories
from models.errors import ModelError
from models.parameters import load_public
from privacy.errors import PrivacyError
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from privacy.policy import RoundRequest

Act = Callable[[Request, PrivacyPlan], Reply]
PURPOSE = {"train": "training", "popularity": "popularity", "gate": "gate"}


class Worker:
    """One merchant's worker."""

    def __init__(self, home: Home, runtime: Runtime) -> None:
        self._home = home
        self._runtime = runtime
        self._answers = AnswerStore(home.answers, runtime.durable)
        self._acts: dict[str, Act] = {"train": self._train, "popularity": self._popularity, "gate": self._gate}

    def answer(self, request: Request) -> Reply:
        """Answer a request of the platform.

        Raises:
            Refused: the merchant's policy, its budget, or the request itself forbids it.
        """
        act = self._acts.get(request.kind)
        if act is None:
            raise Refused(f"request kind {request.kind!r} is unknown; this node takes {', '.join(self._acts)}")
        try:
            plan = self._allowed_plan(request)
            return self._once(request, plan, act) if plan.private else act(request, plan)
        except (PrivacyError, ModelError) as refused:
            raise Refused(str(refused)) from None

    @cached_property
    def histories(self) -> UserHistories:
        """The bounded histories of this merchant's users before `train_until`."""
        settings = self._home.settings
        events = load_merchant(self._home.events)
        return histories(
            events, self._runtime.vocabulary, until=settings.train_until, max_events=settings.max_events
        )

    @cached_property
    def validation(self) -> EvaluationSet:
        """The weeks on which a candidate release is judged."""
        settings = self._home.settings
        return evaluation_set(
            load_merchant(self._home.events),
            self._runtime.vocabulary,
            cut=settings.train_until,
            end=settings.gate_until,
            max_events=settings.max_events,
        )

    def _allowed_plan(self, request: Request) -> PrivacyPlan:
        plan = PrivacyPlan.from_dict(_json(request, "plan"))
        if plan.private and not 0 <= request.round <= plan.rounds:
            raise Refused(f"round {request.round} is outside the plan's {plan.rounds} rounds")
        self._home.policy.check(
            plan,
            RoundRequest(
                task=self._runtime.task.name,
                cohort_size=int(request.settings.get("cohort-size", 0)),
                secure_aggregation=request.settings.get("aggregation") == "secure",
            ),
        )
        return plan

    def _once(self, request: Request, plan: PrivacyPlan, act: Act) -> Reply:
        inputs = self._inputs_digest(request)
        ledger = Ledger(self._home.ledger, durable=self._runtime.durable)
        purpose = PURPOSE[request.kind]
        reservation = ledger.reserve(
            plan.release_events(purpose),
            run=request.run,
            round=request.round,
            purpose=purpose,
            policy=self._home.policy,
            accountant=plan.accountant,
            inputs_digest=inputs.hex(),
        )
        stored = self._answers.find(request.run, request.kind, inputs)
        reply = stored or act(request, plan)
        ledger.spend(reservation, self._answers.store(request.run, request.kind, inputs, reply))
        return reply

    def _inputs_digest(self, request: Request) -> bytes:
        digest = hashlib.sha256(b"hansa.inputs/1")
        digest.update(hashlib.sha256(encode_request(request)).digest())
        digest.update(self._data_digest)
        digest.update(self._home.key("inputs"))
        return digest.digest()

    @cached_property
    def _data_digest(self) -> bytes:
        digest = hashlib.sha256(b"hansa.data/1")
        own = self.histories
        for array in (own.offsets, own.items, own.days, own.quantities):
            digest.update(np.asarray(array, order="C").tobytes())
        return digest.digest()

    def _draws(self, request: Request) -> Draws:
        """All chance of one answer, fixed by the merchant's secret and everything that was asked."""
        context = (request.kind, request.run, str(request.round), self._inputs_digest(request).hex())
        return Draws(self._home.key("sampling", *context), self._home.key("noise", *context))

    def _train(self, request: Request, plan: PrivacyPlan) -> Reply:
        runtime, config = self._runtime, _training(request)
        load_public(runtime.model, runtime.spec, request.arrays)
        draws = self._draws(request)
        if plan.private:
            return train_privately(runtime, self.histories, plan, config, draws)
        return train_locally(runtime, self.histories, config, draws)

    def _popularity(self, request: Request, plan: PrivacyPlan) -> Reply:
        return noisy_histogram(self.histories, self._runtime.vocabulary.size, plan, self._draws(request))

    def _gate(self, request: Request, plan: PrivacyPlan) -> Reply:
        return gate_sums(
            self._runtime, self.histories, self.validation, request.arrays, plan, self._draws(request)
        )


def _json(request: Request, name: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(str(request.settings[name]), type=dict[str, object])
    except KeyError:
        raise Refused(f"the request lacks {name}: the platform's version is another one") from None
    except msgspec.MsgspecError as broken:
        raise Refused(f"{name} is not a JSON object: {broken}") from None


def _training(request: Request) -> TrainingConfig:
    try:
        return msgspec.convert(_json(request, "training"), TrainingConfig)
    except msgspec.ValidationError as wrong:
        raise Refused(f"training: {wrong}") from None
