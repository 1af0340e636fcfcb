"""A TCP proxy in front of a real PostgreSQL, which a test can cut, stall and reopen."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit


class DatabaseProxy:
    """After `open` it forwards bytes.

    After `cut` it refuses connections; after `stall` it accepts them but forwards nothing.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._to = parts.hostname, parts.port
        self._socket = socket.create_server(("127.0.0.1", 0))
        port = self._socket.getsockname()[1]
        self.url = url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{port}")
        self._port = port
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut_at: tuple[bytes, bool] | None = None

    def cut_at(self, message: bytes, *, is_answered: bool) -> None:
        """Cuts the connection that sends this next: before it arrives, or before its answer does."""
        self._cut_at = message, is_answered

    async def open(self) -> None:
        self._passing.set()
        if self._server is None:
            listener = self._socket if self._socket.fileno() >= 0 else socket.create_server(("127.0.0.1", self._port))
            self._server = await asyncio.start_server(self._serve, sock=listener)

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()

    def stall(self) -> None:
        self._passing.clear()

    async def close(self) -> None:
        await self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there_reader, there = await asyncio.open_connection(*self._to)
        self._writers |= {writer, there}
        try:
            ending = asyncio.Event()
            await asyncio.gather(
                self._pass(reader, there, ending), self._pass(there_reader, writer, ending, answers=True)
            )
        finally:
            for each in (writer, there):
                self._writers.discard(each)
                each.transport.abort()
            self._tasks.discard(task)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ending: asyncio.Event,
        *,
        answers: bool = False,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                await self._passing.wait()
                if answers and ending.is_set():
                    break
                if not answers and self._cut_at is not None and self._cut_at[0] in data:
                    (_, is_answered), self._cut_at = self._cut_at, None
                    ending.set()
                    if not is_answered:
                        break
                writer.write(data)
                await writer.drain()
            writer.close()


@contextlib.asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[DatabaseProxy]:
    """An open proxy to the database at `url`."""
    proxy = DatabaseProxy(url)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()
