"""`GET|HEAD /blobs/<key>?expires=…&signature=…`: downloads from the folder store, as a plain ASGI app.

Whole files are sent by the web server if it supports that (ASGI extension `http.response.pathsend`, which has no
ranges); anything else is sent in chunks read ahead by a thread.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from modelshare.server import outages
from modelshare.server.errors import (
    ApiError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    unavailable,
)
from modelshare.server.proven import proven
from modelshare.server.storage.local import FolderStore
from modelshare.server.storage.ranges import UnsatisfiableRangeError, parse_range
from modelshare.server.storage.signed_urls import PATH, LinkState
from modelshare.server.storage_errors import BlobNotFoundError, InvalidKeyError, StorageError
from modelshare.wire.errors import ErrorType

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CHUNK = 512 << 10
"""Bytes per message of a partial response. For a slow client, the server keeps about six of them in memory."""
_PATHSEND = "http.response.pathsend"


class MethodNotAllowedError(ApiError):
    status: ClassVar[int] = 405
    type: ClassVar[ErrorType] = ErrorType.INVALID_REQUEST

    def headers(self) -> dict[str, str]:
        return {"Allow": "GET, HEAD"}


class RangeNotSatisfiableError(ApiError):
    status: ClassVar[int] = 416
    type: ClassVar[ErrorType] = ErrorType.INVALID_REQUEST

    def __init__(self, size: int) -> None:
        super().__init__(f"The range starts after the end of the file, which has {size} bytes.")
        self.size = size

    def headers(self) -> dict[str, str]:
        return {"Content-Range": f"bytes */{self.size}"}


@dataclass(frozen=True, slots=True)
class _Download:
    path: Path
    size: int
    etag: str
    part: range | None
    """None: the whole file."""

    @property
    def span(self) -> range:
        return self.part if self.part is not None else range(self.size)

    def start(self) -> dict[str, Any]:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(len(self.span)),
            "Content-Disposition": "attachment",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            "Accept-Ranges": "bytes",
            "ETag": self.etag,
        }
        if self.part is None:
            return _start(200, headers)
        content_range = f"bytes {self.part.start}-{self.part.stop - 1}/{self.size}"
        return _start(206, headers | {"Content-Range": content_range})


def verify_link(state: LinkState, scope: Scope) -> None:
    """Raises ApiError unless the request's link is valid."""
    match state:
        case LinkState.UNSIGNED:
            raise UnauthenticatedError("This link is not signed. Request a grant and use its URL unchanged.")
        case LinkState.FORGED:
            raise PermissionDeniedError("This download link was modified. Use the grant's URL unchanged.")
        case LinkState.EXPIRED:
            raise PermissionDeniedError("This download link has expired. Request a new grant.")
        case LinkState.VALID:
            proven(scope)


def require_reading(scope: Scope) -> None:
    if scope["method"] not in {"GET", "HEAD"}:
        raise MethodNotAllowedError("A download link accepts only GET and HEAD.")


@asynccontextmanager
async def answering_errors(send: Send) -> AsyncIterator[None]:
    """Answers errors of the block, which has not answered anything yet."""
    try:
        yield
    except ApiError as error:
        await _send_error(error, send)
    except (OSError, StorageError) as error:
        if (outage := unavailable(error)) is None:
            raise
        outages.report("a download failed", error)
        await _send_error(outage, send)


class BlobFiles:
    """The ASGI app."""

    def __init__(self, store: FolderStore) -> None:
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        download = None
        async with answering_errors(send):
            download = await self._open(scope)
        if download is None:
            return
        await send(download.start())
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
        elif len(download.span) == download.size and _PATHSEND in (scope.get("extensions") or {}):
            await send({"type": _PATHSEND, "path": str(download.path)})
        else:
            await _send_chunks(download, receive, send)

    async def _open(self, scope: Scope) -> _Download:
        require_reading(scope)
        path = self._path(scope)
        status = await asyncio.to_thread(path.stat)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        requested = headers.get(b"range") if headers.get(b"if-range", etag) == etag else None
        try:
            part = parse_range(requested, status.st_size) if scope["method"] == "GET" else None
        except UnsatisfiableRangeError:
            raise RangeNotSatisfiableError(status.st_size) from None
        return _Download(path, status.st_size, etag, part)

    def _path(self, scope: Scope) -> Path:
        key = scope["path"].partition(PATH)[2]
        verify_link(self._store.check_link(key, scope["query_string"]), scope)
        try:
            return self._store.path(key)
        except (BlobNotFoundError, InvalidKeyError) as error:
            raise NotFoundError(str(BlobNotFoundError())) from error


async def _send_chunks(download: _Download, receive: Receive, send: Send) -> None:
    """Reads one chunk ahead of the client, and stops when the client disconnects."""
    file = await asyncio.to_thread(os.open, download.path, os.O_RDONLY)
    reading = _read(file, download.span, download.span.start)
    gone = asyncio.ensure_future(disconnected(receive))
    try:
        for next_offset in [*range(download.span.start, download.span.stop, CHUNK)[1:], None]:
            chunk = await reading
            if gone.done():
                return
            if next_offset is not None:
                reading = _read(file, download.span, next_offset)
            await send({"type": "http.response.body", "body": chunk, "more_body": next_offset is not None})
    finally:
        gone.cancel()
        reading.add_done_callback(lambda _: os.close(file))


def _read(file: int, span: range, offset: int) -> "asyncio.Future[bytes]":
    length = min(CHUNK, span.stop - offset)
    return asyncio.get_running_loop().run_in_executor(None, os.pread, file, length, offset)


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_error(error: ApiError, send: Send) -> None:
    body = json.dumps(error.body()).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Cache-Control": "no-store"}
    await send(_start(error.status, headers | error.headers()))
    await send({"type": "http.response.body", "body": body})


def _start(status: int, headers: dict[str, str]) -> dict[str, Any]:
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}
