"""The current signed URLs of one download, renewed when the storage rejects them."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from modelshare.transfer.connections import Connections
from modelshare.transfer.ranges import DownloadError, OpenRange
from modelshare.wire.agents import GrantFile

_RENEWALS: Final = 3
"""New grants in a row that the storage may reject before it counts as an error."""


class Granted(Protocol):
    """A grant, or another answer of the server with signed URLs."""

    @property
    def files(self) -> Sequence[GrantFile]: ...


GrantSource = Callable[[], Awaitable[Granted]]
"""Requests new URLs from the server; its errors end the download."""


class SignedUrls:
    """Shared by all requests of one download: the first one that is rejected renews the grant for the others, and those
    that fail lower the number of connections for all."""

    def __init__(self, source: GrantSource) -> None:
        self.connections = Connections()
        self._source = source
        self._urls: dict[str, str] = {}
        self._lock = asyncio.Lock()
        self._refusals: Counter[str] = Counter()

    async def get(self, path: str) -> str:
        """The URL of the file at `path`."""
        async with self._lock:
            if not self._urls:
                await self._load()
        if (url := self._urls.get(path)) is None:
            raise DownloadError(f"The server grants no URL for {path}. The model's owner should push it again.")
        return url

    def accepted(self, path: str) -> None:
        """Call when the storage accepted the URL."""
        self._refusals.pop(path, None)

    def opener(self, url: str) -> OpenRange | None:
        """How to request this URL; None: as any other."""

    async def wrong(self, path: str, sha256: str) -> None:
        """Call when the bytes of a file did not have its digest."""

    async def renew(self, path: str, refused: str, answer: str) -> None:
        """Call when the storage rejected the URL `refused` with `answer`.

        Gets a new grant, unless that has already happened.
        """
        async with self._lock:
            if self._urls.get(path) != refused:
                return
            self._refusals[path] += 1
            if self._refusals[path] > _RENEWALS:
                raise DownloadError(f"The owner's storage refuses every URL for {path} ({answer}).")
            await self._load()

    async def _load(self) -> None:
        grant = await self._source()
        self._urls = {file.path: file.url for file in grant.files}
