# SPDX-License-Identifier: Apache-2.0
"""The platform's side of an epoch's set-up (specification §4). It holds no secret: merchants trust none of it.

Guarantees:
- a merchant that drops out during set-up does not stop the others
- what does not verify is refused and named
"""

from enum import IntEnum

from privacy.secagg import tags
from privacy.secagg.errors import BelowThreshold, PeerRefused, Replayed, StateRefused
from privacy.secagg.identity import verify
from privacy.secagg.merchant_setup import epoch_digest
from privacy.secagg.roster import Roster
from privacy.secagg.setup_messages import Bundle, Capsule, Delivery, EpochOpen, Kem, Keys, Ready


class SetupStage(IntEnum):
    """What the platform is waiting for."""

    KEYS = 0
    KEM = 1
    READY = 2


class EpochSetup:
    """Collects and hands out one epoch's keys and ciphertexts."""

    def __init__(self, roster: Roster, run: bytes, epoch: int, base_round: int) -> None:
        """`run` is 16 bytes. `epoch` and `base_round` must be above every earlier one of this roster."""
        self._roster = roster
        self._opening = EpochOpen(roster.digest, run, epoch, base_round)
        self._stage = SetupStage.KEYS
        self._keys: dict[int, Keys] = {}
        self._kems: dict[int, Kem] = {}
        self._bundle = Bundle(())
        self.base_round = base_round
        self.digest = b""
        self.ready: set[int] = set()

    def opening(self) -> bytes:
        """EPOCH_OPEN, the same for everybody."""
        return self._opening.encode()

    def receive_keys(self, data: bytes) -> str:
        """[E1] A merchant's KEYS; returns its name."""
        message = Keys.decode(data)
        name = self._admit(message.index, self._keys, SetupStage.KEYS)
        key = self._roster.members[message.index].key
        verify(key, message.signature, f"keys of {name}", tags.KEYS, self._opening.binding(), message.signed())
        self._keys[message.index] = message
        return name

    def bundle(self) -> bytes:
        """[E2] BUNDLE, the same for everybody that sent KEYS; BelowThreshold when too few did."""
        self._move(SetupStage.KEYS, SetupStage.KEM, len(self._keys), "announced keys")
        self._bundle = Bundle(tuple(self._keys[index] for index in sorted(self._keys)))
        self.digest = epoch_digest(self._opening, self._bundle)
        return self._bundle.encode()

    def announced(self) -> tuple[str, ...]:
        """Who sent KEYS and is due a BUNDLE."""
        return self._roster.names(self._keys.keys())

    def receive_kem(self, data: bytes) -> str:
        """[E3] A merchant's KEM; returns its name. Ciphertexts are checked by those that they are for."""
        message = Kem.decode(data)
        name = self._admit(message.index, self._kems, SetupStage.KEM)
        due = tuple(index for index in sorted(self._keys) if index > message.index)
        if tuple(capsule.other for capsule in message.capsules) != due:
            raise PeerRefused(f"{name} sent ciphertexts for other merchants than the {len(due)} above it")
        self._kems[message.index] = message
        return name

    def deliveries(self) -> dict[str, bytes]:
        """[E4] DELIVERY for each merchant that sent KEM; BelowThreshold when too few did."""
        self._move(SetupStage.KEM, SetupStage.READY, len(self._kems), "sent ciphertexts")
        return {
            self._roster.members[index].name: Delivery(index, self._capsules_for(index)).encode()
            for index in sorted(self._kems)
        }

    def receive_ready(self, data: bytes) -> str:
        """[E5] A merchant's READY; returns its name."""
        message = Ready.decode(data)
        name = self._admit(message.index, dict.fromkeys(self.ready), SetupStage.READY)
        if message.epoch_digest != self.digest:
            raise PeerRefused(f"{name} is ready for another epoch")
        key = self._roster.members[message.index].key
        verify(key, message.signature, f"readiness of {name}", tags.READY, self.digest)
        if message.index not in self._kems:
            raise PeerRefused(f"{name} is ready without having sent its ciphertexts")
        self.ready.add(message.index)
        return name

    def established(self) -> tuple[str, ...]:
        """Who is ready; BelowThreshold when too few are for any round."""
        if len(self.ready) < self._roster.threshold:
            needed = self._roster.threshold
            raise BelowThreshold(
                f"expected {needed} merchants that are ready, found {len(self.ready)}; try a new epoch"
            )
        return self._roster.names(self.ready)

    def _capsules_for(self, index: int) -> tuple[Capsule, ...]:
        capsules = []
        for sender in sorted(self._kems):
            for capsule in self._kems[sender].capsules:
                if capsule.other == index:
                    capsules.append(Capsule(sender, capsule.ciphertext, capsule.mac, capsule.signature))
        return tuple(capsules)

    def _admit(
        self, index: int, seen: dict[int, object] | dict[int, Keys] | dict[int, Kem], stage: SetupStage
    ) -> str:
        if index >= len(self._roster.members):
            raise PeerRefused(f"number {index} is outside the roster of {len(self._roster.members)} merchants")
        name = self._roster.members[index].name
        if self._stage is not stage:
            raise StateRefused(f"{name}'s {stage.name} came while set-up waits for {self._stage.name}")
        if index in seen:
            raise Replayed(f"{name}'s {stage.name} came twice")
        return name

    def _move(self, stage: SetupStage, following: SetupStage, count: int, what: str) -> None:
        if self._stage is not stage:
            raise StateRefused(f"set-up waits for {self._stage.name}, not for {stage.name}")
        needed = max(self._roster.threshold, self._roster.min_survivors)
        if count < needed:
            raise BelowThreshold(f"expected {needed} merchants that {what}, found {count}; try a new epoch")
        self._stage = following
