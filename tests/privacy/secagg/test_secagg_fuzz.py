# SPDX-License-Identifier: Apache-2.0
"""Every decoder, every receiver: any bytes give a message or an error of ours. HANSA_FUZZ sets the examples."""

import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.secagg import round_messages, setup_messages, wire
from privacy.secagg.errors import Malformed, SecAggError
from privacy.secagg.merchant import MerchantSession

Make = Callable[..., Any]
EXAMPLES = int(os.environ.get("HANSA_FUZZ", "60"))
MESSAGES: dict[int, Any] = {
    getattr(value, "KIND"): value  # noqa: B009
    for module in (setup_messages, round_messages)
    for value in vars(module).values()
    if isinstance(value, type) and getattr(value, "KIND", 0)
}


def test_there_are_twelve_kinds() -> None:
    assert sorted(MESSAGES) == list(range(1, 13))


def collect(made: Any) -> dict[int, bytes]:
    found: dict[int, bytes] = {}

    def keep(data: bytes) -> bytes:
        found[wire.kind_of(data)] = data
        return data

    league = made.league
    setup = league.platform.open_epoch(1, 1)
    opening = keep(setup.opening())
    for merchant in league.merchants.values():
        setup.receive_keys(keep(merchant.announce(opening)))
    bundle = keep(setup.bundle())
    kems = [merchant.encapsulate(bundle) for merchant in league.merchants.values()]
    keep(kems[0])
    for kem in kems:
        setup.receive_kem(kem)
    for name, delivery in setup.deliveries().items():
        setup.receive_ready(keep(league.merchants[name].establish(keep(delivery))))
    round_ = league.platform.open_round(1, 0, made.terms)
    for name, merchant in league.merchants.items():
        merchant.open_round(keep(round_.opening()), made.terms)
        report = merchant.report(made.fresh()[name]())
        if name != "m004":
            round_.receive_report(keep(report))
    survivors = keep(round_.survivors())
    for merchant in league.merchants.values():
        round_.receive_confirmation(keep(merchant.confirm(survivors)))
    for name, certificate in round_.certificates().items():
        round_.receive_answer(keep(league.merchants[name].unmask(keep(certificate))))
    made.assert_exact(round_.finish())
    return found


def test_a_decoded_message_encodes_to_the_same_bytes(bench: Make) -> None:
    found = collect(bench(5))
    assert sorted(found) == list(range(1, 13))
    for kind, data in found.items():
        assert MESSAGES[kind].decode(data).encode() == data


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(range(1, 13)), st.binary(max_size=300), st.binary(max_size=4))
def test_decoding_raises_malformed_or_returns_whatever_the_bytes(kind: int, body: bytes, head: bytes) -> None:
    for data in (body, head + body, wire.envelope(kind) + body):
        try:
            message = MESSAGES[kind].decode(data)
        except Malformed:
            continue
        assert message.encode() == data


def test_a_refused_message_changes_nothing(bench: Make) -> None:
    """Bytes flipped, cut, repeated and put together anew: every receiver refuses or takes them, and none falls."""
    source = random.Random(int(os.environ.get("HANSA_FUZZ_SEED", "7")))
    made = bench(5)
    found = collect(made)
    league = made.league
    fresh = MerchantSession(league.identities["m001"], league.roster, league.stores["m001"])
    round_ = league.platform.open_round(2, 0, made.terms)
    setup = league.platform.open_epoch(2, 300)
    receivers: list[Callable[[bytes], object]] = [
        *(fresh.announce, fresh.encapsulate, fresh.establish, fresh.confirm, fresh.unmask),
        lambda data: fresh.open_round(data, made.terms),
        *(setup.receive_keys, setup.receive_kem, setup.receive_ready),
        *(round_.receive_report, round_.receive_confirmation, round_.receive_answer),
    ]
    for _ in range(EXAMPLES * 5):
        data = bytearray(found[source.randint(1, 12)])
        for _ in range(source.randint(1, 4)):
            action = source.randrange(4)
            at = source.randrange(len(data)) if data else 0
            if action == 0 and data:
                data[at] ^= 1 << source.randrange(8)
            elif action == 1:
                del data[at:]
            elif action == 2:
                data[at:at] = source.randbytes(source.randint(1, 9))
            else:
                other = found[source.randint(1, 12)]
                data[at:] = other[source.randrange(len(other)) :]
        for receive in receivers:
            before = league.stores["m001"].load(), round_.reported(), round_.confirmed(), set(setup.ready)
            try:
                receive(bytes(data))
            except SecAggError:
                after = league.stores["m001"].load(), round_.reported(), round_.confirmed(), set(setup.ready)
                assert after == before


def test_truncation_and_surplus_are_malformed(bench: Make) -> None:
    for kind, data in collect(bench(5)).items():
        if kind == round_messages.Report.KIND:
            continue  # its vector's length is known to the round alone, which refuses another
        for wrong in (
            data[:-1],
            data + b"\x00",
            data[:5],
            b"",
            data[:4] + b"\xff" + data[5:],
            b"HSA\x02" + data[4:],
        ):
            with pytest.raises(Malformed):
                MESSAGES[kind].decode(wrong)
