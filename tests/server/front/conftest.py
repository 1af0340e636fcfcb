"""Fixtures of the HTTP server: one connection to it, with the limits that a test gives."""

import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import Mock

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


class HastyFront(Front):
    """Its time runs ahead of the loop's, by as much as a test says."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(app, settings)
        loop, self._ahead = self.loop, 0.0
        self.loop = Mock(wraps=loop, time=lambda: loop.time() + self._ahead)

    async def later(self, seconds: float) -> None:
        """As if so much time had passed."""
        self._ahead += seconds
        await self._sweep()

    async def has_accepted(self) -> bool:
        return bool(self._connections)

    async def is_blocked(self) -> bool:
        """Whether a client does not take what it is sent."""
        return any(each._is_blocked for each in self._of(Connection))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


@pytest.fixture
async def front(app: ASGIApp, limits: dict[str, Any], listener: socket.socket) -> AsyncIterator[HastyFront]:
    front = HastyFront(app, Settings(**{f"connections_{name}": value for name, value in limits.items()}))
    async with front.serving(listener):
        yield front


@pytest.fixture
def url(front: HastyFront, listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
async def client(front: HastyFront, url: str) -> AsyncIterator[Client]:
    async with connected(url) as found:
        await wait_until(front.has_accepted)
        yield found
