"""Errors that only the inference path answers with.

ApiError
├── EngineRefused 400
├── MethodNotAllowed 405
├── BadGateway 502
└── GatewayTimeout 504
ClientGoneError         nobody waits for the answer any more
"""

from typing import ClassVar

from modelshare.server.errors import ApiError
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
    """The engine refuses the request after its answer began."""

    status: ClassVar[int] = 400
    type: ClassVar[ErrorType] = ErrorType.INVALID_REQUEST


class BadGatewayError(ApiError):
    """The engine broke off or answered what is no answer."""

    status: ClassVar[int] = 502


class GatewayTimeoutError(ApiError):
    """The engine took longer than the tier allows."""

    status: ClassVar[int] = 504


class ClientGoneError(Exception):
    """The client closed its connection."""
