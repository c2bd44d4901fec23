# SPDX-License-Identifier: Apache-2.0
"""The platform's last step: from answers to seeds, from seeds to the sum (specification [U5], [U6]).

Guarantees:
- a seed that differs from its commitment is never used
- a wrong share names the member that sent it
- shares that prove and give a wrong seed name the author
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from privacy.secagg import commitments, shamir, tags
from privacy.secagg.errors import BelowThreshold, Misbehaviour, PeerRefused
from privacy.secagg.roster import Roster
from privacy.secagg.round_messages import Answer, Report


@dataclass(frozen=True, slots=True)
class Blame:
    """Who did what. Several merchants: one of them lies and the evidence does not say which."""

    merchants: tuple[str, ...]
    reason: str


@dataclass(slots=True)
class Unmasking:
    """What is needed to open one sum. `reports` are the survivors', without their vectors."""

    roster: Roster
    ctx: bytes
    cohort: tuple[int, ...]
    members: tuple[int, ...]
    reports: Mapping[int, Report]
    answers: Mapping[int, Answer]
    blames: list[Blame]
    rows: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = {author: row for row, author in enumerate(sorted(self.reports))}

    def seeds(self) -> tuple[list[bytes], list[bytes]]:
        """Seeds of the masks in the sum: those that were added to it and those that were taken from it.

        Raises BelowThreshold when too few good shares came yet, Misbehaviour when an author's seeds are wrong.
        """
        dropped = tuple(index for index in self.cohort if index not in self.reports)
        added: list[bytes] = []
        taken: list[bytes] = []
        for author in self.rows:
            own = self._told(author, dropped)
            wanted = (author, *dropped) if own is None else (author,)
            shared = self._recover(author, wanted, dropped)
            added.append(shared[author])
            for index in dropped:
                seed = shared[index] if own is None else own[index]
                (added if index > author else taken).append(seed)
        return added, taken

    def _told(self, author: int, dropped: Sequence[int]) -> dict[int, bytes] | None:
        """The pair seeds that the author itself told, if it answered and they are what it committed to."""
        answer = self.answers.get(author)
        if answer is None:
            return None
        own = dict(zip(dropped, answer.own, strict=True))
        if all(self._is_committed(author, index, seed) for index, seed in own.items()):
            return own
        self._blame((author,), "told other pair seeds than it committed to")
        return None

    def _recover(self, author: int, wanted: Sequence[int], dropped: Sequence[int]) -> dict[int, bytes]:
        """Seeds of the author from t shares; on a mismatch once more without the shares that do not prove."""
        holders = self._holders(author)
        seeds = self._combine(author, wanted, dropped, holders)
        if all(self._is_committed(author, index, seed) for index, seed in seeds.items()):
            return seeds
        good = [holder for holder in holders if self._proves(author, holder, dropped)]
        seeds = self._combine(author, wanted, dropped, good)
        if all(self._is_committed(author, index, seed) for index, seed in seeds.items()):
            return seeds
        names = self.roster.names((author,))
        self._blame((author,), "dealt shares of other secrets than it committed to")
        raise Misbehaviour(f"{names[0]} committed to other seeds than it shared; the round is lost", names)

    def _holders(self, author: int) -> list[int]:
        holders = []
        for holder, answer in sorted(self.answers.items()):
            if answer.opened[self.rows[author]].complaint:
                self._blame((author, holder), "one dealt bad shares or the other says so falsely")
            else:
                holders.append(holder)
        return holders

    def _combine(
        self, author: int, wanted: Sequence[int], dropped: Sequence[int], holders: Sequence[int]
    ) -> dict[int, bytes]:
        needed = self.roster.threshold
        if len(holders) < needed:
            name = self.roster.members[author].name
            raise BelowThreshold(f"expected {needed} good shares of {name}'s seeds, found {len(holders)}")
        chosen = holders[:needed]
        order = sorted((author, *dropped))
        places = [order.index(index) for index in wanted]
        row = self.rows[author]
        shares = [self.answers[holder].opened[row].shares for holder in chosen]
        joined = [b"".join(share[place] for place in places) for share in shares]
        raw = shamir.combine(joined, [holder + 1 for holder in chosen])
        size = tags.KEY_SIZE
        return {index: raw[k * size : (k + 1) * size] for k, index in enumerate(wanted)}

    def _proves(self, author: int, holder: int, dropped: Sequence[int]) -> bool:
        opened = self.answers[holder].opened[self.rows[author]]
        order = sorted((author, *dropped))
        leaves = {
            self.cohort.index(index): (index, share) for index, share in zip(order, opened.shares, strict=True)
        }
        root = self.reports[author].roots[self.members.index(holder)]
        try:
            commitments.check_proof(root, self.ctx, author, holder, leaves, len(self.cohort), opened.nodes)
        except PeerRefused:
            self._blame((holder,), "sent shares that differ from what it was dealt")
            return False
        return True

    def _is_committed(self, author: int, index: int, seed: bytes) -> bool:
        expected = self.reports[author].secrets[self.cohort.index(index)]
        low, high = min(author, index), max(author, index)
        return commitments.commit_secret(self.ctx, low, high, seed) == expected

    def _blame(self, merchants: tuple[int, ...], reason: str) -> None:
        blame = Blame(self.roster.names(merchants), reason)
        if blame not in self.blames:
            self.blames.append(blame)
