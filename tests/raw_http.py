"""An HTTP/1.1 client that sends raw bytes, and an application that echoes requests."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send

from served import wait_until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class App:
    """Echoes requests, or misbehaves as the path says."""

    def __init__(self) -> None:
        self.disconnected = asyncio.Event()
        self.go = asyncio.Event()
        self.began = asyncio.Event()
        self.received = 0
        """Bytes of the body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.began.set()
        if scope["path"] == "/break":
            raise RuntimeError("secret words of the inside")
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
        if scope["path"] in {"/wait", "/stream"}:
            assert (await receive())["more_body"] is False
            assert await receive() == {"type": "http.disconnect"}
            self.disconnected.set()
            return
        if scope["path"] == "/refuse":
            await say(send, 401, b"no")
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected.set()
                return
            body += message["body"]
            self.received = len(body)
            more = message["more_body"]
        if scope["path"] == "/gate":
            await self.go.wait()
        await self.answer(scope, body, send)

    async def has_received(self, count: int) -> None:
        """Waits for so many bytes of a body."""

        async def check() -> bool:
            return self.received == count

        await wait_until(check)

    async def answer(self, scope: Scope, body: bytes, send: Send) -> None:
        if scope["path"] == "/line-break":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b\r\nc: d")]})
        if scope["path"] == "/chunks":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for part in (b"one", b"", b"two"):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body"})
            return
        asked = {name: scope[name] for name in ("method", "path", "http_version", "client")}
        asked |= {"query": scope["query_string"].decode(), "raw_path": scope["raw_path"].decode(), "body": len(body)}
        await say(send, 200, json.dumps(asked).encode())


async def say(send: Send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_problem(self, status: int, *words: str) -> None:
        """Asserts that it is an error in the API's envelope, with a request id, and closes the connection."""
        assert self.status == status
        assert self.headers["connection"] == "close"
        assert len(self.headers["x-request-id"]) == 32
        assert self.headers["x-content-type-options"] == "nosniff"
        assert self.headers["content-type"] == "application/json"
        error = self.json["error"]
        assert set(error) == {"message", "type", "code", "param"}
        assert all(word in error["message"] for word in words), error["message"]


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, data: bytes, *, head_only: bool = False) -> Answer:
        self.writer.write(data)
        return await self.answer(head_only=head_only)

    async def answer(self, *, head_only: bool = False) -> Answer:
        async with asyncio.timeout(60):
            line, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = dict(each.split(": ", 1) for each in lines)
            body = b""
            if headers.get("transfer-encoding") == "chunked" and not head_only:
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    body += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readexactly(2)
            elif not head_only:
                body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(line.split()[1]), headers, body)

    async def is_closed(self) -> None:
        async with asyncio.timeout(60):
            with suppress(ConnectionResetError):
                assert await self.reader.read() == b""

    async def is_open(self) -> None:
        assert (await self.ask(GET)).status == 200


@asynccontextmanager
async def connected(url: str, source: str = "127.0.0.1") -> AsyncIterator[Client]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, local_addr=(source, 0))
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
