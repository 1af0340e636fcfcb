"""The errors of API routes, and their handlers.

ApiError
├── InvalidRequestError 400
├── UnauthenticatedError 401
├── PermissionDeniedError 403
├── NotFoundError 404
├── ConflictError 409
├── PayloadTooLargeError 413
├── UnsupportedEncodingError 415
├── RateLimitedError 429
├── StorageFullError 507
└── UnavailableError 503

Every other exception becomes a 500 without internal details.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from modelshare.server import outages
from modelshare.server import storage_errors as storage
from modelshare.server.outages import DRIVER_ERRORS, Outage, OutageError
from modelshare.wire.base import SLUG_PATTERN
from modelshare.wire.endpoints import MODEL_REFERENCE_PATTERN, VERSION_CHOICE_PATTERN
from modelshare.wire.errors import ErrorCode, ErrorType
from modelshare.wire.json_text import explain_invalid_json
from modelshare.wire.models import MODEL_NAME_PATTERN
from modelshare.wire.semver import SEMVER_PATTERN
from modelshare.wire.usage import ACTION_PATTERN

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AuditedRefusal:
    """The audit entry of a refused action."""

    action: str
    target: str


class ApiError(Exception):
    """An error response. `message` is shown to users, and says what to do next."""

    status: ClassVar[int] = 500
    type: ClassVar[ErrorType] = ErrorType.SERVER

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        refusal: AuditedRefusal | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.refusal = refusal

    def body(self) -> dict[str, object]:
        return envelope(self.message, self.type, self.code, self.param)

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class InvalidRequestError(ApiError):
    status = 400
    type = ErrorType.INVALID_REQUEST


class UnauthenticatedError(ApiError):
    status = 401
    type = ErrorType.AUTHENTICATION

    def __init__(self, message: str = "Authentication required") -> None:
        super().__init__(message)

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class KeySuspendedError(UnauthenticatedError):
    def __init__(self) -> None:
        super().__init__(
            "This key is suspended. Its project can resume it with `modelshare keys resume`; else use another."
        )


class PermissionDeniedError(ApiError):
    status = 403
    type = ErrorType.PERMISSION


class NotFoundError(ApiError):
    status = 404
    type = ErrorType.NOT_FOUND


class ConflictError(ApiError):
    status = 409
    type = ErrorType.CONFLICT


class PayloadTooLargeError(ApiError):
    status = 413
    type = ErrorType.INVALID_REQUEST


class UnsupportedEncodingError(ApiError):
    status = 415
    type = ErrorType.INVALID_REQUEST

    def headers(self) -> dict[str, str]:
        return {"Accept-Encoding": "identity"}


class RateLimitedError(ApiError):
    status = 429
    type = ErrorType.RATE_LIMIT


class UnavailableError(ApiError):
    status = 503
    type = ErrorType.SERVER


class StorageFullError(ApiError):
    status = 507
    type = ErrorType.SERVER


def envelope(message: str, type_: ErrorType, code: str | None = None, param: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": type_, "code": code, "param": param}}


ErrorPage = Callable[[Request, ApiError], Awaitable[Response]]
"""Renders an error as a page."""
RecordRefusal = Callable[[Request, ApiError], Awaitable[None]]
"""Adds a refused action to the audit log."""


def install_handlers(app: FastAPI, page: ErrorPage | None = None, record_refusal: RecordRefusal | None = None) -> None:
    """Answers every error with the envelope, or with `page` for requests of pages."""
    app.state.error_page = page
    app.state.record_refusal = record_refusal
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OverflowError, _unstorable)
    for outside in (DBAPIError, PoolTimeout, *DRIVER_ERRORS, OSError, OutageError, storage.StorageError):
        app.add_exception_handler(outside, _from_outside)
    app.add_exception_handler(Exception, _unexpected)


def answer_with_pages(request: Request) -> None:
    """Makes errors of this request be rendered as a page."""
    request.scope["error_page"] = True


def answer_errors_as(request: Request, form: Callable[[ApiError], Response]) -> None:
    """Has an error of this request be answered in the form of another protocol."""
    request.scope["error_form"] = form


async def _respond(request: Request, error: ApiError) -> Response:
    form: Callable[[ApiError], Response] | None = request.scope.get("error_form")
    if form is not None:
        return form(error)
    page: ErrorPage | None = request.app.state.error_page
    if page is not None and request.scope.get("error_page"):
        return await page(request, error)
    return JSONResponse(error.body(), error.status, error.headers())


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - narrows for the type checker; registered for this type only
    record: RecordRefusal | None = request.app.state.record_refusal
    if record is not None and error.refusal is not None:
        try:
            await record(request, error)
        except Exception as failure:  # noqa: BLE001 - no handler catches what a handler raises
            return await _from_outside(request, failure)
    return await _respond(request, error)


_FITTING: Mapping[str, str] = {
    SLUG_PATTERN: "lowercase letters and digits, with single hyphens between them",
    MODEL_NAME_PATTERN: (
        "1 to 96 letters, digits, `_`, `.` and `-`; no `.` or `-` at the start or end, no `..` and no `--`"
    ),
    MODEL_REFERENCE_PATTERN: "a model ID, `owner/name`, or the name of one of your own models",
    SEMVER_PATTERN: "a semantic version, such as 1.0.0",
    VERSION_CHOICE_PATTERN: "`latest` or a semantic version, such as 1.0.0",
    ACTION_PATTERN: "an action such as `model.share`, or a subject such as `model` for all actions on models",
}
"""Patterns in words, for error messages."""


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    problem = error.errors()[0]
    if problem["type"] == "json_invalid":
        return await _respond(request, InvalidRequestError(await _json_error(request) or "The body is not valid JSON."))
    return await _respond(request, refusal_of(problem))


async def valid_json(request: Request) -> None:
    """A dependency of every route: 400 for a body that is not valid JSON although some parsers accept it."""
    if (words := await _json_error(request)) is not None:
        raise InvalidRequestError(words)


def check_encoding(value: bytes) -> None:
    """415 for a request with this `Content-Encoding`, unless it is empty or `identity`."""
    if value and value.lower() != b"identity":
        raise UnsupportedEncodingError(
            f"The body's encoding `{value.decode('latin-1')}` is not supported. Send it uncompressed."
        )


async def _json_error(request: Request) -> str | None:
    """The problem with the request's JSON body, which was already read; None if it is valid or not JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        return None
    try:
        body = await request.body()
    except ClientDisconnect:  # no one to respond to
        return None
    return explain_invalid_json(body) if body else None


def refusal_of(problem: Mapping[str, Any]) -> InvalidRequestError:
    """Converts a problem found by pydantic into an error with a readable message."""
    where = ".".join(str(part) for part in problem["loc"] if part not in {"body", "query", "path"})
    fitting = _FITTING.get(problem.get("ctx", {}).get("pattern", ""))
    message = f"Use {fitting}" if fitting else problem["msg"].removeprefix("Value error, ").removesuffix(".")
    return InvalidRequestError(f"`{where}`: {message}." if where else f"{message}.", param=where or None)


_TYPES: Mapping[int, ErrorType] = {404: ErrorType.NOT_FOUND, 403: ErrorType.PERMISSION}


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    if _is_from_browser(request):
        answer_with_pages(request)
    if request.scope.get("error_page"):
        return await _respond(request, _said_of_page(error.status_code))
    message = str(error.detail)
    if error.status_code == 404:  # noqa: PLR2004 - the status itself
        message = f"There is no route {request.method} {request.url.path}. /docs lists the routes."
    elif error.status_code == 405:  # noqa: PLR2004 - the status itself
        message = f"{request.method} is not allowed on {request.url.path}. /docs lists the methods."
    elif error.status_code == 400:  # noqa: PLR2004 - the status itself
        message = await _json_error(request) or message
    elif error.status_code == 413:  # noqa: PLR2004 - the status itself
        message = "The request body is longer than this route accepts. Split it into several requests."
    type_ = _TYPES.get(error.status_code, ErrorType.INVALID_REQUEST)
    return JSONResponse(envelope(message, type_), error.status_code, dict(error.headers or {}))


def _said_of_page(status: int) -> ApiError:
    """The framework's error for a page: it does not exist, or the form is invalid."""
    if status in {404, 405}:  # a route that only accepts forms is not a page
        return NotFoundError("There is no such page. It may have moved, or the link is incomplete.")
    if status == 413:  # noqa: PLR2004 - as above
        return PayloadTooLargeError("The form is too large. Shorten it and try again.")
    return InvalidRequestError("The form could not be read. Go back, reload the page and try again.")


def _is_from_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def unavailable(error: BaseException) -> ApiError | None:
    """The response to an outage of the database, a disk or the storage; None for other errors.

    The only translation of such errors: for the API, for pages, and for inference.
    """
    outage = outages.outage_of(error)
    if outage is None or outage is Outage.DATABASE_UNFIT:  # the latter needs the operator: a 500
        return None
    if outage is Outage.DISK_FULL:
        message = "The server's storage is full. Nothing was lost; try again when the operator has freed space."
        return StorageFullError(message, code=ErrorCode.STORAGE_FULL, retry_after=60)
    message, retry_after = _UNAVAILABLE[outage]
    code = ErrorCode.OWNER_AWAY if outage is Outage.HOLDER_AWAY else None
    if isinstance(error, storage.HolderAwayError):
        retry_after = error.retry_after or retry_after
    message = str(error) if isinstance(error, OutageError) else message
    return UnavailableError(message, code=code, retry_after=retry_after)


_UNAVAILABLE: Final = {
    Outage.DATABASE_AWAY: ("The platform's database is not responding. Try again in a moment.", 5),
    Outage.DATABASE_READ_ONLY: (
        "The platform's database is read-only, so nothing can be changed. Try again later.",
        30,
    ),
    Outage.SCHEMA_CHANGED: ("The platform is being upgraded.", 10),
    Outage.STORAGE_AWAY: ("The platform's storage is unavailable.", 5),
    Outage.OWN_STORAGE_AWAY: ("The storage of a project is unavailable.", 30),
    Outage.HOLDER_AWAY: ("The owner's machine is not connected.", 10),
    # Rolled back because of another request, so this one can be repeated unchanged.
    Outage.COLLISION: ("This was changed by another request; try again.", 1),
}
"""The message for each, and the seconds for `Retry-After`."""


def storage_answer(error: BaseException) -> ApiError | None:
    """The response to a request that does not match what is stored; None for other errors."""
    match error:
        case storage.InvalidKeyError():
            return NotFoundError(str(error))
        case storage.ChecksumMismatchError():
            return InvalidRequestError(str(error), code=ErrorCode.CHECKSUM_MISMATCH, param="X-Checksum-SHA256")
        case storage.SizeMismatchError():
            return InvalidRequestError(str(error))
        case storage.PartReplacedError():
            return ConflictError(str(error), code=ErrorCode.PART_REPLACED)
        case storage.MultipartNotFoundError() | storage.BlobNotFoundError() | storage.PartsMissingError():
            return ConflictError(str(error), code=ErrorCode.UPLOAD_NOT_OPEN)
    return None


async def _from_outside(request: Request, error: Exception) -> Response:
    """Handles errors of the database, the system or the storage.

    PostgreSQL's class 22, "data exception": the request had a value that cannot be stored, and no rule rejected it.
    """
    answer = unavailable(error)
    if answer is not None:
        outages.report("a request failed", error, path=request.url.path)
        return await _respond(request, answer)
    if (answer := storage_answer(error)) is not None:
        return await _respond(request, answer)
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    return await (_unstorable if state.startswith("22") else _unexpected)(request, error)


async def _unstorable(request: Request, _: Exception) -> Response:
    message = (
        "A value in the request is out of range: numbers have at most 64 bits, and text cannot contain NUL characters."
    )
    return await _respond(request, InvalidRequestError(message))


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("request failed", path=request.url.path, method=request.method, exc_info=error)
    message = (
        "Something went wrong on our side. Try again; if the problem persists, give the operator the X-Request-Id."
    )
    return await _respond(request, ApiError(message))
