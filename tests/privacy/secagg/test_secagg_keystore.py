# SPDX-License-Identifier: Apache-2.0
"""The key store, and the state in it."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg.errors import StateRefused
from privacy.secagg.keystore import FileKeyStore, MemoryKeyStore
from privacy.secagg.merchant import MerchantSession
from privacy.secagg.state import State, decode_state, encode_state


def test_after_save_returns_load_gives_the_saved_bytes_also_after_a_crash(tmp_path: Path) -> None:
    store = FileKeyStore(tmp_path / "secagg.state")
    assert store.load() is None
    store.save(b"one")
    store.save(b"two")
    store.close()
    again = FileKeyStore(tmp_path / "secagg.state")
    assert again.load() == b"two"
    again.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secagg.state", "state.lock"]


@pytest.mark.parametrize("other", ["secagg.state", "another.state"])
def test_two_processes_never_share_a_store_nor_any_two_stores_of_one_folder(tmp_path: Path, other: str) -> None:
    store = FileKeyStore(tmp_path / "secagg.state")
    with pytest.raises(StateRefused, match="in use"):
        FileKeyStore(tmp_path / other)
    store.close()
    FileKeyStore(tmp_path / "secagg.state").close()


@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_a_crash_during_save_leaves_the_old_bytes_or_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = FileKeyStore(tmp_path / "secagg.state")
    store.save(b"old")

    def crash(*_: object, **__: object) -> None:
        raise OSError("power lost")

    monkeypatch.setattr(f"privacy.secagg.keystore.os.{call}", crash)
    with pytest.raises(OSError, match="power"):
        store.save(b"new")
    monkeypatch.undo()
    assert store.load() == b"old"
    store.save(b"newer")
    assert store.load() == b"newer"
    store.close()


def test_the_file_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    store = FileKeyStore(tmp_path / "secagg.state")
    store.save(b"secret")
    assert stat.S_IMODE((tmp_path / "secagg.state").stat().st_mode) == 0o600
    store.close()


def test_stored_state_gives_back_the_same_state(bench: Callable[..., Any]) -> None:
    league = bench(3)
    saved: list[bytes] = []
    store = league.league.stores["m001"]
    original = store.save
    store.save = lambda state: (saved.append(state), original(state))[1]
    league.set_up()
    league.round()
    assert len(saved) == 7  # three for the set-up, four for the round
    for data in saved:
        state = decode_state(data, league.league.roster.digest)
        assert encode_state(state) == data


def test_the_state_never_prints_a_secret(bench: Callable[..., Any]) -> None:
    league = bench(3)
    league.set_up()
    merchant = league.league.merchants["m001"]
    text = (
        repr(merchant) + repr(merchant._state) + repr(merchant._state.epoch) + repr(league.league.stores["m001"])
    )
    for root in merchant._state.epoch.roots.values():
        assert root.hex() not in text
        assert repr(root)[2:10] not in text


def test_a_store_of_another_roster_is_refused(bench: Callable[..., Any]) -> None:
    one, two = bench(3).league, bench(3).league
    two.stores["m000"].save(encode_state(State(one.roster.digest)))
    with pytest.raises(StateRefused, match="another roster"):
        MerchantSession(two.identities["m000"], two.roster, two.stores["m000"])


@given(st.binary(max_size=300))
def test_a_damaged_store_is_refused(data: bytes) -> None:
    whole = encode_state(State(bytes(32), 3, 4, 5, 6))
    for damaged in (data, whole[:-1], whole + data + b"x", b"HSK\x01" + data):
        with pytest.raises(StateRefused):
            decode_state(damaged, bytes(32))


def test_memory_store_never_prints() -> None:
    assert "secret" not in repr(MemoryKeyStore(b"secret"))
