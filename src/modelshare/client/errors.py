"""The client's exceptions. Each message says what is wrong and what to do next.

ModelshareError
├── ConfigError                 the URL, the key or the file written by `modelshare login` is not usable
├── ConnectError                no response: nothing listens at the URL, or the connection broke
├── UnexpectedAnswerError       a response that is not from modelshare
├── SourceError                 the files cannot be pushed (see modelshare.client.source)
│   └── ChangedError            a file changed while it was being pushed
├── PullError                   a model could not be pulled into a folder
├── ModelFailedError            the server processed a pushed model and rejected it
├── WebhookSignatureError       a webhook request is not from the platform, or is too old
└── ApiError                    an error response; has status, type, code, param, request_id, retry_after
    ├── InvalidRequestError     400, 413, 422
    ├── AuthenticationError     401
    ├── PermissionDeniedError   403
    ├── NotFoundError           404
    ├── ConflictError           409
    ├── RateLimitError          429
    └── ServerError             5xx
"""

from collections.abc import Mapping
from http import HTTPStatus

from pydantic import ValidationError

from modelshare.wire.errors import ErrorBody, ErrorEnvelope


class ModelshareError(Exception):
    """Base class of all errors raised by the client."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(ModelshareError):
    pass


class ConnectError(ModelshareError):
    pass


class UnexpectedAnswerError(ModelshareError):
    pass


class SourceError(ModelshareError):
    pass


class ChangedError(SourceError):
    def __init__(self, name: object) -> None:
        super().__init__(f"{name} changed while it was being pushed. Push again when no program is writing to it.")


class PullError(ModelshareError):
    pass


class ModelFailedError(ModelshareError):
    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(reason)
        self.model_id = model_id


class WebhookSignatureError(ModelshareError):
    pass


class ApiError(ModelshareError):
    def __init__(
        self, status: int, error: ErrorBody, *, request_id: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(error.message)
        self.status = status
        self.type = error.type
        self.code = error.code
        self.param = error.param
        self.request_id = request_id
        """Identifies the request in the server's log. Include it when you contact the platform's operator."""
        self.retry_after = retry_after
        """Seconds after which the same request may succeed."""


class InvalidRequestError(ApiError):
    pass


class AuthenticationError(ApiError):
    pass


class PermissionDeniedError(ApiError):
    pass


class NotFoundError(ApiError):
    pass


class ConflictError(ApiError):
    pass


class RateLimitError(ApiError):
    pass


class ServerError(ApiError):
    pass


_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitError,
}


def from_answer(status: int, headers: Mapping[str, str], body: bytes) -> ModelshareError:
    """The exception for an error response. `headers` must be case-insensitive, as those of httpx are."""
    try:
        error = ErrorEnvelope.model_validate_json(body).error
    except ValidationError:
        return UnexpectedAnswerError(
            f"The response {status} {_phrase(status)} is not from modelshare. Check that no other service "
            "listens at this URL or in front of the server."
        )
    kind = _BY_STATUS.get(status, ServerError if status >= HTTPStatus.INTERNAL_SERVER_ERROR else InvalidRequestError)
    return kind(
        status, error, request_id=headers.get("x-request-id"), retry_after=parse_retry_after(headers.get("retry-after"))
    )


def parse_retry_after(value: str | None) -> int | None:
    """Seconds in a Retry-After header; None if it is missing or a date."""
    return int(value) if value is not None and value.isascii() and value.isdigit() else None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(unknown status)"
