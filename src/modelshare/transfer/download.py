"""Downloads files from a storage by signed URLs: in parallel, resumable, verified.

Bytes are written directly to their place on disk. A thread hashes each file's contiguous bytes as they arrive, so that
the digest is known shortly after the last byte. Only missing bytes are downloaded, and only a file with a wrong digest
is downloaded again.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from io import FileIO
from pathlib import Path
from typing import Final, Protocol

from modelshare.transfer.connections import CONNECTIONS
from modelshare.transfer.partfile import MAX_AT_ONCE, Hasher, PartFile
from modelshare.transfer.ranges import (
    DownloadError,
    InterruptedTransferError,
    OpenRange,
    RangeBody,
    SourceFailedError,
    UnusableAnswerError,
    UrlRejectedError,
)
from modelshare.transfer.signed_urls import SignedUrls
from modelshare.transfer.tasks import in_thread, run_all
from modelshare.wire.backoff import Backoff

_FLUSH: Final = 1 << 20
_HASH_STEP: Final = 64 << 20
_READ_SIZE: Final = 1 << 20
_ATTEMPTS: Final = 8
"""Failures in a row without a new byte; with the default delays they take about half a minute."""

_DOWNLOADS: Final = 3
"""Attempts to download a file whose digest is wrong."""
_RETRY_CAP: Final = 10.0

OnBytes = Callable[[int], None]
"""Called with the number of new bytes; negative if bytes turned out to be wrong."""


class RemoteFile(Protocol):
    """A file as its manifest describes it."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...


class Downloader:
    """What concurrent downloads share: connections and threads."""

    def __init__(self, open_range: OpenRange, *, retry_first: float = 0.2) -> None:
        self.open_range = open_range
        self.slots = asyncio.Semaphore(CONNECTIONS)
        self.writers = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="pull-write")
        self.hashers = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="pull-hash")
        self.retry_first = retry_first

    def close(self) -> None:
        """Stops the threads; call it after the last download."""
        self.writers.shutdown()
        self.hashers.shutdown()

    async def download(self, file: RemoteFile, part: PartFile, urls: SignedUrls, on_bytes: OnBytes) -> None:
        """Downloads what the part file lacks, verifies it, and gives it its name. Raises DownloadError."""
        on_bytes(part.bytes_done)
        for _ in range(_DOWNLOADS):
            if await Download(self, file, part, urls, on_bytes).run() == file.sha256:
                await in_thread(self.writers, part.publish)
                return
            on_bytes(-part.bytes_done)
            await in_thread(self.writers, part.reset)
            await urls.wrong(file.path, file.sha256)
        raise DownloadError(
            f"{file.path} does not match its digest after {_DOWNLOADS} downloads; the owner's storage holds "
            "different bytes than the manifest."
        )

    async def digest(self, path: Path) -> str:
        """The SHA-256 of a file on disk. Ends soon when it is cancelled."""
        hasher = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while await in_thread(self.hashers, _hash_some, file, hasher):
                continue
        return hasher.hexdigest()


class Download:
    """One attempt to download a file. A second one with the same part file resumes the first."""

    def __init__(
        self, downloader: Downloader, file: RemoteFile, part: PartFile, urls: SignedUrls, on_bytes: OnBytes
    ) -> None:
        self._downloader = downloader
        self._file = file
        self._part = part
        self._urls = urls
        self._on_bytes = on_bytes
        self._written = asyncio.Event()
        self._supports_ranges = True

    async def run(self) -> str:
        """Downloads what is missing; returns the SHA-256 of the whole file as stored on disk. Raises DownloadError."""
        hasher = hashlib.sha256()
        await run_all([self._fetch_missing(), self._hash_written(hasher)])
        return hasher.hexdigest()

    async def _fetch_missing(self) -> None:
        pieces = self._part.missing()

        async def worker() -> None:
            for piece in pieces:
                await self._fetch(piece)

        # Fetch the first piece alone to learn whether the server supports ranges: otherwise it sends the whole file.
        if (first := next(pieces, None)) is not None:
            await self._fetch(first)
        await run_all(worker() for _ in range(CONNECTIONS if self._supports_ranges else 1))

    async def _hash_written(self, hasher: Hasher) -> None:
        """Hashes the contiguous bytes as they arrive.

        Reads them from disk, so that what is verified is what will be used.
        """
        at = 0
        while at < self._part.size:
            while (frontier := self._part.frontier) == at:
                self._written.clear()
                await self._written.wait()
            at = await in_thread(self._downloader.hashers, self._part.feed, hasher, at, min(frontier, at + _HASH_STEP))

    async def _fetch(self, piece: int) -> None:
        backoff = Backoff(self._downloader.retry_first, _RETRY_CAP)
        connections, failures = self._urls.connections, 0
        while (gap := self._part.gap(piece))[0] < gap[1]:
            async with connections.request() as number:
                url = await self._urls.get(self._file.path)
                try:
                    await self._request(url, *gap)
                    connections.succeeded()
                    continue
                except SourceFailedError:
                    continue
                except UrlRejectedError as refused:
                    await self._urls.renew(self._file.path, url, str(refused))
                    continue
                except UnusableAnswerError as unusable:
                    raise DownloadError(
                        f"The owner's storage does not provide {self._file.path}: {unusable}."
                    ) from unusable
                except InterruptedTransferError as interrupted:
                    reason = interrupted
                    connections.failed(number)
                    failures += connections.is_single
            if self._part.gap(piece) != gap:
                backoff.reset()
                connections.progressed()
                failures = 0
            if max(failures, connections.failed_rounds) > _ATTEMPTS:
                raise DownloadError(f"Cannot pull {self._file.path} from the owner's storage: {reason}.") from reason
            await asyncio.sleep(backoff.next())

    async def _request(self, url: str, start: int, end: int) -> None:
        async with AsyncExitStack() as stack:
            open_range = self._urls.opener(url)
            if open_range is None:
                open_range = self._downloader.open_range
                await stack.enter_async_context(self._downloader.slots)
            body = await stack.enter_async_context(open_range(url, start, end, self._file.size))
            self._urls.accepted(self._file.path)
            if body.start < start or body.end > end:
                self._supports_ranges = False
            at = start
            async for data in _from(body, start):
                self._on_bytes(await in_thread(self._downloader.writers, self._part.write, at, *data))
                at += sum(map(len, data))
                self._written.set()
            if at < body.end:
                raise InterruptedTransferError("the response ended too early")


async def _from(body: RangeBody, start: int) -> AsyncIterator[list[bytes]]:
    """The body's bytes from `start` on, in batches large enough to justify passing a write to a thread.

    Bytes received before a connection error are yielded before it is raised.
    """
    skip = start - body.start
    left = body.end - body.start
    gathered: list[bytes] = []
    size = 0
    try:
        async with aclosing(body.chunks) as chunks:
            async for chunk in chunks:
                data = chunk[skip:left]
                skip, left = max(0, skip - len(chunk)), left - len(chunk)
                if data:
                    gathered.append(data)
                    size += len(data)
                if size >= _FLUSH or len(gathered) == MAX_AT_ONCE:
                    yield gathered
                    gathered, size = [], 0
                if left <= 0:
                    break
    except InterruptedTransferError:
        if gathered:
            yield gathered
        raise
    if gathered:
        yield gathered


def _hash_some(file: FileIO, hasher: Hasher) -> bool:
    """Hashes the next bytes; returns whether there were any."""
    buffer = bytearray(_READ_SIZE)
    view, end = memoryview(buffer), file.tell() + _HASH_STEP
    while file.tell() < end and (count := file.readinto(buffer)):
        hasher.update(view[:count])
    return file.tell() == end
