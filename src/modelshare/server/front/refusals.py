"""Errors that the HTTP server itself sends: invalid requests, time limits and limits on connections."""

import json
import uuid
from http import HTTPStatus
from typing import ClassVar, Final

from modelshare.server.errors import ApiError, InvalidRequestError, RateLimitedError, UnavailableError
from modelshare.wire.errors import ErrorCode, ErrorType

MAX_HEAD: Final = 64 << 10
"""Maximum bytes of the request line and headers."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
BEGINNING: Final = b"HTTP/1.1 "
"""Start of every response."""
_STATUS_LINES: Final = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}


class RequestTooSlowError(ApiError):
    status: ClassVar[int] = 408
    type: ClassVar[ErrorType] = ErrorType.INVALID_REQUEST


class HeadTooLargeError(ApiError):
    status: ClassVar[int] = 431
    type: ClassVar[ErrorType] = ErrorType.INVALID_REQUEST


def malformed(what: str) -> ApiError:
    return InvalidRequestError(f"This is not a valid HTTP/1.1 request: {what}.")


def head_too_large() -> ApiError:
    return HeadTooLargeError(f"The request headers are longer than {MAX_HEAD >> 10} KiB. Send fewer or shorter ones.")


def head_too_slow(seconds: float) -> ApiError:
    return RequestTooSlowError(f"The request headers did not arrive within {seconds:g} s. Send the request again.")


def body_too_slow(seconds: float) -> ApiError:
    return RequestTooSlowError(
        f"The request body stalled: almost none of it arrived in {seconds:g} s. Send the request again."
    )


def crowded() -> ApiError:
    return RateLimitedError(
        "Your address has too many idle connections open. Close some, or send a key with your requests.",
        code=ErrorCode.RATE_LIMIT_EXCEEDED,
        retry_after=1,
    )


def full() -> ApiError:
    return UnavailableError("The platform has the maximum number of connections. Try again in a moment.", retry_after=5)


def stopping() -> ApiError:
    return UnavailableError("The platform is shutting down. Try again in a moment.", retry_after=5)


def unexpected() -> ApiError:
    return ApiError(
        "Something went wrong on our side. Try again; if the problem persists, give the operator the X-Request-Id."
    )


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def answer(error: ApiError, date: bytes) -> bytes:
    """The whole response, after which the connection is closed."""
    body = json.dumps(error.body(), ensure_ascii=False).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": len(body),
        "X-Content-Type-Options": "nosniff",
        "X-Request-Id": uuid.uuid4().hex,
    }
    lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in (headers | error.headers()).items())
    head = status_line(error.status) + b"date: " + date + b"\r\n" + lines.encode() + b"connection: close\r\n\r\n"
    return head + body
