# SPDX-License-Identifier: Apache-2.0
"""The platform's machine: carries messages, adds masked vectors as they come, opens one sum (specification §5).

Guarantees:
- vectors are added as they arrive and not kept
- a late, repeated, altered or foreign message is refused and changes nothing
- a sum is opened only over at least n_min survivors
- the sum is exact for every pattern of drop-outs within the threshold

Assumes nothing about merchants beyond the roster; up to c of them may lie and are named.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from privacy.secagg import masks, tags
from privacy.secagg.errors import BelowThreshold, Misbehaviour, PeerRefused, Replayed, StateRefused
from privacy.secagg.identity import verify
from privacy.secagg.masks import Vector
from privacy.secagg.merchant import RoundTerms
from privacy.secagg.platform_setup import EpochSetup
from privacy.secagg.roster import Roster
from privacy.secagg.round_messages import (
    Answer,
    Certificate,
    Confirmation,
    Report,
    RoundOpen,
    Sealed,
    Survivors,
    survivors_digest,
)
from privacy.secagg.unmasking import Blame, Unmasking


class PlatformStage(IntEnum):
    """What the platform is waiting for in a round."""

    REPORTS = 0
    CONFIRMATIONS = 1
    ANSWERS = 2
    FINISHED = 3


@dataclass(frozen=True, slots=True)
class Sum:
    """An opened sum over `survivors` (names). `blames` names merchants that misbehaved on the way."""

    vector: Vector
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]
    blames: tuple[Blame, ...]


class PlatformRound:
    """One attempt of one round."""

    def __init__(self, roster: Roster, opening: RoundOpen) -> None:
        self._roster = roster
        self._opening = opening
        self._ctx = opening.ctx(roster.digest)
        self._stage = PlatformStage.REPORTS
        self._sum = Vector.zeros(opening.d, opening.e)
        self._reports: dict[int, Report] = {}
        self._disputes: dict[int, set[int]] = {}
        self._confirmations: dict[int, bytes] = {}
        self._answers: dict[int, Answer] = {}
        self._digest = b""
        self.blames: list[Blame] = []

    def opening(self) -> bytes:
        """ROUND_OPEN, the same for every member."""
        return self._opening.encode()

    @property
    def members(self) -> tuple[str, ...]:
        """Who is due ROUND_OPEN: the cohort and its witnesses."""
        return self._roster.names(self._opening.members)

    def receive_report(self, data: bytes) -> str:
        """[A9] Add a merchant's masked vector to the sum; returns its name.

        Raises PeerRefused when it does not verify or disagrees with an accepted report about a pair's seed.
        """
        message = Report.decode(data)
        opening, index = self._opening, message.signed.index
        name = self._admit(index, opening.cohort, self._reports, PlatformStage.REPORTS, message.ctx)
        if (len(message.secrets), len(message.roots)) != (len(opening.cohort), len(opening.members)):
            raise PeerRefused(f"{name} reported for a cohort or members of another size")
        vector = Vector.from_bytes(message.vector[0], opening.d, opening.e)
        signed = message.signed
        found = (
            tags.digest(message.vector[0]),
            tags.digest(*message.sealed),
            tags.digest(*message.secrets, *message.roots),
        )
        if found != (signed.vector_digest, signed.sealed_digest, signed.commitments_digest):
            raise PeerRefused(f"{name}'s report differs from what it signed")
        key = self._roster.members[index].key
        verify(key, signed.signature, f"report of {name}", tags.REPORT, self._ctx, signed.header())
        self._check_pairs(index, message)
        self._sum.add(vector)
        self._reports[index] = replace(message, vector=())
        return name

    def reported(self) -> tuple[str, ...]:
        return self._roster.names(self._reports.keys())

    def survivors(self) -> bytes:
        """[C1] Close the reports; SURVIVORS, the same for every member.

        Raises BelowThreshold when fewer than n_min reported, Misbehaviour when that is one liar's doing.
        """
        self._expect(PlatformStage.REPORTS)
        liars = [index for index, others in self._disputes.items() if len(others) > self._roster.colluders]
        if len(self._reports) < self._roster.min_survivors:
            if liars:
                names = self._roster.names(liars)
                raise Misbehaviour(f"{', '.join(names)} disagrees with more than c others about pair seeds", names)
            raise BelowThreshold(
                f"expected {self._roster.min_survivors} reports, found {len(self._reports)}; open another attempt"
            )
        self._stage = PlatformStage.CONFIRMATIONS
        headers = tuple(self._reports[index].signed for index in sorted(self._reports))
        self._digest = survivors_digest(self._ctx, headers)
        return Survivors(self._ctx, headers).encode()

    def receive_confirmation(self, data: bytes) -> str:
        """[C3] A member's CONFIRMATION; returns its name."""
        message = Confirmation.decode(data)
        stage = PlatformStage.CONFIRMATIONS
        name = self._admit(message.index, self._opening.members, self._confirmations, stage, message.ctx)
        if message.survivors_digest != self._digest:
            raise PeerRefused(f"{name} confirms another survivor list")
        key = self._roster.members[message.index].key
        verify(key, message.signature, f"confirmation of {name}", tags.CONFIRM, self._ctx, self._digest)
        self._confirmations[message.index] = message.signature
        return name

    def confirmed(self) -> tuple[str, ...]:
        return self._roster.names(self._confirmations.keys())

    def certificates(self) -> dict[str, bytes]:
        """[U1] Close the confirmations; CERTIFICATE for each member that confirmed.

        Raises BelowThreshold when fewer than t confirmed; nothing was opened, another attempt may follow.
        """
        self._expect(PlatformStage.CONFIRMATIONS)
        if len(self._confirmations) < self._roster.threshold:
            raise BelowThreshold(
                f"expected {self._roster.threshold} confirmations, found {len(self._confirmations)}; "
                "open another attempt"
            )
        self._stage = PlatformStage.ANSWERS
        return {
            self._roster.members[index].name: self._certificate(index).encode()
            for index in sorted(self._confirmations)
        }

    def receive_answer(self, data: bytes) -> str:
        """[U4] A member's ANSWER; returns its name."""
        message = Answer.decode(data)
        name = self._admit(
            *(message.index, tuple(self._confirmations), self._answers, PlatformStage.ANSWERS, message.ctx)
        )
        dropped = len(self._opening.cohort) - len(self._reports)
        own = dropped if message.index in self._reports else 0
        if (len(message.own), len(message.opened), message.shares) != (own, len(self._reports), 1 + dropped):
            raise PeerRefused(f"{name} answered for another survivor list")
        key, digest = self._roster.members[message.index].key, tags.digest(message.body())
        verify(key, message.signature, f"answer of {name}", tags.ANSWER, self._ctx, self._digest, digest)
        self._answers[message.index] = message
        return name

    def enough_answers(self) -> bool:
        """Whether `finish` may be tried: t answers came."""
        return len(self._answers) >= self._roster.threshold

    def finish(self) -> Sum:
        """[U5], [U6] The sum over the survivors.

        Raises BelowThreshold while too few good shares came (more answers may still be given), Misbehaviour when
        an author's commitments are wrong.
        """
        self._expect(PlatformStage.ANSWERS)
        if not self.enough_answers():
            raise BelowThreshold(
                f"expected {self._roster.threshold} answers, found {len(self._answers)}; the round stays closed, "
                "go on with the next"
            )
        opening = self._opening
        added, taken = self._unmasking().seeds()
        masks.apply_masks(self._sum, plus=taken, minus=added)
        self._stage = PlatformStage.FINISHED
        dropped = [index for index in opening.cohort if index not in self._reports]
        return Sum(self._sum, self.reported(), self._roster.names(dropped), tuple(self.blames))

    def _unmasking(self) -> Unmasking:
        cohort, members = self._opening.cohort, self._opening.members
        return Unmasking(self._roster, self._ctx, cohort, members, self._reports, self._answers, self.blames)

    def _check_pairs(self, index: int, message: Report) -> None:
        """Both ends of a pair commit to the same seed."""
        cohort = self._opening.cohort
        others = {
            other
            for other, report in self._reports.items()
            if report.secrets[cohort.index(index)] != message.secrets[cohort.index(other)]
        }
        if not others:
            return
        for other in others:
            self._disputes.setdefault(other, set()).add(index)
            pair = self._roster.names((index, other))
            self.blames.append(Blame(pair, "they commit to different seeds of their pair"))
        self._disputes.setdefault(index, set()).update(others)
        raise PeerRefused(
            f"{self._roster.members[index].name} and {', '.join(self._roster.names(others))} commit to different "
            "seeds of their pairs; one of each pair lies"
        )

    def _certificate(self, index: int) -> Certificate:
        survivors = tuple(sorted(self._reports))
        signatures = sorted(self._confirmations.items())[: self._roster.threshold]
        place = self._opening.members.index(index)
        sealed = tuple(
            Sealed(self._reports[author].roots[place], self._reports[author].sealed[place]) for author in survivors
        )
        shares = len(self._opening.cohort)
        return Certificate(index, self._ctx, survivors, self._digest, tuple(signatures), shares, sealed)

    def _admit(
        self, index: int, allowed: Sequence[int], seen: Collection[int], stage: PlatformStage, ctx: bytes
    ) -> str:
        if index not in allowed:
            raise PeerRefused(f"number {index} has no part in this step of the round")
        name = self._roster.members[index].name
        if ctx != self._ctx:
            raise PeerRefused(f"{name}'s message belongs to another round, attempt, cohort or model")
        if index in seen:
            raise Replayed(f"{name}'s message for {stage.name} came twice")
        if self._stage is not stage:
            raise StateRefused(f"{name}'s message is for {stage.name}, the round stands at {self._stage.name}")
        return name

    def _expect(self, stage: PlatformStage) -> None:
        if self._stage is not stage:
            raise StateRefused(f"the round stands at {self._stage.name}, expected {stage.name}")


class PlatformSession:
    """The platform in one roster: makes epochs and rounds, and keeps the newest established epoch."""

    def __init__(self, roster: Roster, run: bytes) -> None:
        """`run` is 16 bytes that name the run."""
        self.roster = roster
        self.run = run
        self.epoch: EpochSetup | None = None

    def open_epoch(self, epoch: int, base_round: int) -> EpochSetup:
        """A new epoch for the rounds from base_round on; both numbers rise for the roster's whole life."""
        self.epoch = EpochSetup(self.roster, self.run, epoch, base_round)
        return self.epoch

    def needs_epoch(self, round_: int) -> bool:
        """Whether a set-up must come before this round."""
        if self.epoch is None or len(self.epoch.ready) < self.roster.threshold:
            return True
        return not 0 <= round_ - self.epoch.base_round < self.roster.epoch_rounds

    def open_round(
        self, round_: int, attempt: int, terms: RoundTerms, cohort: Collection[str] | None = None
    ) -> PlatformRound:
        """Open an attempt of a round. Members are all that are ready; the cohort is those of them that are named.

        Round numbers rise for the roster's whole life, over runs and restarts. Raises StateRefused without a
        fitting epoch, BelowThreshold when the cohort is too small.
        """
        epoch = self.epoch
        if epoch is None or self.needs_epoch(round_):
            raise StateRefused(f"round {round_} needs a new epoch's set-up first")
        members = tuple(sorted(epoch.ready))
        asked = members if cohort is None else tuple(sorted(self.roster.index_of(name) for name in cohort))
        asked = tuple(index for index in asked if index in epoch.ready)
        if len(asked) < self.roster.min_survivors:
            raise BelowThreshold(f"expected a cohort of {self.roster.min_survivors}, found {len(asked)}")
        digests = terms.model_digest, terms.plan_digest
        opening = RoundOpen(epoch.digest, round_, attempt, members, asked, *digests, terms.d, terms.e)
        return PlatformRound(self.roster, opening)
