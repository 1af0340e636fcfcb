"""What went wrong, in one line that says what to do, and the exit code for it."""

import traceback
from dataclasses import dataclass
from http import HTTPStatus

from pydantic import ValidationError

from modelshare.cli.exit_codes import ExitCode
from modelshare.client.errors import (
    ApiError,
    AuthenticationError,
    ConfigError,
    ConnectError,
    ModelshareError,
    ServerError,
    UnexpectedAnswerError,
)
from modelshare.plugins import PluginError
from modelshare.wire.text import visible


class CommandError(Exception):
    """A command cannot do what it was asked to; the message says why and what to do."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Failure:
    message: str
    code: ExitCode


def describe(error: Exception) -> Failure:
    """The line and the exit code for an error that ends a command."""
    code = ExitCode.FAILED
    match error:
        case CommandError():
            message, code = str(error), error.code
        case AuthenticationError():
            hint = "Run `modelshare login`, or set MODELSHARE_API_KEY to a key that works."
            message, code = f"{error.message.rstrip('.')}. {hint}", ExitCode.UNREACHABLE
        case ConnectError() | UnexpectedAnswerError():
            message, code = error.message, ExitCode.UNREACHABLE
        case ConfigError():
            message, code = error.message, ExitCode.USAGE
        case ServerError() if error.status == HTTPStatus.INTERNAL_SERVER_ERROR and error.request_id:
            message = f"{error.message} (request {error.request_id})"
        case ApiError() if error.retry_after and "again in" not in error.message:
            message = f"{error.message} Try again in {error.retry_after} s."
        case ModelshareError() | PluginError():
            message = str(error)
        # Of a request: an answer that does not fit is an UnexpectedAnswerError.
        case ValidationError() | UnicodeEncodeError(encoding="utf-8"):
            message, code = _does_not_fit(error), ExitCode.USAGE
        case OSError() if error.strerror:
            message = f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
        case _:
            message = f"modelshare has a bug ({_where_and_what(error)}). Please report it with the command you ran."
    return Failure(visible(" ".join(message.split())), code)


def _where_and_what(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}, " if frames else ""
    return f"{where}{type(error).__name__}: {error}"


_FORMS = {
    "name": "up to 96 letters, digits, - _ and ., a letter or digit at both ends, no -- and no ..",
    "slug": "up to 63 small letters, digits and -, a letter or digit at both ends, no --",
    "version": "a semantic version such as 1.2.0",
}
"""What fits, in place of a regular expression."""


def _does_not_fit(error: ValidationError | UnicodeEncodeError) -> str:
    if isinstance(
        error, UnicodeEncodeError
    ):  # Python keeps an argument's bytes that are no text as halves of characters
        return f"{error.object!r} is not written in UTF-8. Type it anew."
    first = error.errors()[0]
    field = next((str(part) for part in reversed(first["loc"]) if isinstance(part, str)), "the request")
    form = _FORMS.get(field) if first["type"] == "string_pattern_mismatch" else None
    return f"{first['input']!r} does not fit `{field}`: {form or first['msg'].removeprefix('Value error, ')}."
