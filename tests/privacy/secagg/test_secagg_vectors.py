# SPDX-License-Identifier: Apache-2.0
"""Frozen transcripts, byte for byte, and bad messages with the error that must follow.

`round_n3.json` is the specification's worked example.
"""

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from privacy.secagg import errors
from privacy.secagg.identity import Identity
from privacy.secagg.keystore import MemoryKeyStore
from privacy.secagg.merchant import MerchantSession, RoundTerms
from privacy.secagg.platform import PlatformRound
from privacy.secagg.roster import decode_roster
from privacy.secagg.round_messages import RoundOpen, Survivors, survivors_digest
from privacy.secagg.state import decode_state

FOLDER = Path(__file__).parents[2] / "vectors" / "secagg"
SPEC = importlib.util.spec_from_file_location("secagg_vector_generator", FOLDER / "generate.py")
assert SPEC is not None
assert SPEC.loader is not None
generate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate)
BAD = sorted(path.stem for path in FOLDER.glob("bad_*.json"))


def load(name: str) -> dict[str, Any]:
    return dict(json.loads((FOLDER / f"{name}.json").read_text()))


def parts(vector: dict[str, Any]) -> tuple[Any, list[Identity]]:
    return decode_roster(bytes.fromhex(vector["roster"])), [
        Identity(bytes.fromhex(secret)) for secret in vector["identities"]
    ]


@pytest.mark.parametrize("name", ["round_n3", "round_n5", "round_n10"])
def test_a_round_replays_byte_for_byte(name: str) -> None:
    vector = load(name)
    roster, identities = parts(vector)
    expected, (d, e) = vector["round"], vector["words"]
    drop = vector["drops_at_report"][0] if vector["drops_at_report"] else None
    round_ = PlatformRound(roster, RoundOpen.decode(bytes.fromhex(expected["opening"])))
    states = [bytes.fromhex(state) for state in vector["states"]]
    played = generate.play(roster, identities, states, round_, d, e, drop)
    whole = name == "round_n3"
    for key, value in expected.items():
        found = played[key]
        if isinstance(value, str):
            assert found.hex() == value, key
        else:
            assert [item.hex() if whole else hashlib.sha256(item).hexdigest() for item in found] == value, key


def test_the_specifications_worked_example_shows_the_vectors_values() -> None:
    page = (FOLDER.parents[2] / "docs" / "secure-aggregation.md").read_text()
    vector = load("round_n3")
    roster, _ = parts(vector)
    opening = RoundOpen.decode(bytes.fromhex(vector["round"]["opening"]))
    ctx = opening.ctx(roster.digest)
    survivors = Survivors.decode(bytes.fromhex(vector["round"]["survivors"]))
    shown = {
        "roster hash": roster.digest.hex(),
        "epoch_digest": opening.epoch_digest.hex(),
        "ctx": ctx.hex(),
        "survivors_digest": survivors_digest(ctx, survivors.headers).hex(),
        "masked vector of merchant 0": vector["round"]["reports"][0][-2 * 36 :],
        "sum": vector["round"]["sum"],
    }
    shown |= {f"vector of merchant {k}": value for k, value in enumerate(vector["round"]["vectors"])}
    for name, value in shown.items():
        assert f"| {name} | `{value}` |" in page


def test_the_worked_examples_set_up_replays() -> None:
    """All but the encapsulations' randomness: keys, and from stored ciphertexts the same roots at both ends."""
    vector = load("round_n3")
    roster, identities = parts(vector)
    setup = vector["setup"]
    for k, identity in enumerate(identities):
        merchant = MerchantSession(identity, roster, MemoryKeyStore(), entropy=generate.entropy(f"setup {k}"))
        assert merchant.announce(bytes.fromhex(setup["opening"])).hex() == setup["keys"][k]
        store = MemoryKeyStore(bytes.fromhex(setup["encapsulated_states"][k]))
        merchant = MerchantSession(identity, roster, store)
        assert merchant.establish(bytes.fromhex(setup["deliveries"][k])).hex() == setup["ready"][k]
        again = decode_state(store.load() or b"", roster.digest).epoch
        stored = decode_state(bytes.fromhex(vector["states"][k]), roster.digest).epoch
        assert again is not None
        assert stored is not None
        assert {i: r for i, r in again.roots.items() if i != k} == {
            i: r for i, r in stored.roots.items() if i != k
        }


def test_there_are_bad_vectors_for_every_step() -> None:
    steps = {load(name)["step"] for name in BAD}
    assert steps == {"encapsulate", "establish", "open_round", "confirm", "unmask", "receive_report"}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_is_refused_with_its_error(name: str) -> None:
    vector = load(name)
    base = load(vector["base"])
    roster, identities = parts(base)
    message = bytes.fromhex(vector["message"])
    d, e = base["words"]
    if vector["step"] == "receive_report":
        round_ = PlatformRound(roster, RoundOpen.decode(bytes.fromhex(base["round"]["opening"])))
        with pytest.raises(getattr(errors, vector["error"])):
            round_.receive_report(message)
        assert round_.reported() == ()
        return
    state = bytes.fromhex(vector["state"])
    store = MemoryKeyStore(state)
    merchant = MerchantSession(identities[vector["merchant"]], roster, store)
    terms = (RoundTerms(generate.MODEL, generate.PLAN, d, e),) if vector["step"] == "open_round" else ()
    with pytest.raises(getattr(errors, vector["error"])) as caught:
        getattr(merchant, vector["step"])(message, *terms)
    assert type(caught.value).__name__ == vector["error"]
    assert store.load() == state
