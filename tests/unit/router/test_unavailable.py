"""What a client is told while an endpoint cannot answer."""

import pytest

from modelshare.server.router.refusals import not_served, unavailable
from modelshare.wire.endpoints import EndpointProgress, EndpointStatus
from modelshare.wire.errors import ErrorCode


def progress(phase: str, done: int = 0, total: int = 0) -> EndpointProgress:
    return EndpointProgress(phase=phase, bytes_done=done, bytes_total=total)


@pytest.mark.parametrize(
    ("status", "reason", "seen", "code", "words"),
    [
        (EndpointStatus.INACTIVE, None, None, ErrorCode.ENDPOINT_INACTIVE, "inactive"),
        (EndpointStatus.FAILED, "It is too big.", None, None, "It is too big."),
        (EndpointStatus.PROVISIONING, "No agent is there.", None, ErrorCode.MODEL_LOADING, "No agent is there."),
        (
            EndpointStatus.PROVISIONING,
            None,
            progress("pulling", 1_500_000_000, 6_000_000_000),
            ErrorCode.MODEL_LOADING,
            "1.5 GB of 6.0 GB (25 %)",
        ),
        (EndpointStatus.DEGRADED, None, progress("loading"), ErrorCode.MODEL_LOADING, "being loaded"),
        (EndpointStatus.DEGRADED, "No agent is connected.", None, None, "No agent is connected."),
        (EndpointStatus.ACTIVE, None, None, None, "disconnected"),
    ],
)
def test_each_state_says_why_and_when_to_try_again(
    status: EndpointStatus, reason: str | None, seen: EndpointProgress | None, code: ErrorCode | None, words: str
) -> None:
    error = unavailable(status, reason, seen)
    assert (error.status, error.code) == (503, code)
    assert words in error.message
    assert int(error.headers()["Retry-After"]) > 0


@pytest.mark.parametrize("phase", ["waiting", "pulling", "verifying", "converting", "loading", "ready"])
def test_every_phase_has_words(phase: str) -> None:
    assert unavailable(EndpointStatus.PROVISIONING, None, progress(phase)).message.startswith("The model is ")


def test_a_route_that_the_engine_does_not_serve() -> None:
    error = not_served("embeddings", {"completions", "chat/completions"})
    assert (error.status, error.message) == (404, "This model serves chat/completions, completions, not embeddings.")
