"""Fixtures of the HTTP server: one connection to it, with the limits that a test gives."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
from starlette.types import ASGIApp

from modelshare.server.front.connection import Connection
from modelshare.server.front.server import Front
from modelshare.server.settings import Settings
from raw_http import App, Client, connected
from served import wait_until


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def limits(request: pytest.FixtureRequest) -> dict[str, Any]:
    """With `@pytest.mark.parametrize("limits", [{...}], indirect=True)`, the settings `connections_…` are these."""
    found: dict[str, Any] = getattr(request, "param", {})
    return found


class FastLoop:
    """An event loop whose time runs ahead, by as much as a test says."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.ahead = 0.0

    def time(self) -> float:
        return self._loop.time() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class FastFront(Front):
    """Time passes when a test says."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(app, settings)
        self._fast = FastLoop(self.loop)
        self.loop = cast("asyncio.AbstractEventLoop", self._fast)

    async def later(self, seconds: float) -> None:
        """As if so much time had passed."""
        self._fast.ahead += seconds
        await self._sweep()

    async def has_accepted(self) -> bool:
        return bool(self._connections)

    async def is_blocked(self) -> bool:
        """Whether a client does not take what it is sent."""
        return any(each.is_blocked for each in self._of(Connection))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


@pytest.fixture
async def front(app: ASGIApp, limits: dict[str, Any], listener: socket.socket) -> AsyncIterator[FastFront]:
    front = FastFront(app, Settings(**{f"connections_{name}": value for name, value in limits.items()}))
    async with front.serving(listener):
        yield front


@pytest.fixture
def url(front: FastFront, listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
async def client(front: FastFront, url: str) -> AsyncIterator[Client]:
    async with connected(url) as found:
        await wait_until(front.has_accepted)
        yield found
