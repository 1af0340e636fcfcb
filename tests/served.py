"""The platform behind its real HTTP server, for tests that need sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.types import ASGIApp

from modelshare.server.app import Application
from modelshare.server.front.exchange import Exchange, Handler
from modelshare.server.front.server import Front
from modelshare.server.settings import Settings

Value = TypeVar("Value")


@asynccontextmanager
async def serving(app: Application, port: int | None = None) -> AsyncIterator[str]:
    """Serves a running application; yields its URL."""
    async with fronted(app, app.settings, port or 0, app.handler) as url:
        yield url
        await app.end_streams()


@asynccontextmanager
async def fronted(
    app: ASGIApp,
    settings: Settings | None = None,
    port: int = 0,
    handler: Callable[[Exchange], Handler | None] | None = None,
) -> AsyncIterator[str]:
    """Serves any ASGI application in this process and event loop; yields its URL."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        async with Front(app, settings or Settings(), handler).serving(listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def wait_until(condition: Callable[[], Awaitable[Value | None]], seconds: float = 60.0) -> Value:
    """Polls until the condition returns a truthy value, and returns that; fails after `seconds`.

    Less and less often, since a condition is often a whole request.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    pause = 0.01
    while not (found := await condition()):
        assert asyncio.get_running_loop().time() < deadline, f"nothing after {seconds:g} s"
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, 0.05)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
