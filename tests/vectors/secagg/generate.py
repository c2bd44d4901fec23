# SPDX-License-Identifier: Apache-2.0
"""Makes the frozen transcripts and the bad ones: `python tests/vectors/secagg/generate.py` in the root folder.

Once a version is released, run it only when the wire format's version changes: the files are what later versions
must still understand. ML-KEM encapsulation draws its own randomness, so each run gives another set-up; the rounds
follow from the stored states.
"""

import hashlib
import hmac
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np

from privacy.secagg.identity import Identity
from privacy.secagg.keystore import MemoryKeyStore
from privacy.secagg.masks import Vector
from privacy.secagg.merchant import MerchantSession, RoundTerms
from privacy.secagg.platform import PlatformSession
from privacy.secagg.roster import Member, Roster, make_roster
from privacy.secagg.round_messages import Certificate, Report, RoundOpen, Survivors
from privacy.secagg.setup_messages import Bundle, Delivery

HERE = Path(__file__).parent
MODEL, PLAN = hashlib.sha256(b"model").digest(), hashlib.sha256(b"plan").digest()


def entropy(label: str) -> Callable[[int], bytes]:
    """A stream of HMAC-SHA-256 blocks under the label: reproducible, for vectors alone."""
    calls = iter(range(1 << 30))

    def draw(size: int) -> bytes:
        call = next(calls)
        blocks = (
            hmac.digest(label.encode(), f"{call}/{block}".encode(), "sha256") for block in range(-(-size // 32))
        )
        return b"".join(blocks)[:size]

    return draw


def vector_of(index: int, d: int, e: int) -> Vector:
    draw = entropy(f"vector {index}")
    return Vector(np.frombuffer(draw(4 * d), "<u4").copy(), np.frombuffer(draw(8 * e), "<u8").copy())


def build(n: int) -> tuple[Roster, list[Identity]]:
    identities = [Identity(hashlib.sha256(f"identity {k}".encode()).digest()) for k in range(n)]
    members = [Member(f"merchant-{k:02d}", identity.public) for k, identity in enumerate(identities)]
    return make_roster("vectors", members), identities


def transcript(n: int, d: int, e: int, drop: int | None) -> dict[str, Any]:
    roster, identities = build(n)
    stores = [MemoryKeyStore() for _ in range(n)]
    merchants = [
        MerchantSession(identity, roster, store, entropy=entropy(f"setup {k}"))
        for k, (identity, store) in enumerate(zip(identities, stores, strict=True))
    ]
    platform = PlatformSession(roster, hashlib.sha256(b"run").digest()[:16])
    setup = platform.open_epoch(1, 1)
    made: dict[str, Any] = {"keys": [merchant.announce(setup.opening()) for merchant in merchants]}
    for message in made["keys"]:
        setup.receive_keys(message)
    made["announced_states"] = [store.load() for store in stores]
    bundle = setup.bundle()
    made["kem"] = [merchant.encapsulate(bundle) for merchant in merchants]
    for message in made["kem"]:
        setup.receive_kem(message)
    made["encapsulated_states"] = [store.load() for store in stores]
    deliveries = list(setup.deliveries().values())
    made["ready"] = [m.establish(delivery) for m, delivery in zip(merchants, deliveries, strict=True)]
    for message in made["ready"]:
        setup.receive_ready(message)
    states = [store.load() for store in stores]
    round_ = platform.open_round(1, 0, RoundTerms(MODEL, PLAN, d, e))
    rounds = play(roster, identities, states, round_, d, e, drop)
    setups = {"opening": setup.opening(), "bundle": bundle, "deliveries": deliveries, **made}
    return {
        "format": "hansa.secagg.transcript/1",
        "merchants": n,
        "words": [d, e],
        "drops_at_report": [] if drop is None else [drop],
        "roster": roster.encoded,
        "identities": [identity.secret_bytes() for identity in identities],
        "setup": setups,
        "states": states,
        "round": rounds,
    }


def play(
    roster: Roster, identities: list[Identity], states: list[Any], round_: Any, d: int, e: int, drop: int | None
) -> dict[str, Any]:
    """The round from stored states; the same bytes each time."""
    terms = RoundTerms(MODEL, PLAN, d, e)
    merchants = [
        MerchantSession(identity, roster, MemoryKeyStore(state), entropy=entropy(f"round {k}"))
        for k, (identity, state) in enumerate(zip(identities, states, strict=True))
    ]
    made: dict[str, Any] = {"opening": round_.opening(), "vectors": [], "reports": []}
    for k, merchant in enumerate(merchants):
        body, tail = vector_of(k, d, e).views()
        made["vectors"].append(bytes(body) + bytes(tail))
        merchant.open_round(round_.opening(), terms)
        made["reports"].append(merchant.report(vector_of(k, d, e)))
        if k != drop:
            round_.receive_report(made["reports"][-1])
    made["reported_states"] = [merchant._store.load() for merchant in merchants]
    made["survivors"] = round_.survivors()
    made["confirmations"] = [merchant.confirm(made["survivors"]) for merchant in merchants]
    for message in made["confirmations"]:
        round_.receive_confirmation(message)
    made["confirmed_states"] = [merchant._store.load() for merchant in merchants]
    made["certificates"] = list(round_.certificates().values())
    made["answers"] = [m.unmask(c) for m, c in zip(merchants, made["certificates"], strict=True)]
    for message in made["answers"]:
        round_.receive_answer(message)
    body, tail = round_.finish().vector.views()
    made["sum"] = bytes(body) + bytes(tail)
    return made


def bad(base: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name → step, state of merchant 0 before it, message, the error that must follow."""
    setup, played = base["setup"], base["round"]
    bundle = Bundle.decode(setup["bundle"])
    swapped = replace(bundle.keys[1], x25519=bytes(range(32)))
    own = replace(bundle.keys[0], x25519=bytes(range(32)))
    delivery = Delivery.decode(setup["deliveries"][2])
    capsule = delivery.capsules[0]
    opening = RoundOpen.decode(played["opening"])
    survivors = Survivors.decode(played["survivors"])
    certificate = Certificate.decode(played["certificates"][0])
    headers, signatures = survivors.headers, certificate.signatures
    forged = replace(headers[1], vector_digest=bytes(32))
    mine = replace(headers[0], vector_digest=bytes(32))
    cases: dict[str, tuple[str, int, bytes, bytes, str]] = {}

    def case(name: str, step: str, state: bytes, message: bytes, error: str, merchant: int = 0) -> None:
        cases[name] = (step, merchant, state, message, error)

    first, second = setup["announced_states"][0], setup["encapsulated_states"][2]
    case(
        "keys_signature",
        "encapsulate",
        first,
        Bundle((bundle.keys[0], swapped, bundle.keys[2])).encode(),
        "PeerRefused",
    )
    case("keys_own", "encapsulate", first, Bundle((own, *bundle.keys[1:])).encode(), "RequestRefused")
    case("keys_too_few", "encapsulate", first, Bundle(bundle.keys[:2]).encode(), "RequestRefused")
    changed = replace(delivery, capsules=(replace(capsule, ciphertext=bytes(1088)), *delivery.capsules[1:]))
    case("kem_ciphertext", "establish", second, changed.encode(), "PeerRefused", 2)
    ready = base["states"][0]
    for name, other, error in [
        ("round_model", replace(opening, model_digest=bytes(32)), "RequestRefused"),
        ("round_plan", replace(opening, plan_digest=bytes(32)), "RequestRefused"),
        ("round_cohort", replace(opening, cohort=(0,)), "RequestRefused"),
        ("round_epoch", replace(opening, epoch_digest=bytes(32)), "StateRefused"),
        ("round_words", replace(opening, d=1), "RequestRefused"),
    ]:
        case(name, "open_round", ready, other.encode(), error)
    reported = played["reported_states"][0]
    case("round_replayed", "open_round", reported, played["opening"], "Replayed")
    case(
        "survivors_signature",
        "confirm",
        reported,
        replace(survivors, headers=(headers[0], forged, headers[2])).encode(),
        "PeerRefused",
    )
    case(
        "survivors_own",
        "confirm",
        reported,
        replace(survivors, headers=(mine, *headers[1:])).encode(),
        "RequestRefused",
    )
    case(
        "survivors_too_few",
        "confirm",
        reported,
        replace(survivors, headers=headers[:2]).encode(),
        "RequestRefused",
    )
    confirmed = played["confirmed_states"][0]
    case("survivors_twice", "confirm", confirmed, played["survivors"], "Replayed")
    broken = (signatures[0], (1, bytes(64)), signatures[2])
    case(
        "certificate_signature",
        "unmask",
        confirmed,
        replace(certificate, signatures=broken).encode(),
        "PeerRefused",
    )
    case(
        "certificate_too_few",
        "unmask",
        confirmed,
        replace(certificate, signatures=signatures[:2]).encode(),
        "RequestRefused",
    )
    case(
        "certificate_list", "unmask", confirmed, replace(certificate, survivors=(0, 1)).encode(), "RequestRefused"
    )
    case("certificate_early", "unmask", reported, played["certificates"][0], "Replayed")
    report = bytearray(played["reports"][1])
    report[-1] ^= 1
    case("report_vector", "receive_report", b"", bytes(report), "PeerRefused", 1)
    signed = Report.decode(played["reports"][1])
    unsigned = replace(signed, signed=replace(signed.signed, signature=bytes(64)))
    case("report_signature", "receive_report", b"", unsigned.encode(), "PeerRefused", 1)
    case("report_cut", "receive_report", b"", played["reports"][1][:-1], "ValueRefused", 1)
    return {
        f"bad_{name}": {
            "format": "hansa.secagg.bad/1",
            "base": "round_n3",
            "step": step,
            "merchant": merchant,
            "state": state,
            "message": message,
            "error": error,
        }
        for name, (step, merchant, state, message, error) in cases.items()
    }


def as_json(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return bytes(value).hex()
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


def shortened(made: dict[str, Any]) -> dict[str, Any]:
    """Messages by their SHA-256; states, roster, opening and sum stay whole."""
    keep = {"opening", "sum"}
    played = {
        key: value if key in keep else [hashlib.sha256(item).digest() for item in value]
        for key, value in made["round"].items()
        if not key.endswith("states") and key != "survivors"
    }
    return {**{key: value for key, value in made.items() if key != "setup"}, "round": played}


def main() -> None:
    whole = transcript(3, 5, 2, None)
    files = {"round_n3": whole, **bad(whole)}
    for n, drop in ((5, 3), (10, 0)):
        files[f"round_n{n}"] = shortened(transcript(n, 33, 1, drop))
    for name, content in files.items():
        path = HERE / f"{name}.json"
        path.write_text(json.dumps(as_json(content), indent=1) + os.linesep)


if __name__ == "__main__":
    main()
