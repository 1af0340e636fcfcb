"""Request bodies, however they are cut into pieces."""

import pytest
from starlette.types import Message

from modelshare.server.errors import PayloadTooLargeError
from modelshare.server.router.errors import ClientGoneError
from modelshare.server.router.forward import read_body

pytestmark = pytest.mark.anyio


class Client:
    """Sends these pieces, then nothing more."""

    def __init__(self, *pieces: bytes, leaves: bool = False) -> None:
        last = {"type": "http.disconnect"} if leaves else {"type": "http.request", "body": b"", "more_body": False}
        sent: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        self._messages = iter([*sent, last])

    async def receive(self) -> Message:
        return next(self._messages)


async def test_the_pieces_are_joined() -> None:
    assert await read_body(Client(b"ab", b"", b"c").receive, limit=3, announced=0) == b"abc"


async def test_what_is_too_long_is_refused_as_soon_as_that_shows() -> None:
    with pytest.raises(PayloadTooLargeError):
        await read_body(Client().receive, limit=3, announced=4)
    with pytest.raises(PayloadTooLargeError):
        await read_body(Client(b"ab", b"cd").receive, limit=3, announced=0)


async def test_a_client_that_leaves_is_noticed() -> None:
    with pytest.raises(ClientGoneError):
        await read_body(Client(b"ab", leaves=True).receive, limit=3, announced=0)


async def test_each_of_many_pieces_is_measured_once() -> None:
    measured = 0

    class Piece(bytes):
        def __len__(self) -> int:
            nonlocal measured
            measured += 1
            return super().__len__()

    await read_body(Client(*[Piece(b"x")] * 500).receive, limit=500, announced=0)

    assert measured < 5 * 500, "a client that sends byte by byte would keep the process busy otherwise"
