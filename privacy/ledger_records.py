# SPDX-License-Identifier: Apache-2.0
"""The ledger's records: bytes in, typed records or LedgerTampered out. No files, no locks.

A line is a JSON object with sorted keys, no spaces and a final newline:
`{"at","body","hash","kind","number","previous","version"}`; hash = SHA-256(tag || the line without "hash"),
and `previous` is the hash of the line before, so that a changed, missing, added or moved line breaks the
chain. Version 1 named no unit: its reservations count as `user_merchant`, which each other unit of a user costs
at least as much as.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from privacy.errors import CalibrationError, LedgerTampered
from privacy.units import Unit, unit_of

__all__ = ["Head", "Record", "append_to", "booked_unit", "parse_chain"]

_TAG: Final = b"hansa.privacy.ledger/1\x00"
_VERSION: Final = 2
_VERSIONS: Final = (1, 2)
_KINDS: Final = ("reserve", "spend", "recover")
_REMEDY: Final = (
    "the ledger was changed after it was written: restore the original, or treat the whole budget as spent"
)
_FIELDS: Final = {"at", "body", "hash", "kind", "number", "previous", "version"}
_UNIT: Final = {"unit", "merchants_per_user"}  # of a reservation, since version 2
_BODIES: Final = {
    "reserve": {"run", "round", "purpose", "events", "inputs_digest", *_UNIT},
    "spend": {"reservation", "output_digest"},
    "recover": {"torn_bytes"},
}


@dataclass(frozen=True, slots=True)
class Head:
    """Number and hash of a ledger's last record; number -1 for an empty ledger."""

    number: int = -1
    hash: str = hashlib.sha256(_TAG).hexdigest()


@dataclass(frozen=True, slots=True)
class Record:
    """One checked line."""

    number: int
    kind: str
    at: str
    body: dict[str, Any]
    hash: str


def _canonical(data: dict[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("utf-8")


def append_to(head: Head, kind: str, body: dict[str, Any], at: datetime) -> tuple[Record, bytes]:
    """The next record after `head`, and its line with the final newline."""
    data: dict[str, Any] = {
        "at": at.isoformat(timespec="milliseconds"),
        "body": body,
        "kind": kind,
        "number": head.number + 1,
        "previous": head.hash,
        "version": _VERSION,
    }
    data["hash"] = hashlib.sha256(_TAG + _canonical(data)).hexdigest()
    return Record(data["number"], kind, data["at"], body, data["hash"]), _canonical(data) + b"\n"


def parse_chain(path: Path, data: bytes) -> tuple[list[Record], bytes]:
    """All whole records, and what is left of a last line that was torn before its newline (empty if none).

    A last record that lacks only its newline is whole: the caller adds the newline.
    Raises LedgerTampered naming the first line that breaks the chain.
    """
    *lines, tail = data.split(b"\n")
    records: list[Record] = []
    head = Head()
    for line in lines:
        records.append(_parse(path, line + b"\n", head))
        head = Head(records[-1].number, records[-1].hash)
    if tail:
        try:
            records.append(_parse(path, tail + b"\n", head))
        except LedgerTampered:
            return records, tail
    return records, b""


def booked_unit(path: Path, record: Record) -> tuple[Unit, int]:
    """A reservation's unit and its merchants_per_user; raises LedgerTampered for an unknown one."""
    merchants = record.body.get("merchants_per_user", 1)
    try:
        return unit_of(record.body.get("unit", Unit.USER_MERCHANT), merchants), merchants
    except CalibrationError as unknown:
        raise LedgerTampered(f"{path}: record {record.number}: {unknown}; {_REMEDY}") from None


def _parse(path: Path, line: bytes, head: Head) -> Record:
    number = head.number + 1

    def tampered(problem: str) -> LedgerTampered:
        return LedgerTampered(f"{path}: line {number + 1}: {problem}; {_REMEDY}")

    try:
        data = json.loads(line)
    except ValueError:
        raise tampered("expected a JSON record") from None
    if not isinstance(data, dict) or set(data) != _FIELDS:
        raise tampered(f"expected the fields {sorted(_FIELDS)}")
    if data["version"] not in _VERSIONS:
        raise tampered(f"expected version {_VERSION}, found {data['version']!r}")
    unnamed = _UNIT if data["version"] == 1 else set()
    claimed = data.pop("hash")
    if data["number"] != number or data["previous"] != head.hash:
        raise tampered("it does not follow the line before (deleted, added or moved)")
    if hashlib.sha256(_TAG + _canonical(data)).hexdigest() != claimed:
        raise tampered("its contents do not match its hash")
    if data["kind"] not in _KINDS or set(data["body"]) != _BODIES[data["kind"]] - unnamed:
        raise tampered(f"unknown kind of record {data['kind']!r} or wrong fields")
    if line != _canonical({**data, "hash": claimed}) + b"\n":
        raise tampered("it is not in canonical form")
    return Record(number, data["kind"], data["at"], data["body"], claimed)
