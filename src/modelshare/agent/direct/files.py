"""What an agent serves to others: files by their digest, complete or as far as they have been pulled."""

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Final, Protocol

from modelshare.agent.cache import Cache
from modelshare.agent.errors import AgentError, DeploymentError
from modelshare.agent.pull import Puller
from modelshare.transfer.tasks import in_thread
from modelshare.wire.errors import ErrorCode, ErrorType
from modelshare.wire.link import BODY_SLICE

_WAIT_SECONDS: Final = 5.0
"""How long a reader waits for bytes that are still being pulled, before it is told to come back."""
_READERS: Final = 4


class RefusedError(AgentError):
    """A reader gets no bytes."""

    def __init__(self, status: HTTPStatus, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    def body(self) -> bytes:
        """The response's JSON, as the platform's errors."""
        code = ErrorCode.OWNER_AWAY if self.status is HTTPStatus.SERVICE_UNAVAILABLE else None
        error = {"message": str(self), "type": ErrorType.SERVER, "code": code, "param": None}
        return json.dumps({"error": error}).encode()


class ServedFile(Protocol):
    """A file that is open for one reader."""

    @property
    def size(self) -> int: ...

    async def readable_to(self, at: int, end: int) -> int:
        """Up to where, at most `end`, bytes can be read from `at` on. Waits a little if there are none; then `at`."""
        ...

    async def read(self, at: int, limit: int) -> bytes:
        """The next bytes, at most `limit`. Raises RefusedError, OSError."""
        ...

    def close(self) -> None: ...


class ServedFiles(Protocol):
    async def open(self, sha256: str) -> ServedFile:
        """Raises RefusedError."""
        ...


class CachedFiles:
    """The files of an agent's deployments. Those that are still being pulled are not verified yet; every reader
    verifies what it got."""

    def __init__(self, cache: Cache, puller: Puller) -> None:
        self._cache = cache
        self._puller = puller
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="share-read")

    def close(self) -> None:
        self._readers.shutdown()

    async def open(self, sha256: str) -> "_CachedFile":
        """See `ServedFiles`."""
        deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
        while True:
            if (file := self._opened(sha256)) is not None:
                return file
            if (left := deadline - asyncio.get_running_loop().time()) <= 0:
                raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "This agent does not have the file yet.", 1)
            await self._puller.moved.wait(left)

    def _opened(self, sha256: str) -> "_CachedFile | None":
        try:
            path = self._cache.blob(sha256)
        except DeploymentError as error:
            raise RefusedError(HTTPStatus.NOT_FOUND, str(error)) from error
        part = self._puller.pulling.get(sha256)
        flags = os.O_RDONLY | os.O_CLOEXEC
        try:
            if part is not None:
                descriptor = os.open(path.with_name(path.name + ".part"), flags)
                return _CachedFile(self._puller, sha256, part.size, descriptor, self._readers)
            descriptor = os.open(path, flags)
        except FileNotFoundError:  # not here, or it has just got its name
            return None
        return _CachedFile(self._puller, sha256, os.fstat(descriptor).st_size, descriptor, self._readers)


class _CachedFile:
    def __init__(self, puller: Puller, sha256: str, size: int, descriptor: int, readers: ThreadPoolExecutor) -> None:
        self.size = size
        self._puller = puller
        self._sha256 = sha256
        self._descriptor = descriptor
        self._readers = readers
        self._is_whole = sha256 not in puller.pulling

    async def readable_to(self, at: int, end: int) -> int:
        """See `ServedFile`."""
        deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
        while not self._is_whole:
            part = self._puller.pulling.get(self._sha256)
            if part is None:  # it is verified, or was given up: the next request finds out
                return at
            left = deadline - asyncio.get_running_loop().time()
            if (filled := part.filled_to(at, end)) > at or left <= 0:
                return filled
            await self._puller.moved.wait(left)
        return end

    async def read(self, at: int, limit: int) -> bytes:
        """See `ServedFile`."""
        data = await in_thread(self._readers, os.pread, self._descriptor, min(limit, BODY_SLICE), at)
        if not data:
            raise OSError("The file was cut off.")  # its digest was wrong, and it is pulled again
        return data

    def close(self) -> None:
        os.close(self._descriptor)
