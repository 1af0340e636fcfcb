"""Bodies that an application takes from the socket: whole, slow, cut off, given up."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from modelshare.server.front.receiving import TAKE_BODY, RequestBody
from modelshare.server.front.server import Front
from modelshare.server.settings import Settings

pytestmark = pytest.mark.anyio

SIZE = 20 << 20


class Taker:
    """An application that answers the size of the body, and notes that its client left."""

    def __init__(self, *, limit: int = 2 * SIZE) -> None:
        self.limit = limit
        self.content = bytearray()
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body: RequestBody | None = scope["extensions"][TAKE_BODY]()
        if body is None:
            self.content += (await receive())["body"]
        else:
            try:
                while len(self.content) < self.limit and await body.more():
                    await asyncio.to_thread(body.take, self._keep)
            except ClientDisconnect:
                self.left.set()
                return
            finally:
                body.close()
        answer = str(len(self.content)).encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _keep(self, piece: memoryview) -> None:
        self.content += piece


@asynccontextmanager
async def served(app: Taker, **settings: float) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with Front(app, Settings.model_validate(settings)).serving(listener):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                yield reader, writer
            finally:
                writer.close()


def head(size: int = SIZE, extra: str = "") -> bytes:
    return f"PUT / HTTP/1.1\r\nHost: here\r\n{extra}Content-Length: {size}\r\n\r\n".encode()


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    lines = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in lines.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return lines.split(b"\r\n")[0] + b"|" + await reader.readexactly(length)


async def test_a_body_comes_whole_and_another_request_follows() -> None:
    app, content = Taker(), os.urandom(SIZE)
    async with served(app) as (reader, writer):
        for _ in range(2):
            app.content.clear()
            writer.write(head() + content)
            assert await answer_of(reader) == b"HTTP/1.1 200 OK|%d" % SIZE
            assert bytes(app.content) == content
        app.content.clear()
        writer.write(head(5) + b"short")
        assert await answer_of(reader) == b"HTTP/1.1 200 OK|5"


async def test_a_body_that_comes_in_bits_is_awaited() -> None:
    app, content = Taker(), os.urandom(SIZE)
    async with served(app) as (reader, writer):
        writer.write(head(extra="Expect: 100-continue\r\n"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        for start in range(0, SIZE, SIZE // 4):
            writer.write(content[start : start + SIZE // 4])
            await writer.drain()
            await asyncio.sleep(0.05)
        assert await answer_of(reader) == b"HTTP/1.1 200 OK|%d" % SIZE
        assert bytes(app.content) == content


async def test_a_client_that_leaves_amid_the_body_is_told() -> None:
    app = Taker()
    async with served(app) as (_, writer):
        writer.write(head() + bytes(SIZE // 2))
        await writer.drain()
        writer.close()
        async with asyncio.timeout(60):
            await app.left.wait()


async def test_a_body_that_stalls_is_refused() -> None:
    app = Taker()
    async with served(app, connections_stalled_seconds=0.5) as (reader, writer):
        writer.write(head() + bytes(SIZE // 2))
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 408")
        assert app.left.is_set()


async def test_an_answer_amid_the_body_reaches_the_client() -> None:
    app = Taker(limit=1)
    async with served(app) as (reader, writer):
        writer.write(head() + bytes(SIZE))
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 OK|")
        assert await reader.read() == b""
