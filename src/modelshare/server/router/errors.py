"""Errors of the inference path only.

ApiError
├── EngineRefusedError 400
├── MethodNotAllowedError 405
├── BadGatewayError 502
└── GatewayTimeoutError 504
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from modelshare.server import outages
from modelshare.server.errors import ApiError, PayloadTooLargeError, unavailable
from modelshare.wire.errors import ErrorType


class MethodNotAllowedError(ApiError):
    status: ClassVar[int] = 405
    type: ClassVar[ErrorType] = ErrorType.INVALID_REQUEST

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed

    def headers(self) -> dict[str, str]:
        return {"Allow": self.allowed}


class EngineRefusedError(ApiError):
    """The engine refused the request after its answer had begun."""

    status: ClassVar[int] = 400
    type: ClassVar[ErrorType] = ErrorType.INVALID_REQUEST


class BadGatewayError(ApiError):
    """The engine's answer is incomplete or invalid."""

    status: ClassVar[int] = 502


class GatewayTimeoutError(ApiError):
    """The engine took longer than the tier allows."""

    status: ClassVar[int] = 504


def body_too_long(limit: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The request body is longer than {limit} bytes, the maximum on this platform.")


@contextmanager
def database_outages() -> Iterator[None]:
    """503 if the database is unavailable."""
    try:
        yield
    except Exception as error:
        answer = unavailable(error)
        if answer is None:
            raise
        outages.report("an inference request failed", error)
        raise answer from error
