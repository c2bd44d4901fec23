# SPDX-License-Identifier: Apache-2.0
"""A source's feed through TUF's client workflow (specification, section 5), its refusals in our words.

Guarantees:
- Every failure that the source can cause is a refusal (PullRefused) that names the file.

Assumes: one feed at a time per metadata folder (the caller holds the lock); the system clock is right.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    SlowRetrievalError,
    UnsignedMetadataError,
)
from tuf.ngclient import Updater, UpdaterConfig

from releases.errors import (
    FeedExpired,
    FeedForged,
    FeedMixed,
    FeedRolledBack,
    MetadataMalformed,
    MetadataTooLong,
    PullRefused,
    RootRefused,
    SourceUnreachable,
    TargetAltered,
    TargetMissing,
    TargetTooLong,
)
from releases.signed import Proof
from releases.sources import Source

# A root is some 3 kB, a release's entry in targets some 1 kB: room for thousands of releases.
_CONFIG: Final = UpdaterConfig(
    root_max_length=256_000,
    timestamp_max_length=16_000,
    snapshot_max_length=64_000,
    targets_max_length=8_000_000,
    app_user_agent="hansa",
)


class Feed:
    """A verified view of what a source offers; `refresh` once, then read `proof` and `fetch` files."""

    def __init__(self, metadata: Path, pinned: bytes, source: Source) -> None:
        metadata.mkdir(parents=True, exist_ok=True)
        self._metadata = metadata
        self._source = source
        with _metadata_refusals(source):
            self._updater = Updater(
                metadata_dir=str(metadata),
                metadata_base_url=f"{source.base_url}metadata/",
                target_base_url=f"{source.base_url}targets/",
                fetcher=source,
                config=_CONFIG,
                bootstrap=pinned,
            )

    def refresh(self) -> None:
        """Root, timestamp, snapshot, targets: fetched, verified, kept. Raises PullRefused's children."""
        with _metadata_refusals(self._source):
            self._updater.refresh()

    def proof(self, pinned_version: int) -> Proof:
        """What `refresh` verified, verbatim: the roots after the pinned one, and targets."""
        roots = []
        newest = int((self._metadata / "root.json").resolve().name.partition(".")[0])
        for version in range(pinned_version + 1, newest + 1):
            roots.append((self._metadata / "root_history" / f"{version}.root.json").read_bytes())
        return Proof(tuple(roots), (self._metadata / "targets.json").read_bytes())

    def fetch(self, version: int, name: str, destination: Path) -> None:
        """One file of a listed release, verified, into `destination` (not flushed). Raises PullRefused."""
        path = f"{version}/{name}"
        with _metadata_refusals(self._source):
            target = self._updater.get_targetinfo(path)
        if target is None:
            raise TargetMissing(f"{path}: not in the signed list. Tell the platform.")
        try:
            self._updater.download_target(target, str(destination))
        except DownloadLengthMismatchError as error:
            raise TargetTooLong(
                f"{path}: expected {target.length} bytes as signed, found more. {_DISTRUST}"
            ) from error
        except DownloadHTTPError as error:
            if error.status_code not in (403, 404):
                raise SourceUnreachable(f"{path}: {error}. Try again later.") from error
            raise TargetMissing(f"{path}: signed, but the source doesn't have it. {_DISTRUST}") from error
        except DownloadError as error:
            raise SourceUnreachable(f"{path}: {_words(error)}. Pull again.") from error
        except LengthOrHashMismatchError as error:
            raise TargetAltered(f"{path}: {error}. {_DISTRUST}") from error


_DISTRUST: Final = "Nothing was installed; try another mirror and tell the platform."


@contextlib.contextmanager
def _metadata_refusals(source: Source) -> Iterator[None]:
    try:
        yield
    except (RepositoryError, DownloadError) as error:
        raise _refusal(error, source.last_name) from error


def _refusal(error: Exception, file: str) -> PullRefused:
    """The refusal for what TUF's client raised while it looked at `file`, such as `4.snapshot.json`."""
    role = file.removesuffix(".json").rpartition(".")[2]
    found = f"{file}: {_words(error)}. "
    match error:
        case SlowRetrievalError():
            return SourceUnreachable(f"{file}: no answer in time. Check the address and the network.")
        case DownloadLengthMismatchError():
            return MetadataTooLong(f"{found}{_DISTRUST}")
        case DownloadError():
            return SourceUnreachable(f"{found}Check the address and the network.")
        case ExpiredMetadataError():
            return FeedExpired(
                f"{found}The mirror is frozen, the platform stopped, or this clock is wrong. "
                "Nothing was installed; what is active keeps serving."
            )
        case UnsignedMetadataError() | BadVersionNumberError() if role == "root":
            return RootRefused(f"{found}{_DISTRUST}")
        case UnsignedMetadataError():
            return FeedForged(f"{found}{_DISTRUST}")
        case BadVersionNumberError() if role == "timestamp":
            return FeedRolledBack(f"{found}{_DISTRUST}")
        case BadVersionNumberError() | LengthOrHashMismatchError():
            return FeedMixed(f"{found}{_DISTRUST}")
        case _:
            return MetadataMalformed(f"{found}{_DISTRUST}")


def _words(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
