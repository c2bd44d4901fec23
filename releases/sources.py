# SPDX-License-Identifier: Apache-2.0
"""Where releases come from: a mirror over HTTP or a folder (air gap). Neither is trusted.

Guarantees:
- A folder source reads regular files inside the folder only.
- A body that trickles in ends at the deadline (a server that trickles its header is bounded by the socket
  timeout between bytes alone).
"""

import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

import urllib3
from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
from tuf.ngclient import FetcherInterface, Urllib3Fetcher

SOCKET_TIMEOUT_S: Final = 30
_CHUNK_BYTES: Final = 2**18
_FOLDER: Final = "folder:///"


class Source(FetcherInterface):
    """A fetcher that remembers what it fetched last, so that a refusal can name the file."""

    base_url: str
    last_name: str = ""

    def fetch(self, url: str) -> Iterator[bytes]:
        """Fetch, as the interface says."""
        self.last_name = url.rpartition("/")[2]
        return super().fetch(url)

    def close(self) -> None:
        """End whatever is still open."""


class FolderSource(Source):
    """A repository in a folder, such as a mounted disk."""

    def __init__(self, folder: Path) -> None:
        self.base_url = _FOLDER
        self._folder = folder.resolve()

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = unquote(url.removeprefix(_FOLDER))
        path = (self._folder / PurePosixPath(name)).resolve()
        if not path.is_relative_to(self._folder) or not path.is_file():
            raise DownloadHTTPError(f"{name}: no such file in {self._folder}", 404)
        return self._chunks(path)

    def _chunks(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk


class HttpSource(Source, Urllib3Fetcher):
    """A repository behind HTTP(S); all that is fetched through one object shares one deadline."""

    def __init__(self, url: str, timeout_s: float) -> None:
        Urllib3Fetcher.__init__(self, socket_timeout=SOCKET_TIMEOUT_S, app_user_agent="hansa")
        self.base_url = url if url.endswith("/") else f"{url}/"
        self._deadline = time.monotonic() + timeout_s
        self._response: urllib3.BaseHTTPResponse | None = None

    def close(self) -> None:
        """End a response that was refused half-way."""
        if self._response is not None:
            self._response.close()

    def _chunks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        self._response = response
        # read1 returns what has arrived: a full read would wait for a whole chunk, however slowly it trickles.
        try:
            while chunk := response.read1(_CHUNK_BYTES):
                if time.monotonic() > self._deadline:
                    raise SlowRetrievalError("the deadline passed")
                yield chunk
        except urllib3.exceptions.TimeoutError as error:
            raise SlowRetrievalError("no byte arrived in time") from error
        except urllib3.exceptions.HTTPError as error:
            raise DownloadError(f"the connection broke ({error})") from error
        finally:
            response.close()


def open_source(source: str, timeout_s: float) -> Source:
    """The fetcher for `source`: an http:// or https:// URL, or a folder's path."""
    if urlsplit(source).scheme in ("http", "https"):
        return HttpSource(source, timeout_s)
    return FolderSource(Path(source))
