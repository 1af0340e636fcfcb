"""The platform behind its real HTTP server, for tests that need sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from granian.constants import Interfaces
from granian.server.embed import Server

from modelshare.server.app import Application

Value = TypeVar("Value")


@asynccontextmanager
async def serving(app: Application, port: int | None = None) -> AsyncIterator[str]:
    """Serves a running application; its URL."""
    port = port or free_port()
    server = Server(app, address="127.0.0.1", port=port, interface=Interfaces.ASGINL, backlog=1024, log_enabled=False)
    task = asyncio.create_task(server.serve())
    await wait_until(lambda: _answers(port))
    yield f"http://127.0.0.1:{port}"
    await app.end_streams()
    server.stop()  # type: ignore[no-untyped-call]
    await task


async def wait_until(look: Callable[[], Awaitable[Value | None]], seconds: float = 30.0) -> Value:
    """What `look` finds, as soon as that is something; fails when it stays nothing."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (found := await look()):
        assert asyncio.get_running_loop().time() < deadline, f"nothing after {seconds:g} s"
        await asyncio.sleep(0.01)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
