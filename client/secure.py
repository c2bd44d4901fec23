# SPDX-License-Identifier: Apache-2.0
"""The merchant's half of a secure round: its answer as one summand of a masked sum, and the steps after it.

All state lies in the home, behind a lock that is held for one message: any process of the merchant may answer
the next one (docs/secure-aggregation.md, §5 and §14). Each roster that was ever pinned has a key store of its own,
which is never deleted.

Guarantees:
- A roster that promises less than the merchant's policy asks is refused.
- A round is checked against what this merchant received before anything is computed for it.
- What was answered once is opened over one list of survivors only, in any later round.
- A roster that is pinned again goes on where it stood.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from client.enrolment import FOLDER, open_identity, open_pinned
from client.errors import HomeError, Refused
from client.home import Home
from client.wire import Reply, Request
from privacy.noised_exchange import NoisedExchange
from privacy.secagg import wire
from privacy.secagg.errors import RequestRefused, StateRefused
from privacy.secagg.identity import Identity
from privacy.secagg.keystore import FileKeyStore
from privacy.secagg.masks import Vector
from privacy.secagg.merchant import MerchantSession
from privacy.secagg.roster import Requirements, Roster
from privacy.secagg.round_messages import Certificate, RoundOpen, Survivors
from privacy.secure_exchange import Exchange, request_digest

STATE, OPENED = "state-{}.bin", "opened.bin"
DIGEST_BYTES = 32
NOT_ENROLLED = (
    "this merchant is in no roster of secure aggregation: enrol it, or ask in clear where it allows that"
)


class SecureSeat:
    """One merchant's seat in its roster."""

    def __init__(self, home: Home, durable: bool) -> None:
        self._home = home
        self._durable = durable
        self._log = OpenedLog(home.path / FOLDER / OPENED, durable)

    def cohort_size(self, opening: bytes) -> int:
        """How many merchants ROUND_OPEN asks; raises `SecAggError`."""
        return len(RoundOpen.decode(opening).cohort)

    def report(
        self, request: Request, exchange: Exchange | NoisedExchange, answer: Callable[[Roster], Vector]
    ) -> Reply:
        """REPORT to a request that carries ROUND_OPEN; empty for a witness, who is asked for no vector.

        `answer` computes the vector; it is called when the round has been accepted and is on disk as used. A
        thread expands the masks meanwhile: they do not depend on it, and without a vector none of them leaves.

        Raises:
            Refused: this merchant is in no roster.
            SecAggError: the round, or the answer's numbers, are not fit for it.
        """
        settings = {**request.settings, "run": request.run, "server-round": request.round}
        asked = request_digest(request.kind, settings, request.arrays)
        with self._session() as session:
            opened = session.open_round(request.secagg, exchange.terms(self._roster, asked))
            if session.index not in opened.cohort:
                return _masked(b"")
            with ThreadPoolExecutor(1) as aside:  # [A3]
                expanded = aside.submit(session.expand_masks)
                vector = answer(self._roster)
                expanded.result()
            return _masked(session.report(vector))

    def follow(self, message: bytes) -> Reply:
        """The answer to any message after or before REPORT: set-up, SURVIVORS, CERTIFICATE.

        Raises:
            Refused: this merchant is in no roster.
            SecAggError: the message does not fit; nothing has changed then.
        """
        with self._session() as session:
            kind = wire.kind_of(message)
            if kind == Survivors.KIND:
                self._check_list(session, {signed.index for signed in Survivors.decode(message).headers})
            if kind == Certificate.KIND:
                self._check_list(session, set(session.confirmed))
            answer = session.receive(message)
            if kind == Certificate.KIND and session.opening is not None:
                self._log.note(session.opening.model_digest, self._listed(session.confirmed))
            return _masked(answer)

    def _check_list(self, session: MerchantSession, survivors: Set[int]) -> None:
        """[T3] The same request is never opened over a second list; an empty one is the session's to refuse."""
        if session.opening is None or not survivors:
            return
        before = self._log.find(session.opening.model_digest)
        if before is not None and before != self._listed(survivors):
            raise RequestRefused(
                "this request was answered before over other survivors; the difference of both sums would show "
                "single merchants: go on with the next round"
            )

    def _listed(self, survivors: Iterable[int]) -> bytes:
        """Who they are, 32 bytes: by key, as another roster may number them anew and give a name to another."""
        listed, members = set(survivors), enumerate(self._roster.members)
        return hashlib.sha256(b"".join(sorted(m.key for index, m in members if index in listed))).digest()

    @cached_property
    def _identity(self) -> Identity:
        return open_identity(self._home)

    @cached_property
    def _roster(self) -> Roster:
        return open_pinned(self._home)

    @contextmanager
    def _session(self) -> Iterator[MerchantSession]:
        try:
            identity, roster = self._identity, self._roster
        except HomeError:
            if (self._home.path / FOLDER).exists():
                raise
            raise Refused(NOT_ENROLLED) from None
        policy = self._home.policy
        requirements = Requirements(policy.min_survivors, policy.min_colluders)
        store = FileKeyStore(self._home.path / FOLDER / STATE.format(roster.digest.hex()), durable=self._durable)
        try:
            yield MerchantSession(identity, roster, store, requirements=requirements)
        finally:
            store.close()


class OpenedLog:
    """Records of 64 bytes: a request's digest, the hash of the survivors that it was answered over."""

    def __init__(self, path: Path, durable: bool) -> None:
        self._path = path
        self._durable = durable

    def find(self, request: bytes) -> bytes | None:
        """The survivors over which this request was answered, or None."""
        data = self._path.read_bytes() if self._path.exists() else b""
        size = 2 * DIGEST_BYTES
        for start in range(0, len(data) - size + 1, size):
            if data[start : start + DIGEST_BYTES] == request:
                return data[start + DIGEST_BYTES : start + size]
        return None

    def note(self, request: bytes, survivors: bytes) -> None:
        """Write a record; it is on disk when this returns. What a crash cut off never left the house."""
        record = request + survivors
        if len(record) != 2 * DIGEST_BYTES:
            raise StateRefused(f"expected a record of {2 * DIGEST_BYTES} bytes, found {len(record)}")
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(handle, "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(end - end % len(record))
            file.truncate()
            file.write(record)
            file.flush()
            if self._durable:
                os.fsync(handle)


def _masked(answer: bytes) -> Reply:
    return Reply({}, {}, 0, answer)
