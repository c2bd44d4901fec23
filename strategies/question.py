# SPDX-License-Identifier: Apache-2.0
"""What a secure round asks: the platform's own view of it, from which both digests and messages are made."""

import json
from dataclasses import dataclass
from typing import Protocol, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from privacy.adaptive_clipping import SCALE
from privacy.noised_exchange import NoisedExchange
from privacy.plan import FAMILY, Mode, PrivacyPlan
from privacy.secagg.masks import Vector
from privacy.secagg.merchant import RoundTerms
from privacy.secagg.roster import Roster
from privacy.secure_exchange import Arrays, Exchange, Opened, Scalars, request_digest
from privacy.units import SHARED_NOISE
from strategies.cohort import ARRAYS, CONFIG, FIXED, Expected
from strategies.errors import BadUpdate

SECAGG, MAX_WEIGHT = "secagg", "max-weight"


class Summed(Protocol):
    """What an answer holds under its mask, and what the sum of such answers stands for."""

    def terms(self, roster: Roster, request: bytes) -> RoundTerms: ...

    def opened(self, roster: Roster, vector: Vector, survivors: int) -> Opened: ...


@dataclass(frozen=True, slots=True)
class Question:
    """One question to a cohort.

    Attributes:
        digest: of all that is asked; merchants compute it over what they received.
        exchange: what an answer holds.
    """

    content: RecordDict
    message_type: str
    digest: bytes
    exchange: Summed

    @classmethod
    def of(cls, messages: list[Message], expected: Expected) -> "Question":
        """The one question that all messages ask.

        Raises:
            ValueError: they ask different things; masks would not cancel.
        """
        by_content = {id(message.content): message for message in messages}
        asked = {(m.metadata.message_type, _digest(m)): m for m in by_content.values()}
        if len(asked) != 1:
            raise ValueError(
                f"a secure cohort asks all merchants the same, found {len(asked)} different questions"
            )
        [((message_type, digest), message)] = asked.items()
        exchange = _exchange(_kind(message_type), _settings(message.content), expected)
        return cls(message.content, message_type, digest, exchange)

    def opening(self, round_open: bytes) -> RecordDict:
        """The question with ROUND_OPEN beside it."""
        config = ConfigRecord({**self.content.config_records.get(CONFIG, ConfigRecord()), SECAGG: round_open})
        return RecordDict({**self.content, CONFIG: config})


def protocol_bytes(reply: Message) -> bytes:
    """The protocol's message in a reply.

    Raises:
        BadUpdate: the reply is an error, or holds none.
    """
    if reply.has_error():
        raise BadUpdate(reply.error.reason or f"error {reply.error.code}")
    try:
        found = reply.content.config_records.get(CONFIG, ConfigRecord()).get(SECAGG)
    except Exception as broken:
        raise BadUpdate(f"the reply is not readable: {type(broken).__name__}") from None
    if not isinstance(found, bytes):
        raise BadUpdate("the reply holds no message of secure aggregation: that node speaks an older version")
    return found


def _exchange(kind: str, settings: Scalars, expected: Expected) -> Summed:
    plan = json.loads(str(settings.get("plan", "{}")))
    if plan.get("mode") not in SHARED_NOISE or kind not in FAMILY:
        max_weight = int(settings.get(MAX_WEIGHT, 1))
        return Exchange(kind, expected.arrays, expected.statistics, max_weight)
    divisor = 1.0
    if kind == MessageType.TRAIN and plan["mode"] == Mode.DISTRIBUTED:
        divisor = plan["sampling_rate"] * json.loads(str(settings["training"]))["expected_users"]
    scale = float(settings.get(SCALE, 1.0))
    return NoisedExchange(PrivacyPlan.from_dict(plan), FAMILY[kind], expected.arrays, divisor, scale)


def _digest(message: Message) -> bytes:
    records = (message.content.array_records.get(name, ArrayRecord()) for name in (ARRAYS, FIXED))
    arrays: Arrays = {name: array.numpy() for record in records for name, array in record.items()}
    return request_digest(_kind(message.metadata.message_type), _settings(message.content), arrays)


def _settings(content: RecordDict) -> Scalars:
    """The settings as every merchant reads them: `server-round` is 0 where none is named."""
    settings = dict(content.config_records.get(CONFIG, ConfigRecord()))
    return cast(Scalars, {"server-round": 0, **settings})


def _kind(message_type: str) -> str:
    return message_type.split(".")[-1]
