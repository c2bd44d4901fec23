# SPDX-License-Identifier: Apache-2.0
"""Signing keys: files, passphrases, and what never shows."""

import pickle
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from releases.errors import KeyFileError
from releases.keys import SigningKey, load_keys, load_signers, public_from_json, public_to_json

PASSPHRASE = b"correct horse battery"


def test_a_private_key_file_is_readable_by_its_owner_only_and_a_more_open_one_is_refused(tmp_path: Path) -> None:
    key = SigningKey.generate()
    path = tmp_path / "keys" / "root-1.pem"
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert SigningKey.load(path).keyid == key.keyid
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match=r"expected mode 600, found 640"):
        SigningKey.load(path)


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    SigningKey.generate().save(tmp_path / "root-1.pem")
    before = (tmp_path / "root-1.pem").read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        SigningKey.generate().save(tmp_path / "root-1.pem")
    assert (tmp_path / "root-1.pem").read_bytes() == before


def test_a_key_never_prints_and_never_pickles_its_private_half(tmp_path: Path) -> None:
    key = SigningKey.generate()
    key.save(tmp_path / "root-1.pem")
    secret = key.signer.private_bytes.decode().splitlines()[1]
    assert "redacted" in repr(key)
    for words in (repr(key), str(key), f"{[key]}", public_to_json(key.public).decode()):
        assert secret not in words
        assert secret[-20:] not in words
    with pytest.raises(TypeError, match="never pickled") as caught:
        pickle.dumps(key)
    assert secret not in "".join(traceback.format_exception(caught.value))


def test_a_key_file_with_a_passphrase_opens_with_that_passphrase_only(tmp_path: Path) -> None:
    key = SigningKey.generate()
    path = tmp_path / "root-1.pem"
    key.save(path, PASSPHRASE)
    assert b"ENCRYPTED" in path.read_bytes()
    assert SigningKey.load(path, PASSPHRASE).keyid == key.keyid
    with pytest.raises(KeyFileError, match="wrong passphrase"):
        SigningKey.load(path, b"another passphrase")
    with pytest.raises(KeyFileError, match="needs a passphrase"):
        SigningKey.load(path)
    SigningKey.generate().save(tmp_path / "open.pem")
    with pytest.raises(KeyFileError, match="has no passphrase, but one was given"):
        SigningKey.load(tmp_path / "open.pem", PASSPHRASE)
    with pytest.raises(KeyFileError, match="expected 12 bytes or more, found 5"):
        key.save(tmp_path / "weak.pem", b"short")


def test_another_file_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="found none"):
        SigningKey.load(tmp_path / "absent.pem")
    other = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for data, words in ((b"not a key", "PEM key"), (other, "Ed25519")):
        path = tmp_path / "other.pem"
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(KeyFileError, match=words):
            SigningKey.load(path)


def test_a_public_key_survives_the_json_round_trip() -> None:
    key = SigningKey.generate()
    assert public_from_json(public_to_json(key.public)) == key.public
    for data in (b"", b"[]", b"{}", b'{"keyid": "a"}'):
        with pytest.raises(KeyFileError, match="public key"):
            public_from_json(data)


def test_keys_load_by_role(tmp_path: Path) -> None:
    made = {}
    for name in ("root-2", "root-1", "targets-anna", "targets-bert", "snapshot", "timestamp"):
        made[name] = SigningKey.generate()
        made[name].save(tmp_path / f"{name}.pem")
    signers = load_signers(tmp_path)
    assert [key.keyid for key in load_keys(tmp_path, "root")] == [made["root-1"].keyid, made["root-2"].keyid]
    assert [key.keyid for key in signers.targets] == [made["targets-anna"].keyid, made["targets-bert"].keyid]
    assert [key.keyid for key in signers.of("timestamp")] == [made["timestamp"].keyid]
