# SPDX-License-Identifier: Apache-2.0
"""The merchant's own record of what privacy was spent: append-only JSON lines, hash-chained, fsync'd.

A release is reserved before its data are touched and spent once its bytes are stored; nothing may be sent
before `spend` has returned. Every reservation counts from the moment it is written, spent or not. Formats and
hashes are in `privacy.ledger_records`.

Guarantees:
- a reservation that never completed counts as spent
- a torn last line after a crash is recovered without under-counting
- verify finds every edit, deletion, insertion and reorder; a cut at the end only against a head kept
elsewhere
- over budget means refusal, and a refused reservation leaves no trace in the budget
- the same release is counted once only while its bytes stay the same
- what was booked under one unit is never read as another: a ledger takes one unit

A whole-record truncation of the tail cannot be found from the file alone: keep `head()` elsewhere (release
card, platform's receipt, paper) and pass it to `verify`.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from privacy.accountant import Accountant, DpEvent, epsilon, event_from_dict, event_to_dict, fits
from privacy.errors import BudgetExceeded, LedgerError, LedgerTampered, OtherUnit
from privacy.ledger_records import Head, Record, append_to, booked_unit, parse_chain
from privacy.policy import Policy
from privacy.units import Unit, named, unit_of

__all__ = ["Budget", "Head", "Ledger", "Reservation"]

PURPOSES: Final = ("popularity", "training", "gate", "metrics")


@dataclass(frozen=True, slots=True)
class Reservation:
    """A release that has been counted. `number` is its record's place in the ledger."""

    number: int
    run: str
    round: int
    purpose: str
    events: tuple[DpEvent, ...]
    unit: Unit = Unit.USER_MERCHANT
    merchants_per_user: int = 1
    output_digest: str | None = None  # hex SHA-256 of the stored release, once spent

    @property
    def spent(self) -> bool:
        return self.output_digest is not None


@dataclass(frozen=True, slots=True)
class Budget:
    """Epsilon at the policy's delta: of completed releases, with reservations, and the policy's limit."""

    spent: float
    with_reserved: float
    max_epsilon: float

    @property
    def left(self) -> float:
        return max(0.0, self.max_epsilon - self.with_reserved)


@dataclass(slots=True)
class _State:
    size_bytes: int = 0
    head: Head = field(default_factory=Head)
    reservations: dict[int, Reservation] = field(default_factory=dict)
    inputs: dict[tuple[str, int, str, str], int] = field(default_factory=dict)  # … inputs digest -> number


class Ledger:
    """One merchant's ledger at `path`; created empty (mode 0600) where there is none.

    Processes on one machine may share it: each operation holds an exclusive lock. `durable=False` skips
    fsync, for simulations only: what was reserved may then be lost with the machine, though not with the
    process. Raises LedgerTampered when the chain is broken.
    """

    def __init__(self, path: Path | str, *, durable: bool = True) -> None:
        self.path = Path(path)
        self._durable = durable
        self._state = _State()
        with self._locked():
            pass

    def __repr__(self) -> str:
        return f"Ledger({str(self.path)!r}, {len(self._state.reservations)} reservations)"

    def reserve(
        self,
        events: Sequence[DpEvent],
        *,
        run: str,
        round: int,
        purpose: str = "training",
        policy: Policy | None = None,
        accountant: Accountant = "prv",
        inputs_digest: str | None = None,
        unit: Unit | str = Unit.USER_MERCHANT,
        merchants_per_user: int = 1,
    ) -> Reservation:
        """Count `events` before the data are touched; returns once the record is on disk.

        inputs_digest: hex SHA-256 over all that determines the released bytes (global model, plan, data,
        noise key). A reservation with the same run, round, purpose and digest is returned again instead of
        counted again: a repetition releases nothing new, and `spend` refuses it if its bytes differ. Leave it
        out where noise keys are fresh: then every repetition counts. unit, merchants_per_user: whose privacy
        the events cost, as in the plan. Raises, without a record, BudgetExceeded when all events together would
        exceed the policy, and OtherUnit when the ledger holds another unit.
        """
        unit = unit_of(unit, merchants_per_user)
        if purpose not in PURPOSES:
            raise LedgerError(f"purpose must be one of {PURPOSES}, found {purpose!r}")
        with self._locked() as state:
            if inputs_digest is not None:
                again = state.inputs.get((run, round, purpose, inputs_digest))
                if again is not None:
                    return self._same_events(state.reservations[again], tuple(events))
            _refuse_other_unit(state, unit, merchants_per_user)
            if policy is not None:
                self._refuse_over_budget(state, events, policy, accountant)
            body = {
                "run": run,
                "round": round,
                "purpose": purpose,
                "events": [event_to_dict(e) for e in events],
                "unit": unit.value,
                "merchants_per_user": merchants_per_user,
            }
            record = self._append(state, "reserve", {**body, "inputs_digest": inputs_digest})
            return state.reservations[record.number]

    def spend(self, reservation: Reservation, output_digest: str) -> Reservation:
        """Mark the release as complete. Call it when the bytes are stored and before anything is sent.

        output_digest: hex SHA-256 of the bytes. Spending again with the same digest changes nothing; with
        another digest it raises LedgerError: those bytes are a new release and must not be sent under this
        reservation.
        """
        if len(output_digest) != 64 or not set(output_digest) <= set("0123456789abcdef"):
            raise LedgerError(f"output_digest must be 64 hex digits of SHA-256, found {output_digest!r}")
        with self._locked() as state:
            known = state.reservations.get(reservation.number)
            if known is None or (known.run, known.round, known.purpose, known.events) != (
                reservation.run,
                reservation.round,
                reservation.purpose,
                reservation.events,
            ):
                raise LedgerError(f"{self.path} holds no reservation {reservation.number} of {reservation.run!r}")
            if known.output_digest not in (None, output_digest):
                raise LedgerError(
                    f"reservation {known.number} was spent on other bytes ({known.output_digest[:12]}…, now "
                    f"{output_digest[:12]}…): do not send them; reserve a new release"
                )
            if known.output_digest is None:
                self._append(state, "spend", {"reservation": known.number, "output_digest": output_digest})
            return state.reservations[known.number]

    def completed(self, run: str, round: int, purpose: str = "training") -> Reservation | None:
        """The newest spent reservation of this release: its stored bytes may be sent again for nothing."""
        found = [
            r for r in self.reservations() if (r.run, r.round, r.purpose) == (run, round, purpose) and r.spent
        ]
        return found[-1] if found else None

    def reservations(self) -> tuple[Reservation, ...]:
        """All reservations, oldest first."""
        with self._locked() as state:
            return tuple(state.reservations.values())

    def events(self) -> tuple[DpEvent, ...]:
        """Everything that counts: the events of all reservations, spent or not."""
        return tuple(e for r in self.reservations() for e in r.events)

    def epsilon(self, delta: float, accountant: Accountant = "prv") -> float:
        """Epsilon of everything that counts, at `delta`."""
        return epsilon(self.events(), delta, accountant)

    def left(self, policy: Policy, accountant: Accountant = "prv") -> Budget:
        """What the policy has allowed, what is spent and what is left."""
        spent = tuple(e for r in self.reservations() if r.spent for e in r.events)
        return Budget(
            spent=epsilon(spent, policy.delta, accountant),
            with_reserved=self.epsilon(policy.delta, accountant),
            max_epsilon=policy.max_epsilon,
        )

    def rounds_left(self, events: Sequence[DpEvent], policy: Policy, limit: int = 100_000) -> int:
        """How many more times `events` (one round's) fit into the policy, at most `limit`."""
        held = self.events()

        def fit(count: int) -> bool:
            return fits((*held, *(tuple(events) * count)), policy.max_epsilon, policy.delta)

        high = 1
        while high < limit and fit(high):
            high *= 2
        low, high = high // 2, min(high, limit + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fit(middle) else (low, middle)
        return low

    def head(self) -> Head:
        """Number and hash of the last record: keep it elsewhere, to find a truncation later."""
        with self._locked() as state:
            return state.head

    def verify(self, anchor: Head | None = None) -> int:
        """Read the whole file again; returns the number of records, raises LedgerTampered when one is wrong.

        anchor: a `head()` kept elsewhere; its record must still be there, unchanged.
        """
        with self._locked():
            records, _ = parse_chain(self.path, self.path.read_bytes())
            if anchor is not None and anchor.number >= 0:
                at = anchor.number
                if at >= len(records) or records[at].hash != anchor.hash:
                    raise LedgerTampered(
                        f"{self.path}: record {at} of the anchor is missing or another one; "
                        "the ledger was cut back or rewritten: treat the budget as spent and restore the original"
                    )
            return len(records)

    @contextmanager
    def _locked(self) -> Iterator[_State]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        created = not self.path.exists()
        file = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if created:
                self._sync(file, directory=True)
            self._file = file
            self._refresh(file)
            yield self._state
        finally:
            os.close(file)

    def _refresh(self, file: int) -> None:
        size_bytes = os.fstat(file).st_size
        if size_bytes == self._state.size_bytes:
            return
        if size_bytes < self._state.size_bytes:
            raise LedgerTampered(
                f"{self.path} shrank from {self._state.size_bytes} to {size_bytes} bytes while in use"
            )
        data = os.pread(file, size_bytes, 0)
        records, torn = parse_chain(self.path, data)
        self._state = _State()
        for record in records:
            self._apply(self._state, record)
        self._state.size_bytes = size_bytes - len(torn)
        if torn:  # by a crash while it was written: `reserve` had not returned, so nothing was begun under it
            os.ftruncate(file, self._state.size_bytes)
            self._append(self._state, "recover", {"torn_bytes": len(torn)})
        elif not data.endswith(b"\n"):
            self._write(file, b"\n")
            self._state.size_bytes += 1

    def _write(self, file: int, line: bytes) -> None:
        written = os.write(file, line)
        if written != len(line):
            raise LedgerError(f"{self.path}: wrote {written} of {len(line)} bytes; is the disk full?")
        self._sync(file, directory=False)

    def _append(self, state: _State, kind: str, body: dict[str, Any]) -> Record:
        record, line = append_to(state.head, kind, body, datetime.now(UTC))
        self._write(self._file, line)
        self._apply(state, record)
        state.size_bytes += len(line)
        return record

    def _sync(self, file: int, *, directory: bool) -> None:
        if not self._durable:
            return
        os.fsync(file)
        if directory:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _apply(self, state: _State, record: Record) -> None:
        body = record.body
        if record.kind == "reserve":
            events = tuple(event_from_dict(e) for e in body["events"])
            made = Reservation(
                record.number, body["run"], body["round"], body["purpose"], events, *booked_unit(self.path, record)
            )
            state.reservations[record.number] = made
            if body["inputs_digest"] is not None:
                state.inputs[made.run, made.round, made.purpose, body["inputs_digest"]] = record.number
        elif record.kind == "spend":
            open_ = state.reservations.get(body["reservation"])
            if open_ is None or open_.spent:
                raise LedgerTampered(f"{self.path}: record {record.number} spends what is not reserved")
            state.reservations[open_.number] = replace(open_, output_digest=body["output_digest"])
        state.head = Head(record.number, record.hash)

    def _same_events(self, known: Reservation, events: tuple[DpEvent, ...]) -> Reservation:
        if known.events != events:
            raise LedgerError(
                f"reservation {known.number} has this inputs digest and other events: it must cover the plan"
            )
        return known

    def _refuse_over_budget(
        self, state: _State, events: Sequence[DpEvent], policy: Policy, accountant: Accountant
    ) -> None:
        held = [e for r in state.reservations.values() for e in r.events]
        if fits((*held, *events), policy.max_epsilon, policy.delta, accountant):
            return
        raise BudgetExceeded(
            f"refused by this merchant's budget: spent and reserved are epsilon "
            f"{epsilon(held, policy.delta, accountant):.4g}, with this release "
            f"{epsilon((*held, *events), policy.delta, accountant):.4g}; allowed is {policy.max_epsilon:g} "
            f"at delta {policy.delta:g}"
        )


def _refuse_other_unit(state: _State, unit: Unit, merchants_per_user: int) -> None:
    for held in state.reservations.values():
        if (held.unit, held.merchants_per_user) != (unit, merchants_per_user):
            raise OtherUnit(
                f"refused by this merchant's budget: the plan is for unit {named(unit, merchants_per_user)}, this "
                f"ledger holds releases for unit {named(held.unit, held.merchants_per_user)}, whose epsilon says "
                "nothing of it; ask for that unit, or keep a home and ledger of its own for the other"
            )
