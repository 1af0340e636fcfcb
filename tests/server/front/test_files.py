"""Files that go out by the operating system, and answers that nobody takes."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from starlette.types import Receive, Scope, Send

from modelshare.server.settings import Settings
from served import fronted, wait_until

pytestmark = pytest.mark.anyio
SIZE = 16 << 20


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
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if scope["path"] == "/file":
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
async def port(files: Files) -> AsyncIterator[int]:
    async with fronted(files, Settings(connections_stalled_seconds=0.5)) as url:
        yield int(url.rsplit(":", 1)[1])


def asking(port: int, path: str) -> socket.socket:
    """A client that has asked, and takes nothing."""
    client = socket.create_connection(("127.0.0.1", port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return client


def take(client: socket.socket, pause: float = 0.0) -> int:
    """Reads to the end; how many bytes came."""
    client.settimeout(20)
    taken = 0
    while taken < SIZE and (data := client.recv(1 << 20)):
        taken += len(data)
        time.sleep(pause)
    return taken


async def test_whole_files_two_after_another(port: int, files: Files) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert f"content-length: {SIZE}\r\n".encode() in head
        assert await reader.readexactly(SIZE) == files.path.read_bytes()
    writer.close()


@pytest.mark.parametrize("path", ["/file", "/chunks"])
async def test_nobody_takes_the_answer(port: int, files: Files, path: str) -> None:
    with asking(port, path) as client:

        async def began() -> bool:
            return files.under_way > 0

        async def ended() -> bool:
            return files.under_way == 0

        await wait_until(began)
        await wait_until(ended)
        assert await asyncio.to_thread(take, client) < SIZE


@pytest.mark.parametrize("path", ["/file", "/chunks"])
async def test_an_answer_that_is_taken_slowly(port: int, path: str) -> None:
    with asking(port, path) as client:
        assert await asyncio.to_thread(take, client, 0.01) >= SIZE


async def test_events_may_wait_for_their_reader(port: int, files: Files) -> None:
    """Whoever listens to events has limits of his own."""
    with asking(port, "/events") as client:
        await asyncio.sleep(1.2)
        assert files.under_way == 1
        assert await asyncio.to_thread(take, client) >= SIZE


async def test_no_file_stays_open(port: int, files: Files) -> None:
    for path in ("/file", "/chunks"):
        asking(port, path).close()
    with asking(port, "/file") as client:
        await asyncio.to_thread(take, client)

    async def closed() -> bool:
        return str(files.path) not in {file.path for file in psutil.Process().open_files()}

    await wait_until(closed)
