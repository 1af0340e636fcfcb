"""Translates an engine's errors for clients. Pure.

An engine's messages may contain paths, host names and other details of its machine, so none is passed on. What clients
act on is kept: the status, the code, the invalid parameter, the time to retry.
"""

import re
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from modelshare.wire.errors import ErrorBody, ErrorCode, ErrorEnvelope, ErrorType

FAILED: Final = "The engine failed on this request; try again, or change the request."
_REFUSED: Final = "The engine rejected this request. Compare its fields with the API documentation."
_BUSY: Final = "The engine has no capacity for this request now. Try again in a moment."
_TOO_LARGE: Final = "The request is larger than the engine accepts. Send less in one request."
_MAX_SECONDS: Final = 86_400
_PASSED: Final = frozenset(
    {
        *(HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT),
        *(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.TOO_MANY_REQUESTS),
    }
)
"""The 4xx statuses that are about the request. Others are about the agent's call: its key, its path."""
_REQUEST_TYPES: Final = frozenset({"invalid_request_error", "exceed_context_size_error", "BadRequestError"})
_TOO_LONG: Final = re.compile(
    r"context_length_exceeded|exceed_context_size|(?:maximum|model'?s) context length|context (?:size|window)|"
    r"maximum (?:allowed )?(?:input |prompt |sequence )?length|max_model_len|longer than the (?:model|maximum)|"
    r"is too large to process|too many (?:input |prompt )?tokens",
    re.IGNORECASE,
)
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PARAM: Final = re.compile(r"[a-zA-Z_]\w{0,63}")
_QUOTED: Final = re.compile(r"['\"`]([a-zA-Z_]\w{0,63})['\"`]")
_KNOWN: Final = (
    (
        re.compile(r"grammar|json.?schema|structured|ebnf|regex", re.IGNORECASE),
        "The engine cannot use the grammar or schema of this request. Check that it is valid, or simplify it.",
    ),
    (
        re.compile(r"\broles? must alternate|conversation roles", re.IGNORECASE),
        "The model's chat template requires the roles `user` and `assistant` to alternate.",
    ),
    (
        re.compile(r"system (?:role|message).{0,20}(?:not supported|beginning)", re.IGNORECASE),
        "The model's chat template does not accept the role `system` at this position.",
    ),
    (
        re.compile(r"template", re.IGNORECASE),
        "The model's chat template cannot render these messages. Check their roles and order.",
    ),
)


class EngineRefusalError(Exception):
    """An engine's error with a message for the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: ErrorType | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        """Seconds."""
        self._body = ErrorBody(message=message, type=kind or _kind(status), code=code, param=param)

    def envelope(self) -> bytes:
        """OpenAI's error object."""
        return ErrorEnvelope(error=self._body).model_dump_json().encode()


class _Said(msgspec.Struct):
    """An engine's error, parsed from any of several formats."""

    text: str = ""
    type: str | None = None
    code: str | None = None
    number: int | None = None
    """The status, if the code is one that is about the request."""
    param: str | None = None


def refused(status: int, body: bytes, headers: Mapping[str, str], asked: Collection[str]) -> EngineRefusalError:
    """For a response with an error status. `asked`: the names of the request's fields."""
    return _refusal(status, _said(_json(body)), asked, _seconds(headers.get("Retry-After")))


def failed_inside(error: Any, asked: Collection[str]) -> EngineRefusalError:
    """For an error in a response with status 200: the engine's failure, unless it clearly rejects the request."""
    said = _said(error)
    is_refusal = said.type in _REQUEST_TYPES or said.code == ErrorCode.CONTEXT_LENGTH_EXCEEDED
    status = said.number or (HTTPStatus.BAD_REQUEST if is_refusal else HTTPStatus.BAD_GATEWAY)
    return _refusal(status, said, asked, None)


def no_answer() -> EngineRefusalError:
    """For a success response whose body is invalid for its route."""
    return EngineRefusalError(HTTPStatus.BAD_GATEWAY, "The engine returned an invalid answer. Try again.")


def too_long(param: str | None) -> EngineRefusalError:
    """For a prompt that exceeds the model's context."""
    return EngineRefusalError(
        HTTPStatus.BAD_REQUEST,
        "The input is longer than the model's context. Send a shorter one, or request fewer tokens.",
        code=ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        param=param,
    )


def _refusal(status: int, said: _Said, asked: Collection[str], retry_after: int | None) -> EngineRefusalError:
    if _is_too_long(status, said):
        return too_long(next((name for name in ("messages", "prompt", "input") if name in asked), None))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        is_busy = status == HTTPStatus.SERVICE_UNAVAILABLE
        return EngineRefusalError(status, _BUSY if is_busy else FAILED, retry_after=retry_after)
    if status not in _PASSED:
        return EngineRefusalError(HTTPStatus.BAD_GATEWAY, FAILED)
    param = _param(said, asked)
    code = said.code if said.code and _CODE.fullmatch(said.code) else None
    kind = next((kind for kind in ErrorType if kind == said.type), None)
    return EngineRefusalError(
        status, _words(status, said, param), kind=kind, code=code, param=param, retry_after=retry_after
    )


def _is_too_long(status: int, said: _Said) -> bool:
    # A 500 may report an input that is too long; other messages of 5xx are not about the request.
    refused = status in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY)
    told = f"{said.code} {said.type} {said.text}"
    return (refused and bool(_TOO_LONG.search(told))) or "is too large to process" in said.text


def _words(status: int, said: _Said, param: str | None) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return _BUSY
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return _TOO_LARGE
    for pattern, sentence in _KNOWN:
        if pattern.search(said.text):
            return sentence
    if param is not None:
        return f"The engine rejected the value of `{param}`. Compare it with the API documentation."
    return _REFUSED


def _param(said: _Said, asked: Collection[str]) -> str | None:
    """The invalid field: as named by the engine, otherwise a field of the request that its message quotes."""
    if said.param and _PARAM.fullmatch(said.param):
        return said.param
    return next((name for name in _QUOTED.findall(said.text) if name in asked), None)


def _said(content: Any) -> _Said:
    """Parses OpenAI's format, FastAPI's `detail`, or plain text in `error` or `message`."""
    if isinstance(content, dict) and content.get("error"):
        content = content["error"]
    if isinstance(content, str):
        return _Said(content)
    if not isinstance(content, dict):
        return _Said()
    text = content.get("message", content.get("detail"))
    if isinstance(text, list) and text and isinstance(text[0], dict):  # FastAPI lists the invalid fields
        text = text[0].get("msg")
    code = content.get("code", content.get("status"))
    number = next((int(known) for known in _PASSED if code in (known, str(int(known)))), None)
    return _Said(_text(text) or "", _text(content.get("type")), _text(code), number, _text(content.get("param")))


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _seconds(header: str | None) -> int | None:
    """Parses Retry-After. A date is ignored, since clocks differ."""
    if header is None or not header.isascii() or not header.isdigit() or len(header) > len(str(_MAX_SECONDS)):
        return None
    return min(int(header), _MAX_SECONDS)


def _kind(status: int) -> ErrorType:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ErrorType.SERVER
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return ErrorType.RATE_LIMIT
    return ErrorType.NOT_FOUND if status == HTTPStatus.NOT_FOUND else ErrorType.INVALID_REQUEST


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
