"""Maps errors to one-line messages, which say what to do, and exit codes."""

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
    """A command failed; the message says why and what to do."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Failure:
    message: str
    code: ExitCode


def describe(error: Exception) -> Failure:
    """The message and exit code for an error that ends a command."""
    code = ExitCode.FAILED
    match error:
        case CommandError():
            message, code = str(error), error.code
        case AuthenticationError():
            hint = "Run `modelshare login`, or set MODELSHARE_API_KEY to a valid key."
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
        # From building a request: an invalid response is an UnexpectedAnswerError.
        case ValidationError() | UnicodeEncodeError(encoding="utf-8"):
            message, code = _invalid_value(error), ExitCode.USAGE
        case OSError() if error.strerror:
            message = f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
        case _:
            message = f"Bug in modelshare ({_location_and_error(error)}). Please report it with the command you ran."
    return Failure(visible(" ".join(message.split())), code)


def _location_and_error(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}, " if frames else ""
    return f"{where}{type(error).__name__}: {error}"


_FORMS = {
    "name": "up to 96 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends and no `--` or `..`",
    "slug": "up to 63 lowercase letters, digits and `-`, with a letter or digit at both ends and no `--`",
    "version": "a semantic version such as 1.2.0",
    "token": "use letters, digits and punctuation without spaces",
}
"""What is allowed, in words instead of a regular expression."""
_SECRETS = frozenset({"token", "access_key_id", "secret_access_key"})
"""Fields whose values are not shown."""


def _invalid_value(error: ValidationError | UnicodeEncodeError) -> str:
    if isinstance(error, UnicodeEncodeError):  # Python represents undecodable arguments with surrogates
        return f"{error.object!r} is not valid UTF-8. Type it again."
    first = error.errors()[0]
    field = next((str(part) for part in reversed(first["loc"]) if isinstance(part, str)), "the request")
    form = _FORMS.get(field) if first["type"] == "string_pattern_mismatch" else None
    value = "" if field in _SECRETS else f" {first['input']!r}"
    return f"Invalid `{field}`{value}: {form or first['msg'].removeprefix('Value error, ')}."
