"""Downloads one file from the owner's storage: its missing pieces, several in parallel, hashed as they arrive."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

import aiohttp

from modelshare.agent.errors import PullError
from modelshare.agent.grants import SignedUrls
from modelshare.agent.partfile import MAX_AT_ONCE, Hasher, PartFile
from modelshare.agent.range_request import (
    InterruptedTransferError,
    RangeBody,
    UnusableAnswerError,
    UrlRejectedError,
    open_range,
)
from modelshare.agent.tasks import in_thread, run_all
from modelshare.wire.backoff import Backoff
from modelshare.wire.link import DeploymentFile

CONNECTIONS: Final = 8
"""Concurrent requests of all deployments of an agent."""

_FLUSH: Final = 1 << 20
_HASH_STEP: Final = 64 << 20
_ATTEMPTS: Final = 8
"""Attempts of one request without a single new byte; with the default delays they take about half a minute."""

OnBytes = Callable[[int], None]
"""Called with the number of new bytes; negative if bytes turned out to be wrong."""


@dataclass(frozen=True, slots=True)
class DownloadContext:
    """What all downloads of an agent share."""

    http: aiohttp.ClientSession
    slots: asyncio.Semaphore
    writers: Executor
    hashers: Executor
    stall_seconds: float = 20.0
    """A connection that receives nothing for this long is closed, and its request retried."""
    retry_first: float = 0.2
    retry_cap: float = 10.0


class Download:
    """One attempt to download a file. A second one with the same part file resumes the first."""

    def __init__(
        self, context: DownloadContext, file: DeploymentFile, part: PartFile, urls: SignedUrls, on_bytes: OnBytes
    ) -> None:
        self._context = context
        self._file = file
        self._part = part
        self._urls = urls
        self._on_bytes = on_bytes
        self._grown = asyncio.Event()
        self._knows_ranges = True

    async def run(self) -> str:
        """Downloads what is missing; returns the SHA-256 of the whole file as stored on disk. Raises PullError."""
        hasher = hashlib.sha256()
        await run_all([self._fetch_missing(), self._follow(hasher)])
        return hasher.hexdigest()

    async def _fetch_missing(self) -> None:
        pieces = self._part.missing()

        async def one_after_another() -> None:
            for piece in pieces:
                await self._fetch(piece)

        # Fetch the first piece alone to learn whether the server supports ranges: otherwise it sends the whole file.
        if (first := next(pieces, None)) is not None:
            await self._fetch(first)
        await run_all(one_after_another() for _ in range(CONNECTIONS if self._knows_ranges else 1))

    async def _follow(self, hasher: Hasher) -> None:
        """Hashes the contiguous bytes as they arrive.

        Reads them from disk, so that what is verified is what will be used.
        """
        at = 0
        while at < self._part.size:
            while (there := self._part.frontier) == at:
                self._grown.clear()
                await self._grown.wait()
            at = await in_thread(self._context.hashers, self._part.feed, hasher, at, min(there, at + _HASH_STEP))

    async def _fetch(self, piece: int) -> None:
        backoff = Backoff(self._context.retry_first, self._context.retry_cap)
        while (gap := self._part.gap(piece))[0] < gap[1]:
            async with self._context.slots:
                url = await self._urls.get(self._file.path)
                try:
                    await self._request(url, *gap)
                    continue
                except UrlRejectedError as refused:
                    await self._urls.renew(self._file.path, url, str(refused))
                    continue
                except UnusableAnswerError as unusable:
                    raise PullError(
                        f"The owner's storage does not provide {self._file.path}: {unusable}."
                    ) from unusable
                except InterruptedTransferError as interrupted:
                    reason = interrupted
            if self._part.gap(piece) != gap:
                backoff.reset()
            if backoff.failures >= _ATTEMPTS:
                raise PullError(f"Cannot pull {self._file.path} from the owner's storage: {reason}.") from reason
            await asyncio.sleep(backoff.next())

    async def _request(self, url: str, start: int, end: int) -> None:
        context = self._context
        async with open_range(
            context.http, url, start, end, size=self._file.size, stall_seconds=context.stall_seconds
        ) as body:
            self._urls.accepted(self._file.path)
            if body.start < start or body.end > end:
                self._knows_ranges = False
            at = start
            async for data in _from(body, start):
                self._on_bytes(await in_thread(context.writers, self._part.write, at, *data))
                at += sum(map(len, data))
                self._grown.set()
            if at < body.end:
                raise InterruptedTransferError("the response ended too early")


async def _from(body: RangeBody, start: int) -> AsyncIterator[list[bytes]]:
    """The body's bytes from `start` on, in batches large enough to justify passing a write to a thread.

    Bytes received before a connection error are yielded before it is raised.
    """
    skip = start - body.start
    left = body.end - body.start
    gathered: list[bytes] = []
    held = 0
    try:
        async for chunk in body.content.iter_any():
            data = chunk[skip:left]
            skip, left = max(0, skip - len(chunk)), left - len(chunk)
            if data:
                gathered.append(data)
                held += len(data)
            if held >= _FLUSH or len(gathered) == MAX_AT_ONCE:
                yield gathered
                gathered, held = [], 0
            if left <= 0:
                break
    except (aiohttp.ClientError, TimeoutError, ConnectionError):
        if gathered:
            yield gathered
        raise
    if gathered:
        yield gathered
