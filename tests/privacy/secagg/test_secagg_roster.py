# SPDX-License-Identifier: Apache-2.0
"""The roster: safe parameters, council signatures, pin, requirements."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg.errors import Malformed, RosterRefused, SecAggError
from privacy.secagg.identity import Identity
from privacy.secagg.keystore import MemoryKeyStore
from privacy.secagg.merchant import MerchantSession
from privacy.secagg.roster import (
    Member,
    Requirements,
    Roster,
    decode_roster,
    make_roster,
    open_roster,
    sign_roster,
)

COUNCIL = [Identity(bytes([k]) * 32) for k in (1, 2, 3)]
KEYS = {key.public for key in COUNCIL}


def roster(n: int = 5, **changes: int) -> Roster:
    members = [Member(f"m{k:03d}", Identity(bytes([9, k]) + bytes(30)).public) for k in range(n)]
    return make_roster("league", members, **changes)


def opened(signed: bytes, pin: bytes | None, needed: int = 2) -> Roster:
    return open_roster(signed, council=KEYS, signatures_needed=needed, pin=pin)


@pytest.mark.parametrize("n", [3, 5, 10, 30, 100, 255])
def test_default_thresholds_are_the_specifications(n: int) -> None:
    made = roster(n)
    c, t = max(1, n // 3), (n + max(1, n // 3)) // 2 + 1
    assert (made.colluders, made.threshold, made.drops_tolerated) == (c, t, n - t)
    assert 2 * made.threshold > n + made.colluders
    assert decode_roster(made.encoded) == made


def test_a_signed_roster_opens() -> None:
    made = roster()
    assert opened(sign_roster(made, COUNCIL[:2]), made.digest) == made


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("threshold", 3, "2t > N"),
        ("threshold", 1, "2t > N"),
        ("threshold", 6, "t <= N"),
        ("colluders", 0, "c >= 1"),
        ("min_survivors", 2, "n_min"),
        ("min_survivors", 6, "n_min"),
        ("bound", 1e9, "wrap around"),
        ("bound", 0.0, "bound"),
        ("bound", float("nan"), "bound"),
        ("scale_log2", 31, "wrap around"),
        ("epoch_rounds", 0, "fit"),
        ("members", (), "3 to 255"),
    ],
)
def test_a_roster_with_unsafe_thresholds_cannot_be_built(field: str, value: object, message: str) -> None:
    with pytest.raises(RosterRefused, match=message):
        replace(roster(), **{field: value})


def test_a_roster_without_enough_council_signatures_is_refused() -> None:
    made = roster()
    stranger = Identity(b"s" * 32)
    for signers in ([], COUNCIL[:1], [COUNCIL[0], COUNCIL[0]], [COUNCIL[0], stranger]):
        with pytest.raises(RosterRefused, match="signatures"):
            opened(sign_roster(made, signers), made.digest)
    with pytest.raises(RosterRefused, match="at least one"):
        opened(sign_roster(made, []), made.digest, needed=0)


def test_an_altered_roster_is_refused() -> None:
    signed = sign_roster(roster(), COUNCIL)
    altered = signed.replace(b"m001", b"m00!")
    with pytest.raises(SecAggError):
        opened(altered, None)


def test_a_roster_other_than_the_pinned_one_is_refused() -> None:
    made, other = roster(), roster(serial=2)
    with pytest.raises(RosterRefused, match="pinned"):
        opened(sign_roster(other, COUNCIL), made.digest)


def test_nobody_is_in_the_roster_twice() -> None:
    made = roster()
    twin = replace(made.members[1], name="m001b")
    with pytest.raises(RosterRefused, match="key of its own"):
        replace(made, members=(made.members[0], made.members[1], twin, *made.members[3:]))
    with pytest.raises(RosterRefused, match="distinct names"):
        replace(made, members=(made.members[0], *made.members[:4]))


def test_a_merchants_own_requirements_hold() -> None:
    identity = Identity(bytes([9, 1]) + bytes(30))
    for requirements in (Requirements(min_survivors=6), Requirements(min_colluders=2)):
        with pytest.raises(RosterRefused, match="policy"):
            MerchantSession(identity, roster(), MemoryKeyStore(), requirements=requirements)
        with pytest.raises(RosterRefused, match="policy"):
            open_roster(
                sign_roster(roster(), COUNCIL),
                council=KEYS,
                signatures_needed=2,
                pin=None,
                requirements=requirements,
            )


def test_a_stranger_has_no_session() -> None:
    with pytest.raises(RosterRefused, match="enrol"):
        MerchantSession(Identity.generate(), roster(), MemoryKeyStore())


@given(st.binary(max_size=400))
def test_any_bytes_decode_to_a_roster_or_an_error_of_ours(data: bytes) -> None:
    for prefix in (b"", b"HSR\x01\x01", roster().encoded[:40]):
        with pytest.raises((Malformed, RosterRefused)):
            decode_roster(prefix + data)


@given(st.data())
def test_a_flipped_bit_never_opens(data: st.DataObject) -> None:
    made = roster()
    signed = bytearray(sign_roster(made, COUNCIL[:2]))
    signed[data.draw(st.integers(0, len(signed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SecAggError):
        opened(bytes(signed), made.digest)
