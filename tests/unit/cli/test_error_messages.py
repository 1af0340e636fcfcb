import pytest

from modelshare.cli.error_messages import CommandError, describe
from modelshare.cli.exit_codes import ExitCode
from modelshare.client.errors import ConfigError, ConnectError, ModelFailedError, SourceError, from_answer


def api_error(status: int, **headers: str) -> Exception:
    body = b'{"error": {"message": "Authentication required", "type": "server_error"}}'
    return from_answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (api_error(401), ExitCode.UNREACHABLE, "Authentication required. Run `modelshare login`"),
        (api_error(403), ExitCode.FAILED, "Authentication required"),
        (api_error(500, x_request_id="abc"), ExitCode.FAILED, "(request abc)"),
        (api_error(507, x_request_id="abc"), ExitCode.FAILED, "Authentication required"),
        (api_error(429, retry_after="9"), ExitCode.FAILED, "Try again in 9 s."),
        (from_answer(502, {}, b""), ExitCode.UNREACHABLE, "502"),
        (ConnectError("No one there."), ExitCode.UNREACHABLE, "No one there."),
        (ConfigError("Wrong."), ExitCode.USAGE, "Wrong."),
        (SourceError("Two\n  lines."), ExitCode.FAILED, "Two lines."),
        (ModelFailedError("m", "Pickle."), ExitCode.FAILED, "Pickle."),
        (CommandError("Stopped.", ExitCode.INTERRUPTED), ExitCode.INTERRUPTED, "Stopped."),
        (PermissionError(13, "Permission denied", "/x"), ExitCode.FAILED, "/x: Permission denied."),
        (
            UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"),
            ExitCode.USAGE,
            "'a\\udcff' is not valid UTF-8",
        ),
        (ZeroDivisionError("oops"), ExitCode.FAILED, "ZeroDivisionError: oops"),
    ],
)
def test_every_error_is_one_line_with_its_code(error: Exception, code: ExitCode, part: str) -> None:
    failure = describe(error)
    assert failure.code is code
    assert part in failure.message
    assert "\n" not in failure.message
