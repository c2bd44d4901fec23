# SPDX-License-Identifier: Apache-2.0
"""Files that survive a crash: write beside, fsync, rename, fsync the folder; one writer at a time.

Guarantees:
- A reader sees the old file or the new one, never a part.
- A second writer waits for the first.

Assumes: a POSIX file system whose rename within one folder is atomic.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(source: Path, destination: Path) -> None:
    """Rename `source` (already flushed) to `destination` atomically and flush the folder that holds it."""
    source.replace(destination)
    sync(destination.parent)


def write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` at `path` atomically with permission bits `mode`."""
    descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        replace(Path(name), path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target` atomically, whether or not it was one before."""
    beside = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    replace(beside, path)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's `.lock`; another process that asks for it waits. A crash frees it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
