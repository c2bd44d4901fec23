# SPDX-License-Identifier: Apache-2.0
"""Enrolment: the one line by which a merchant's name and key reach the council (specification §2, [R0]).

Guarantees:
- nobody enrols a key that it does not hold
- an enrolment signed under one name is refused under any other
- reading a line gives a member or raises, whatever the text
"""

from typing import Final

from privacy.secagg import tags, wire
from privacy.secagg.errors import Malformed, PeerRefused
from privacy.secagg.identity import Identity, verify
from privacy.secagg.roster import MAX_NAME_BYTES, Member

FORMAT: Final = "hansa-enrolment-1"
LONGEST: Final = 500  # characters of a line; the longest that is signed has fewer


def enrolment(name: str, identity: Identity) -> str:
    """The line for the council; the same each time. Raises Malformed for a name that no line can hold."""
    _check_name(name)
    return f"{FORMAT} {name} {identity.public.hex()} {identity.sign(*_signed(name, identity.public)).hex()}"


def read_enrolment(line: str) -> Member:
    """[R0] Who enrolled; raises Malformed, or PeerRefused where name and key are not signed by the key."""
    if len(line) > LONGEST:
        raise Malformed(f"expected a line of at most {LONGEST} characters, found {len(line)}")
    head, _, rest = line.strip().partition(" ")
    fields = rest.rsplit(" ", 2)
    if head != FORMAT or len(fields) != 3:
        raise Malformed(f"expected a line `{FORMAT} NAME KEY SIGNATURE`, as `hansa merchant enrol` prints it")
    name, key, signature = fields[0], _hex(fields[1], tags.KEY_SIZE), _hex(fields[2], tags.SIGNATURE_SIZE)
    _check_name(name)
    try:
        verify(key, signature, name, *_signed(name, key))
    except PeerRefused:
        raise PeerRefused(
            f"{name} and its key are not signed by that key: the line was altered, or the key is another's; "
            "get it from the merchant itself"
        ) from None
    return Member(name, key)


def _signed(name: str, key: bytes) -> tuple[bytes, ...]:
    return tags.ENROLMENT, wire.string(name), key


def _check_name(name: str) -> None:
    if not (name.isprintable() and name == name.strip() and 1 <= len(name.encode()) <= MAX_NAME_BYTES):
        raise Malformed(
            f"expected a name of 1–{MAX_NAME_BYTES} bytes in printable characters, without blanks at its ends, "
            f"found {name!r}"
        )


def _hex(text: str, size: int) -> bytes:
    if len(text) != 2 * size or not set(text) <= set("0123456789abcdef"):
        raise Malformed(f"expected {2 * size} hex digits in small letters, found {text!r}; copy the whole line")
    return bytes.fromhex(text)
