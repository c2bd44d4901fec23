# SPDX-License-Identifier: Apache-2.0
"""Known answers of every primitive as this package calls it; origins stand in the vector file."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.secagg import identity, keys, tags
from privacy.secagg.errors import PeerRefused
from privacy.secagg.identity import Identity, verify
from privacy.secagg.keys import EpochKeys
from privacy.secagg.masks import Vector, apply_masks

VECTORS = Path(__file__).parents[2] / "vectors" / "secagg" / "primitives.json"


def case(name: str) -> dict[str, Any]:
    cases = {item["name"]: item for item in json.loads(VECTORS.read_text())["cases"]}
    return {
        key: bytes.fromhex(value) if key not in ("name", "origin") else value for key, value in cases[name].items()
    }


def test_x25519_known_answer() -> None:
    vector = case("x25519")
    assert EpochKeys(vector["secret"], bytes(64)).exchange(vector["peer"], "peer") == vector["shared"]


def test_x25519_refuses_points_of_low_order() -> None:
    with pytest.raises(PeerRefused, match="unusable X25519"):
        EpochKeys(bytes(range(32)), bytes(64)).exchange(bytes(32), "peer")


def test_ed25519_known_answer() -> None:
    vector = case("ed25519")
    identity = Identity(vector["secret"])
    assert identity.public == vector["public"]
    assert identity.sign(vector["message"]) == vector["signature"]
    verify(vector["public"], vector["signature"], "it", vector["message"])


def test_hkdf_known_answer_and_pair_root_by_hand() -> None:
    vector = case("hkdf")
    made = HKDF(algorithm=SHA256(), length=42, salt=vector["salt"], info=vector["info"]).derive(vector["ikm"])
    assert made == vector["okm"]
    ecdh, kem, ciphertext, digest = b"e" * 32, b"k" * 32, b"c" * 1088, b"d" * 32
    info = b"hansa/secagg/1/pair\x00" + bytes([3, 9]) + hashlib.sha256(ciphertext).digest()
    extracted = hmac.digest(digest, ecdh + kem, "sha256")
    expected = hmac.digest(extracted, info + b"\x01", "sha256")
    assert keys.pair_root(ecdh, kem, ciphertext, digest, 3, 9) == expected


def test_hmac_known_answer() -> None:
    vector = case("hmac")
    assert tags.mac(vector["key"], vector["message"]) == vector["mac"]


def test_aes_known_answers() -> None:
    vector = case("aes-256")
    assert Cipher(AES(vector["key"]), ECB()).encryptor().update(vector["plain"]) == vector["cipher"]
    vector = case("aes-256-ctr")
    stream = Cipher(AES(vector["key"]), CTR(vector["counter"])).encryptor()
    assert stream.update(vector["plain"]) == vector["cipher"]


def test_mask_of_the_zero_seed() -> None:
    # AES-256 of the zero block under the zero key, as every AES implementation has it.
    vector = Vector.zeros(4, 0)
    apply_masks(vector, [bytes(32)], [])
    assert vector.body.tobytes().hex() == "dc95c078a2408989ad48a21492842087"
    assert vector.body.dtype == np.dtype("<u4")


def test_ml_kem_768_known_answer() -> None:
    vector = case("ml-kem-768")
    made = EpochKeys(b"x" * 32, vector["seed"])
    assert hashlib.sha3_256(made.public()[1]).digest() == vector["sha3_256_of_key"]
    assert made.decapsulate(vector["ciphertext"], "peer") == vector["shared"]


def test_ml_kem_refuses_keys_and_ciphertexts_of_another_form() -> None:
    with pytest.raises(PeerRefused, match="ML-KEM key"):
        keys.encapsulate(b"\xff" * 1184, "peer")
    with pytest.raises(PeerRefused, match="ciphertext"):
        EpochKeys(b"x" * 32, bytes(64)).decapsulate(b"short", "peer")


def test_both_ends_derive_the_same_root_and_anybody_elses_keys_give_another() -> None:
    low, high, other = (EpochKeys(bytes([k]) * 32, bytes([k]) * 64) for k in (1, 2, 3))
    secret, ciphertext = keys.encapsulate(high.public()[1], "high")
    here = keys.pair_root(low.exchange(high.public()[0], "high"), secret, ciphertext, b"e" * 32, 0, 1)
    kem = high.decapsulate(ciphertext, "low")
    there = keys.pair_root(high.exchange(low.public()[0], "low"), kem, ciphertext, b"e" * 32, 0, 1)
    assert here == there
    middle = other.decapsulate(ciphertext, "low")
    assert keys.pair_root(other.exchange(low.public()[0], "low"), middle, ciphertext, b"e" * 32, 0, 1) != here
    for change in [
        (b"f" * 32, 0, 1),
        (b"e" * 32, 0, 2),
    ]:
        assert keys.pair_root(low.exchange(high.public()[0], "high"), secret, ciphertext, *change) != here


def test_a_ratcheted_root_does_not_give_back_the_one_before_it() -> None:
    roots = [b"r" * 32]
    for _ in range(5):
        roots.append(keys.ratchet(roots[-1], 1))
    assert len(set(roots)) == 6
    assert keys.ratchet(roots[0], 5) == roots[5]
    assert roots[0] not in {keys.ratchet(roots[1], k) for k in range(300)}


def test_no_tag_is_a_prefix_of_another_tag() -> None:
    assert len(set(tags.ALL)) == len(tags.ALL)
    assert not [(a, b) for a in tags.ALL for b in tags.ALL if a is not b and b.startswith(a)]
    named = {value for name, value in vars(tags).items() if isinstance(value, bytes) and name != "ALL"}
    assert named == set(tags.ALL)


@pytest.mark.parametrize("y", sorted(identity._LOW_ORDER))
@pytest.mark.parametrize("sign", [0, 1 << 255])
def test_keys_of_low_order_for_which_anybody_can_sign_are_refused(y: int, sign: int) -> None:
    key, signature = (y | sign).to_bytes(32, "little"), (1).to_bytes(32, "little") + bytes(32)  # R = 0, S = 0
    forged = []
    for message in (bytes([number]) for number in range(64)):
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        except InvalidSignature:
            continue
        forged.append(message)
    for message in forged:
        with pytest.raises(PeerRefused):
            verify(key, signature, "forged", message)
    assert forged


def test_an_identity_never_prints_its_secret() -> None:
    identity = Identity.generate()
    assert identity.secret_bytes().hex() not in repr(identity)
    assert identity.secret_bytes().hex() not in str(vars(type(identity)))
    assert EpochKeys(b"x" * 32, bytes(64)).__repr__() == "EpochKeys(hidden)"


def test_seal_opens_only_for_its_round_author_holder_and_root() -> None:
    sealed = keys.seal(b"r" * 32, b"c" * 32, 1, 2, b"t" * 16, b"shares")
    assert keys.unseal(b"r" * 32, b"c" * 32, 1, 2, b"t" * 16, sealed) == b"shares"
    for changed in [
        (b"s" * 32, b"c" * 32, 1, 2, b"t" * 16),
        (b"r" * 32, b"d" * 32, 1, 2, b"t" * 16),
        (b"r" * 32, b"c" * 32, 2, 2, b"t" * 16),
        (b"r" * 32, b"c" * 32, 1, 1, b"t" * 16),
        (b"r" * 32, b"c" * 32, 1, 2, b"u" * 16),
    ]:
        with pytest.raises(PeerRefused):
            keys.unseal(*changed, sealed)
