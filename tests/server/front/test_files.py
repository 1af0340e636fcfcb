"""Files that go out by the operating system, and answers that nobody takes."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from starlette.types import Receive, Scope, Send

from served import wait_until
from server.front.conftest import FastFront

pytestmark = pytest.mark.anyio
SIZE = 16 << 20
STALLED_SECONDS = 60


class Files:
    """Answers with the file, in one of the ways there are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % SIZE)]
        if scope["path"] == "/events":
            headers = [(b"content-type", b"text/event-stream")]
        self.under_way += 1
        try:
            if scope["path"] != "/without-headers":
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            if scope["path"] == "/after-headers":
                await send({"type": "http.response.body", "body": b"", "more_body": True})
            if scope["path"] in {"/file", "/after-headers", "/without-headers"}:
                await send({"type": "http.response.pathsend", "path": str(self.path)})
                return
            for number in range(16):
                more = number < 15
                await send({"type": "http.response.body", "body": bytes(SIZE // 16), "more_body": more})
        finally:
            self.under_way -= 1


@pytest.fixture
def files(tmp_path: Path) -> Files:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    return Files(path)


@pytest.fixture
def app(files: Files) -> Files:
    return files


@pytest.fixture
def limits() -> dict[str, Any]:
    return {"stalled_seconds": STALLED_SECONDS}


def asking(url: str, path: str) -> socket.socket:
    """A client that has asked, and takes nothing."""
    client = socket.create_connection(("127.0.0.1", urlsplit(url).port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    client.setblocking(False)
    return client


async def take(client: socket.socket, size: int = SIZE) -> int:
    """Reads so many bytes, or to the end; how many came."""
    taken, loop = 0, asyncio.get_running_loop()
    async with asyncio.timeout(60):
        while taken < size and (data := await loop.sock_recv(client, size - taken)):
            taken += len(data)
    return taken


@pytest.mark.parametrize("path", ["/file", "/after-headers"])
async def test_whole_files_two_after_another(url: str, files: Files, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
    for _ in range(2):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert f"content-length: {SIZE}\r\n".encode() in head
        assert await reader.readexactly(SIZE) == files.path.read_bytes()
    writer.close()


@pytest.mark.parametrize("path", ["/file", "/chunks"])
async def test_nobody_takes_the_answer(front: FastFront, url: str, files: Files, path: str) -> None:
    with asking(url, path) as client:

        async def began() -> bool:
            return files.under_way > 0

        async def ended() -> bool:
            await front.later(STALLED_SECONDS / 4)
            return files.under_way == 0

        await wait_until(began)
        await wait_until(ended)
        assert await take(client) < SIZE


@pytest.mark.parametrize("path", ["/file", "/chunks"])
async def test_an_answer_that_is_taken_slowly(front: FastFront, url: str, path: str) -> None:
    with asking(url, path) as client:
        for _ in range(256):
            assert await take(client, SIZE // 256) == SIZE // 256
            await front.later(STALLED_SECONDS / 4)


async def test_events_may_wait_for_their_reader(front: FastFront, url: str, files: Files) -> None:
    """Whoever listens to events has limits of his own."""
    with asking(url, "/events") as client:
        await wait_until(front.is_blocked)
        await front.later(2 * STALLED_SECONDS)
        assert files.under_way == 1
        assert await take(client) == SIZE


async def test_no_file_stays_open(url: str, files: Files) -> None:
    for path in ("/file", "/chunks"):
        asking(url, path).close()
    for path in ("/file", "/without-headers"):
        with asking(url, path) as client:
            await take(client)

    async def closed() -> bool:
        return str(files.path) not in {file.path for file in psutil.Process().open_files()}

    await wait_until(closed)
