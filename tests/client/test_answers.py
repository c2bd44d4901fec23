# SPDX-License-Identifier: Apache-2.0
"""Stored answers: found again for the same inputs, whole or not at all."""

import hashlib
import os

import numpy as np
import pytest

from client.answers import AnswerStore
from client.wire import Reply, encode_reply

REPLY = Reply({"a": np.arange(4, dtype=np.float32)}, {}, 1)
INPUTS, OTHERS = bytes(32), bytes([1]) * 32


@pytest.fixture
def store(tmp_path):
    return AnswerStore(tmp_path / "answers", durable=True)


def only_file(store):
    (path,) = store.folder.iterdir()
    return path


def test_an_answer_is_found_again_for_exactly_its_inputs(store):
    digest = store.store("run", "train", INPUTS, REPLY)
    assert digest == hashlib.sha256(encode_reply(REPLY)).hexdigest()
    found = store.find("run", "train", INPUTS)
    assert found is not None
    assert encode_reply(found) == encode_reply(REPLY)
    assert store.find("run", "train", OTHERS) is None
    assert store.find("run", "gate", INPUTS) is None
    assert store.find("another", "train", INPUTS) is None


def test_a_damaged_answer_is_not_sent(store):
    store.store("run", "train", INPUTS, REPLY)
    path = only_file(store)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position])
        assert store.find("run", "train", INPUTS) is None
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        assert store.find("run", "train", INPUTS) is None
    path.write_bytes(whole)
    assert store.find("run", "train", INPUTS) is not None


def test_an_answer_is_whole_on_disk_before_it_leaves(store, monkeypatch):
    store.store("run", "train", INPUTS, REPLY)
    before = only_file(store).read_bytes()

    def full_disk(_handle):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        store.store("run", "train", OTHERS, Reply({"a": np.zeros(9, np.float32)}, {}, 1))
    assert store._path("run", "train").read_bytes() == before


@pytest.mark.parametrize("run", ["../../etc/passwd", "a/b", "\x00", "ü" * 200, "."])
def test_the_platforms_name_of_a_run_never_becomes_a_path(store, run):
    store.store(run, "train", INPUTS, REPLY)
    assert only_file(store).parent == store.folder
    assert store.find(run, "train", INPUTS) is not None
