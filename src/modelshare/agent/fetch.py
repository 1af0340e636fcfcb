"""One ranged GET from the owner's storage, by whatever manners the server there has."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import aiohttp

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_REFUSED: Final = {HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
"""How storages answer a signed URL after its time: S3 and Azure 403, Google 400 (`ExpiredToken`), others 401."""

_READ_AHEAD: Final = 1 << 20
"""Bytes that may wait per connection while earlier ones are written."""


class Refused(Exception):
    """The signed URL is not, or no longer, accepted."""


class Interrupted(Exception):
    """The connection was cut or stalled, or the storage is busy: the same request may work in a moment."""


class Unusable(Exception):
    """The storage answers, but not with this file."""


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of an answer, and where in the file they begin and end."""

    start: int
    end: int
    content: aiohttp.StreamReader


@asynccontextmanager
async def open_range(
    http: aiohttp.ClientSession, url: str, start: int, end: int, *, size: int, stall_seconds: float
) -> AsyncIterator[Body]:
    """Ask for the bytes [start, end) of a file of `size` bytes.

    A server that knows no ranges sends the whole file: then the body begins at 0, whatever was asked. Reading from
    `Body.content` inside the context raises `Interrupted` too when the connection breaks.
    """
    headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=stall_seconds, sock_read=stall_seconds)
    try:
        async with http.get(url, headers=headers, timeout=timeout, read_bufsize=_READ_AHEAD) as answer:
            first, last = _extent(answer, start, end, size)
            yield Body(first, last, answer.content)
    except TimeoutError as error:
        raise Interrupted(f"no data for {stall_seconds:g} s") from error
    except aiohttp.InvalidURL as error:
        raise Unusable("the signed URL is not a valid URL") from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise Interrupted(_plain(error)) from error


def _extent(answer: aiohttp.ClientResponse, start: int, end: int, size: int) -> tuple[int, int]:
    status = answer.status
    if status in _REFUSED:
        raise Refused(f"HTTP {status}")
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise Interrupted(f"HTTP {status}")
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        raise Unusable(f"HTTP {status}")
    if (header := answer.headers.get("Content-Range")) is None:
        if status == HTTPStatus.PARTIAL_CONTENT:
            raise Unusable("a partial response without a Content-Range")
        _check_size(answer.content_length, size)
        return 0, size
    if (match := _CONTENT_RANGE.fullmatch(header)) is None:
        raise Unusable(f"an invalid Content-Range, `{header[:80]}`")
    if match[3] != "*":
        _check_size(int(match[3]), size)
    if int(match[1]) != start:
        raise Unusable("another part of the file than requested")
    return start, min(end, int(match[2]) + 1)


def _check_size(stored: int | None, size: int) -> None:
    if stored is not None and stored != size:
        raise Unusable(f"{stored} bytes, but the manifest says {size}")


def _plain(error: Exception) -> str:
    """An error's kind in words, without the signed URL that aiohttp likes to quote."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection to {error.host}:{error.port}"
    return "the connection was cut"
