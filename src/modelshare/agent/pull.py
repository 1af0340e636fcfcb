"""Downloads a deployment's files from the owner's storage with granted URLs: in parallel, resumable, verified.

Bytes are written directly to their place on disk. A thread hashes each file's contiguous bytes as they arrive, so that
the digest is known shortly after the last byte. Only missing bytes are downloaded, and only a file with a wrong digest
is downloaded again.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import aiohttp

from modelshare.agent.cache import Cache
from modelshare.agent.download import CONNECTIONS, Download, DownloadContext, OnBytes
from modelshare.agent.errors import PullError
from modelshare.agent.grants import GrantSource, SignedUrls
from modelshare.agent.partfile import PartFile
from modelshare.agent.tasks import in_thread, run_all
from modelshare.wire.link import DeploymentFile

_log = logging.getLogger(__name__)

_DOWNLOADS: Final = 3
"""Attempts to download a file whose digest is wrong."""


class Puller:
    """One per agent. Pulls of several deployments share its connections and never download the same file twice."""

    def __init__(
        self, cache: Cache, http: aiohttp.ClientSession, *, stall_seconds: float = 20.0, retry_first: float = 0.2
    ) -> None:
        self._cache = cache
        self._context = DownloadContext(
            http,
            asyncio.Semaphore(CONNECTIONS),
            ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="pull-write"),
            ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="pull-hash"),
            stall_seconds,
            retry_first,
        )
        self._in_hand: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def close(self) -> None:
        """Stops the threads; call it after the last pull."""
        self._context.writers.shutdown()
        self._context.hashers.shutdown()

    async def pull(self, files: Iterable[DeploymentFile], grants: GrantSource, on_bytes: OnBytes) -> None:
        """Downloads every file into the cache, verified. Raises PullError with a reason that names the file."""
        urls = SignedUrls(grants)
        todo = iter({file.sha256: file for file in files}.values())

        async def one_after_another() -> None:
            for file in todo:
                await self._file(file, urls, on_bytes)

        try:
            await run_all(one_after_another() for _ in range(CONNECTIONS))
        except OSError as error:  # a full or broken disk
            raise PullError(f"Cannot write the weights: {error.strerror or error}.") from error

    async def discard_damaged(self, files: Iterable[DeploymentFile]) -> None:
        """Hashes files and discards those whose bytes have changed, so that they are pulled again."""
        for file in files:
            path = self._cache.blob(file.sha256)
            if path.exists() and await in_thread(self._context.hashers, _digest_of, path) != file.sha256:
                _log.warning("%s was damaged on the disk; pulling it again.", file.path)
                self._cache.discard(file)

    async def _file(self, file: DeploymentFile, urls: SignedUrls, on_bytes: OnBytes) -> None:
        lock = self._in_hand.setdefault(file.sha256, asyncio.Lock())
        async with lock:
            if self._cache.has(file):
                on_bytes(file.size)
                return
            with PartFile(self._cache.blob(file.sha256), file.size) as part:
                on_bytes(part.bytes_done)
                for _ in range(_DOWNLOADS):
                    if await Download(self._context, file, part, urls, on_bytes).run() == file.sha256:
                        await in_thread(self._context.writers, part.publish)
                        return
                    on_bytes(-part.bytes_done)
                    await in_thread(self._context.writers, part.reset)
        raise PullError(
            f"{file.path} does not match its digest after {_DOWNLOADS} downloads; the owner's storage holds "
            "different bytes than the manifest."
        )


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
