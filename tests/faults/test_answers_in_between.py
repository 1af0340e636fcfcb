"""Answers that come from something between a client and its platform."""

import json
from pathlib import Path

import pytest

from middleboxes import box, http
from modelshare.cli.error_messages import describe
from modelshare.client import AsyncClient, Client
from modelshare.client.chat import Message, stream_chat
from modelshare.client.errors import ConnectError, ModelshareError, UnexpectedAnswerError
from modelshare.client.push import push_model
from network_errors import KEY, OURS, said, works

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_variables")]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http("200 OK", "<html>Sign in to the hotel's network</html>"), "the sign-in page of a network"),
        (http("413 Request Entity Too Large"), "(413)"),
        (http("413 Request Entity Too Large"), "client_max_body_size"),
        (http("502 Bad Gateway"), "502 Bad Gateway: the server behind it is not responding"),
        (http("503 Service Unavailable"), "503 Service Unavailable: the server behind it"),
        (http("504 Gateway Timeout"), "504 Gateway Timeout"),
        (http("407 Proxy Authentication Required"), "requires a user name and password"),
        (http("404 Not Found"), "404 Not Found"),
        (
            http("301 Moved Permanently", Location="https://models.example/v1/models"),
            "use the URL https://models.example;",
        ),
        (http("302 Found", Location="/login"), "redirects to"),
        (http("200 OK", "no gzip at all", Content_Encoding="gzip"), "cannot be decompressed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "broke"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "broke"),
        (b"", "broke"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_not_the_platform(answer: bytes, words: str) -> None:
    with box(answer) as other:
        message = said(other.url)
        with pytest.raises((ConnectError, UnexpectedAnswerError)) as awaiting:
            async with AsyncClient(other.url, KEY) as client:
                [each async for each in client.models.list()]
        with pytest.raises(ModelshareError) as chatting, Client(other.url, KEY) as waiting:
            list(stream_chat(waiting, f"{other.url}/p/e/v1", [Message("user", "x")]))
    assert words in message
    assert words in awaiting.value.message
    assert "bug" not in describe(chatting.value).message
    for text in (message, chatting.value.message):
        assert "serve" not in text.replace("server", "").replace("modelshare server", "")


@pytest.mark.parametrize("trouble", [None, http("502 Bad Gateway"), http("503 Service Unavailable"), http("504 X")])
def test_what_passes_is_tried_again(trouble: bytes | None) -> None:
    with box(lambda _, number: trouble if number < 3 else OURS) as platform:
        works(platform.url)
        assert len(platform.requests) == 3


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" * 1000)
    return path


def opened(head: bytes) -> bytes | None:
    """The answer to the opening call."""
    if not head.startswith(b"POST /v1/uploads "):
        return None
    files = [{"n": 0, "path": "tiny.gguf", "size": 4000, "parts": 1, "parts_done": [], "reused": False}]
    upload = {"id": "u", "model": "m", "name": "tiny", "version": "1.0.0", "state": "open", "part_size": 64 << 20}
    upload |= {"direct": False, "files": files, "bytes_total": 4000, "bytes_done": 0, "created_at": 0, "expires_at": 9}
    return http("201 Created", json.dumps(upload), Content_Type="application/json")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http("413 Request Entity Too Large"), "rejected a request body of 4,044 bytes as too large (413)"),
        (http("200 OK", "<html>Sign in</html>"), "the sign-in page of a network"),
        (http("301 Moved Permanently", Location="https://models.example/v1/x"), "use the URL https://models.example;"),
        (http("407 Proxy Authentication Required"), "requires a user name and password"),
    ],
    ids=["413", "portal", "301", "407"],
)
def test_a_part_that_something_in_between_refuses(model: Path, answer: bytes, words: str) -> None:
    with (
        box(lambda head, _: opened(head) or answer) as platform,
        Client(platform.url, KEY) as client,
        pytest.raises(UnexpectedAnswerError) as error,
    ):
        push_model(client, model)
    assert words in error.value.message


def test_a_break_in_the_opening_call_is_tried_again(model: Path) -> None:
    refusal = http("413 Request Entity Too Large")
    with box(lambda head, number: (opened(head) or refusal) if number > 2 else None) as platform:
        with pytest.raises(UnexpectedAnswerError), Client(platform.url, KEY) as client:
            push_model(client, model)
        openings = [each for each in platform.requests if each.startswith(b"POST /v1/uploads ")]
        assert len(openings) >= 3
        assert len({each.partition(b"\r\n\r\n")[2] for each in openings[:3]}) == 1, "the same is asked for each time"
