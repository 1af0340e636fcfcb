"""An engine that sends exactly the bytes that a test wants."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"content-length: 5\r\n\r\nhello"
Answer = Callable[["Engine", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Engine:
    """A server that answers every request with `answer`. `running` starts it."""

    def __init__(self, answer: Answer | bytes) -> None:
        self.answer = answer
        self.url = ""
        self.connections = 0
        self.open = 0
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) and not writer.is_closing():
                length = int(head.rpartition(b"content-length: ")[2])
                self.requests.append(head + await reader.readexactly(length))
                if isinstance(self.answer, bytes):
                    writer.write(self.answer)
                else:
                    await self.answer(self, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


E = TypeVar("E", bound=Engine)


@asynccontextmanager
async def running(engine: E, tls: ssl.SSLContext | None = None) -> AsyncIterator[E]:
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, ssl=tls, backlog=1024)
    host, port = server.sockets[0].getsockname()
    engine.url = f"{'http' if tls is None else 'https'}://{host}:{port}/v1"
    try:
        yield engine
    finally:
        server.close()
