"""Files that stay on their owner's machine: read through its agent's connection, never stored here.

A key is the file's SHA-256 and its size, so that a request names nothing of the owner's file system.
"""

import asyncio
import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import TimeoutError as ReadTimeoutError
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal, Protocol

from modelshare.server.storage.ranges import UnsatisfiableRangeError, parse_range
from modelshare.server.storage.signed_urls import signed_link
from modelshare.server.storage_errors import HolderAwayError, InvalidKeyError
from modelshare.wire.held import HeldRead

_KEY: Final = re.compile(r"([0-9a-f]{64})-(0|[1-9][0-9]{0,15})")
_READ_SECONDS: Final = 90.0
"""Longest read of a header. A holder that is silent for a minute is given up before."""


class Holders(Protocol):
    """The connections of the agents that hold files, wherever they are."""

    def read(
        self, holder_id: uuid.UUID, storage_id: uuid.UUID, wanted: HeldRead
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Exactly the wanted bytes, as fast as they are taken.

        Raises HolderAwayError, also midway, and BlobChangedError where the holder no longer has these bytes.
        """
        ...


def key_of(sha256: str, size: int) -> str:
    return f"{sha256}-{size}"


def _parsed(key: str) -> tuple[str, int]:
    if (match := _KEY.fullmatch(key)) is None:
        raise InvalidKeyError("Invalid name of a stored file. Use the URL from a grant unchanged.")
    return match[1], int(match[2])


@dataclass(frozen=True, slots=True)
class HeldResponse:
    """Looks like a bucket's response, for `relay.RelayedFiles`."""

    status: HTTPStatus
    headers: dict[str, str]
    chunks: AsyncIterator[bytes]

    @property
    def content(self) -> "HeldResponse":
        return self

    def iter_chunked(self, _: int) -> AsyncIterator[bytes]:
        """As they come: no longer than a frame of the link."""
        return self.chunks


class HeldStore:
    """Read only: what is deleted here stays in its owner's folder."""

    direct: Literal[False] = False

    def __init__(
        self,
        storage_id: uuid.UUID,
        holder_id: uuid.UUID,
        holders: Holders,
        link_name: Callable[[str], str],
        secret: bytes,
    ) -> None:
        """`link_name`: what download links of this platform call a key. `secret` signs them."""
        self._storage_id = storage_id
        self._holder_id = holder_id
        self._holders = holders
        self._link_name = link_name
        self._secret = secret
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Nothing is kept open."""

    def get_url(self, key: str, *, expires_at: int, base_url: str) -> str:
        return signed_link(base_url, self._link_name(key), expires_at, self._secret)

    def reader(self, key: str) -> "HeldReader":
        sha256, size = _parsed(key)
        return HeldReader(self, sha256, size)

    async def digest(
        self,
        key: str,
        *,
        progress: Callable[[int], None] | None = None,
        also: Callable[[bytes], None] | None = None,
    ) -> tuple[str, int]:
        """Reads the whole file over the connection."""
        wanted, size = _parsed(key)
        found, done = hashlib.sha256(), 0
        async with self.chunks(wanted, range(size)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(found.update, chunk)
                done += len(chunk)
                if also is not None:
                    await asyncio.to_thread(also, chunk)
                if progress is not None:
                    progress(done)
        return found.hexdigest(), done

    @asynccontextmanager
    async def stream(self, method: str, key: str, range_: str | None) -> AsyncIterator[HeldResponse]:
        """The response to GET or HEAD: 200, 206 or 416."""
        sha256, size = _parsed(key)
        headers = {"ETag": f'"{sha256}"', "Content-Length": "0"}
        try:
            part = parse_range(range_, size)
        except UnsatisfiableRangeError:
            headers["Content-Range"] = f"bytes */{size}"
            yield HeldResponse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers, _nothing())
            return
        span = part if part is not None else range(size)
        headers["Content-Length"] = str(len(span))
        if part is not None:
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
        status = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
        if method == "HEAD":
            yield HeldResponse(status, headers, _nothing())
            return
        async with self.chunks(sha256, span) as chunks:
            yield HeldResponse(status, headers, chunks)

    @asynccontextmanager
    async def chunks(self, sha256: str, span: range) -> AsyncIterator[AsyncIterator[bytes]]:
        if not span:
            yield _nothing()
            return
        wanted = HeldRead(sha256, span.start, len(span))
        async with self._holders.read(self._holder_id, self._storage_id, wanted) as chunks:
            yield chunks

    async def delete(self, key: str) -> None:
        """The owner's folder is not the platform's to change."""

    async def delete_prefix(self, prefix: str) -> None:
        """See `delete`."""

    def read_blocking(self, sha256: str, span: range) -> bytes:
        """Blocks, in a thread other than the event loop's."""

        async def read() -> bytes:
            async with self.chunks(sha256, span) as chunks:
                return b"".join([chunk async for chunk in chunks])

        reading = asyncio.run_coroutine_threadsafe(read(), self._loop)
        try:
            return reading.result(_READ_SECONDS)
        except ReadTimeoutError as error:
            reading.cancel()
            raise HolderAwayError from error


@dataclass(frozen=True, slots=True)
class HeldReader:
    """A `storage.base.RangeReader`."""

    store: HeldStore
    sha256: str
    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        return self.store.read_blocking(self.sha256, range(offset, min(offset + length, self.size)))


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield
