# SPDX-License-Identifier: Apache-2.0
"""Files that survive a crash."""

import os
import threading
from pathlib import Path

import pytest

from releases import durable


def test_a_reader_sees_the_old_file_or_the_new_one_never_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    durable.write(path, b"old")
    seen = []
    real = os.fsync

    def watched(descriptor: int) -> None:
        seen.append(path.read_bytes())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    durable.write(path, b"new", mode=0o444)
    assert seen == [b"old", b"new"]
    assert path.stat().st_mode & 0o777 == 0o444


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        durable.write(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    order = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with durable.locked(tmp_path):
            order.append("second")

    with durable.locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        thread.join(0.1)
        assert thread.is_alive()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_link_is_swapped_whether_or_not_it_was_there(tmp_path: Path) -> None:
    for target in ("a", "b"):
        durable.link(tmp_path / "link", target)
        assert (tmp_path / "link").readlink() == Path(target)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
