import inspect
import json

import pytest

from modelshare.client import errors
from modelshare.client.errors import ApiError, ModelshareError, UnexpectedAnswerError, from_answer
from modelshare.wire.errors import ErrorType


def envelope(message: str = "No.", code: str | None = None) -> bytes:
    error = {"message": message, "type": ErrorType.NOT_FOUND, "code": code, "param": "slug"}
    return json.dumps({"error": error}).encode()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequestError),
        (401, errors.AuthenticationError),
        (403, errors.PermissionDeniedError),
        (404, errors.NotFoundError),
        (409, errors.ConflictError),
        (413, errors.InvalidRequestError),
        (422, errors.InvalidRequestError),
        (429, errors.RateLimitError),
        (500, errors.ServerError),
        (503, errors.ServerError),
        (507, errors.ServerError),
    ],
)
def test_a_status_has_its_exception(status: int, kind: type[ApiError]) -> None:
    assert type(from_answer(status, {}, envelope())) is kind


def test_everything_of_the_envelope_is_kept() -> None:
    error = from_answer(429, {"x-request-id": "abc", "retry-after": "7"}, envelope("Slow down.", "rate_limit_exceeded"))
    assert isinstance(error, ApiError)
    assert (error.message, str(error)) == ("Slow down.", "Slow down.")
    assert (error.status, error.code, error.param, error.request_id) == (429, "rate_limit_exceeded", "slug", "abc")
    assert error.retry_after == 7


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"error": "no"}', b"\xff"])
def test_an_answer_of_another_program_is_told_apart(body: bytes) -> None:
    error = from_answer(502, {}, body)
    assert isinstance(error, UnexpectedAnswerError)
    assert "502 Bad Gateway" in error.message


def test_an_unknown_status_is_no_trouble() -> None:
    assert "599" in str(from_answer(599, {}, b""))


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "Wed, 21 Oct 2015 07:28:00 GMT", "٣"])
def test_only_seconds_count_as_retry_after(value: str | None) -> None:
    assert errors.parse_retry_after(value) is None


def test_the_drawing_shows_every_exception() -> None:
    """The tree at the top of the file is what people read; it must be the whole of it."""
    drawing = errors.__doc__ or ""
    kinds = [name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, ModelshareError)]
    assert len(kinds) > 10
    assert [name for name in kinds if f" {name}" not in drawing.replace("\nModelshareError", " ModelshareError")] == []
