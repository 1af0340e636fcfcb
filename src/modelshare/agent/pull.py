"""Pulls a deployment's files into the agent's cache with granted URLs."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Final
from weakref import WeakValueDictionary

import aiohttp

from modelshare.agent.cache import Cache
from modelshare.agent.direct.sources import DirectReader, Grants, Sources
from modelshare.agent.errors import PullError
from modelshare.agent.range_request import RangeRequests
from modelshare.transfer.connections import CONNECTIONS
from modelshare.transfer.download import Downloader, OnBytes
from modelshare.transfer.partfile import PartFile
from modelshare.transfer.ranges import DownloadError, OwnerAwayError
from modelshare.transfer.signed_urls import SignedUrls
from modelshare.transfer.tasks import run_all
from modelshare.wire.link import DeploymentFile

_log = logging.getLogger(__name__)
_VERIFIED_AT_ONCE: Final = 2
"""Files that are hashed in parallel while an engine loads them, which needs the other cores."""


class Moved:
    """Wakes all who wait for something to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Returns after the next change, or after this time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


class Puller:
    """One per agent. Pulls of several deployments share its connections and never download the same file twice."""

    def __init__(
        self,
        cache: Cache,
        http: aiohttp.ClientSession,
        *,
        direct: DirectReader | None = None,
        stall_seconds: float = 20.0,
        retry_first: float = 0.2,
    ) -> None:
        """With `direct`, files are fetched from other agents where grants name some."""
        self._cache = cache
        self._downloader = Downloader(RangeRequests(http, stall_seconds), retry_first=retry_first)
        self._direct = direct
        self.pulling: dict[str, PartFile] = {}
        """Files that are being pulled, by their digest."""
        self.moved = Moved()
        """Notified when one of them has more bytes, begins or ends."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def close(self) -> None:
        """Stops the threads; call it after the last pull."""
        self._downloader.close()

    async def pull(self, files: Iterable[DeploymentFile], grants: Grants, on_bytes: OnBytes) -> None:
        """Downloads every file into the cache, verified.

        Raises OwnerAwayError, or PullError with a reason that names the file.
        """
        urls = SignedUrls(grants) if self._direct is None else Sources(grants, self._direct)
        todo = iter({file.sha256: file for file in files}.values())

        async def worker() -> None:
            for file in todo:
                await self._file(file, urls, on_bytes)

        try:
            await run_all(worker() for _ in range(CONNECTIONS))
        except OwnerAwayError:
            raise
        except DownloadError as error:
            raise PullError(str(error)) from error
        except OSError as error:  # a full or broken disk
            raise PullError(f"Cannot write the weights: {error.strerror or error}.") from error

    async def discard_damaged(self, files: Iterable[DeploymentFile]) -> list[str]:
        """Hashes files and discards those whose bytes have changed, so that they are pulled again.

        Returns the paths of these.
        """
        todo, damaged = iter({file.sha256: file for file in files}.values()), list[str]()

        async def worker() -> None:
            for file in todo:
                path = self._cache.blob(file.sha256)
                if path.exists() and await self._downloader.digest(path) != file.sha256:
                    _log.warning("%s was damaged on the disk; pulling it again.", file.path)
                    self._cache.discard(file)
                    damaged.append(file.path)

        await run_all(worker() for _ in range(_VERIFIED_AT_ONCE))
        return damaged

    async def _file(self, file: DeploymentFile, urls: SignedUrls, on_bytes: OnBytes) -> None:
        lock = self._locks.setdefault(file.sha256, asyncio.Lock())
        async with lock:
            if self._cache.has(file):
                on_bytes(file.size)
                return

            def moved(count: int) -> None:
                on_bytes(count)
                self.moved.notify()

            with PartFile(self._cache.blob(file.sha256), file.size) as part:
                self.pulling[file.sha256] = part
                try:
                    await self._downloader.download(file, part, urls, moved)
                finally:
                    del self.pulling[file.sha256]
                    self.moved.notify()
