"""One ranged GET from a storage, compatible with many kinds of servers. `OpenRange` is what an HTTP library adds."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

from modelshare.wire.errors import ErrorCode, ErrorEnvelope
from modelshare.wire.text import plain

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_REFUSED: Final = {HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
"""Statuses for an expired signed URL: S3 and Azure 403, Google 400 (`ExpiredToken`), others 401."""


LONGEST_ERROR: Final = 4096
_MAX_MESSAGE: Final = 300
_LONGEST_WAIT: Final = 60.0
"""Seconds. Its owner may start the machine, or change its hours, at any time."""


class DownloadError(Exception):
    """A file could not be downloaded. The message is one sentence."""


class OwnerAwayError(DownloadError):
    """The machine of the model's owner, which holds the files, is not connected or does not serve now."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UrlRejectedError(Exception):
    """The signed URL is not, or no longer, accepted."""


class InterruptedTransferError(Exception):
    """The connection broke or stalled, or the storage is busy: the same request may succeed later."""


class SourceFailedError(InterruptedTransferError):
    """One of several sources of a file failed; `SignedUrls.get` names the one to try now."""


class UnusableAnswerError(Exception):
    """The storage responds, but not with this file."""


@dataclass(frozen=True, slots=True)
class RangeBody:
    """The bytes of a response, and their position in the file."""

    start: int
    end: int
    chunks: AsyncGenerator[bytes]
    """Raises InterruptedTransferError."""


class OpenRange(Protocol):
    """One request of an HTTP library."""

    def __call__(self, url: str, start: int, end: int, size: int) -> AbstractAsyncContextManager[RangeBody]:
        """Requests the bytes [start, end) of a file of `size` bytes. Raises the errors above."""
        ...


def headers(start: int, end: int) -> dict[str, str]:
    return {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}


def check_owner(answer: Mapping[str, str], body: bytes) -> None:
    """Call it with a response of status 503 and the first `LONGEST_ERROR` bytes of its body.

    Raises OwnerAwayError if it is the owner's machine that does not serve, and not a storage that is busy.
    """
    try:
        error = ErrorEnvelope.model_validate_json(body).error
        seconds = float(answer.get("Retry-After", ""))
    except ValueError:
        return
    if error.code == ErrorCode.OWNER_AWAY:
        wait = min(max(1.0, seconds), _LONGEST_WAIT)  # in this order, NaN counts as 1
        raise OwnerAwayError(plain(error.message, _MAX_MESSAGE), wait)


def position(status: int, answer: Mapping[str, str], start: int, end: int, size: int) -> tuple[int, int]:
    """Where in the file the body of this response lies. `answer`: its headers, case-insensitive.

    A server without range support sends the whole file: then the body begins at 0.
    """
    if status in _REFUSED:
        raise UrlRejectedError(f"HTTP {status}")
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise InterruptedTransferError(f"HTTP {status}")
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        raise UnusableAnswerError(f"HTTP {status}")
    if (header := answer.get("Content-Range")) is None:
        if status == HTTPStatus.PARTIAL_CONTENT:
            raise UnusableAnswerError("a partial response without a Content-Range")
        length = answer.get("Content-Length", "")
        _check_size(int(length[:18]) if length.isdecimal() else None, size)
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
