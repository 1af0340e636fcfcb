from pathlib import Path

import httpx
import pytest

from modelshare.client import ApiError, Client, ConnectError, ServerError, UnexpectedAnswerError
from modelshare.client.chat import Message, stream_chat

URL = "http://platform.test"
HELLO = (
    'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\ndata: {"choices": [{"delta": {"content": "Hel"}}]}\n\n'
)
LO = 'data: {"choices": [{"delta": {"content": "lo"}}, {"delta": {"content": null}}]}\n\n'


@pytest.fixture(autouse=True)
def no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELSHARE_CONFIG", str(tmp_path / "none.json"))


def chat(answer: httpx.Response) -> list[str]:
    def answers(request: httpx.Request) -> httpx.Response:
        assert request.url == f"{URL}/proj/chat/v1/chat/completions"
        assert b'"stream":true' in request.content
        return answer

    with Client(URL, "ms_key", transport=httpx.MockTransport(answers)) as client:
        return list(stream_chat(client, f"{URL}/proj/chat/v1", [Message("user", "Hi")]))


def test_pieces_come_as_they_are_and_end_with_done() -> None:
    usage = 'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n'
    pieces = chat(httpx.Response(200, text=f": a comment\n\n{HELLO}{LO}{usage}data: [DONE]\n\ndata: late\n\n"))
    assert "".join(pieces) == "Hello"


def test_an_error_before_the_stream() -> None:
    envelope = {"error": {"message": "Loading.", "type": "server_error", "code": "model_loading"}}
    with pytest.raises(ServerError, match="Loading") as error:
        chat(httpx.Response(503, json=envelope, headers={"Retry-After": "2"}))
    assert (error.value.code, error.value.retry_after) == ("model_loading", 2)


def test_an_error_midway() -> None:
    midway = 'data: {"error": {"message": "The engine stopped.", "type": "server_error"}}\n\n'
    with pytest.raises(ApiError, match="The engine stopped"):
        chat(httpx.Response(200, text=HELLO + midway))


@pytest.mark.parametrize("line", ["data: {", "data: []", 'data: {"choices": [1]}', 'data: {"choices": [{}]}'])
def test_something_else_in_the_stream(line: str) -> None:
    with pytest.raises(UnexpectedAnswerError):
        chat(httpx.Response(200, text=f"{line}\n\n"))


def test_a_connection_that_breaks() -> None:
    def answers(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset", request=request)

    with Client(URL, transport=httpx.MockTransport(answers)) as client, pytest.raises(ConnectError, match="broke"):
        list(stream_chat(client, f"{URL}/x/v1", []))
