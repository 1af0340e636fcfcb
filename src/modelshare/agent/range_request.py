"""One ranged GET from the owner's storage, compatible with many kinds of servers."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import aiohttp

from modelshare.agent.errors import OwnerAwayError
from modelshare.wire.errors import ErrorCode, ErrorEnvelope
from modelshare.wire.link import MAX_TEXT
from modelshare.wire.text import plain

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_REFUSED: Final = {HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
"""Statuses for an expired signed URL: S3 and Azure 403, Google 400 (`ExpiredToken`), others 401."""

_LONGEST_ERROR: Final = 4096
_LONGEST_WAIT: Final = 60.0
"""Seconds. Its owner may start the machine, or change its hours, at any time."""
_READ_AHEAD: Final = 1 << 20
"""Bytes buffered per connection while earlier ones are written."""


class UrlRejectedError(Exception):
    """The signed URL is not, or no longer, accepted."""


class InterruptedTransferError(Exception):
    """The connection broke or stalled, or the storage is busy: the same request may succeed later."""


class UnusableAnswerError(Exception):
    """The storage responds, but not with this file."""


@dataclass(frozen=True, slots=True)
class RangeBody:
    """The bytes of a response, and their position in the file."""

    start: int
    end: int
    content: aiohttp.StreamReader


@asynccontextmanager
async def open_range(
    http: aiohttp.ClientSession, url: str, start: int, end: int, *, size: int, stall_seconds: float
) -> AsyncIterator[RangeBody]:
    """Requests the bytes [start, end) of a file of `size` bytes.

    A server without range support sends the whole file: then the body begins at 0. Raises OwnerAwayError. Reading
    `RangeBody.content` inside the context also raises InterruptedTransferError if the connection breaks.
    """
    headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=stall_seconds, sock_read=stall_seconds)
    try:
        async with http.get(url, headers=headers, timeout=timeout, read_bufsize=_READ_AHEAD) as answer:
            if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                await _check_owner(answer)
            first, last = _position(answer, start, end, size)
            yield RangeBody(first, last, answer.content)
    except TimeoutError as error:
        raise InterruptedTransferError(f"no data for {stall_seconds:g} s") from error
    except aiohttp.InvalidURL as error:
        raise UnusableAnswerError("the signed URL is not a valid URL") from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise InterruptedTransferError(_without_url(error)) from error


async def _check_owner(answer: aiohttp.ClientResponse) -> None:
    """Raises OwnerAwayError if it is the owner's machine that does not serve, and not the storage that is busy."""
    try:
        error = ErrorEnvelope.model_validate_json(await answer.content.read(_LONGEST_ERROR)).error
        seconds = float(answer.headers.get("Retry-After", ""))
    except ValueError:
        return
    if error.code == ErrorCode.OWNER_AWAY:
        raise OwnerAwayError(plain(error.message, MAX_TEXT), min(max(seconds, 1.0), _LONGEST_WAIT))


def _position(answer: aiohttp.ClientResponse, start: int, end: int, size: int) -> tuple[int, int]:
    status = answer.status
    if status in _REFUSED:
        raise UrlRejectedError(f"HTTP {status}")
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise InterruptedTransferError(f"HTTP {status}")
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        raise UnusableAnswerError(f"HTTP {status}")
    if (header := answer.headers.get("Content-Range")) is None:
        if status == HTTPStatus.PARTIAL_CONTENT:
            raise UnusableAnswerError("a partial response without a Content-Range")
        _check_size(answer.content_length, size)
        return 0, size
    if (match := _CONTENT_RANGE.fullmatch(header)) is None:
        raise UnusableAnswerError(f"an invalid Content-Range, `{header[:80]}`")
    if match[3] != "*":
        _check_size(int(match[3]), size)
    if int(match[1]) != start:
        raise UnusableAnswerError("another part of the file than requested")
    return start, min(end, int(match[2]) + 1)


def _check_size(stored: int | None, size: int) -> None:
    if stored is not None and stored != size:
        raise UnusableAnswerError(f"{stored} bytes, but the manifest says {size}")


def _without_url(error: Exception) -> str:
    """Describes an error without the signed URL that aiohttp includes in its messages."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection to {error.host}:{error.port}"
    return "the connection was cut"
