"""Fixtures of the HTTP server: one connection to it, with the limits that a test gives."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from modelshare.server.settings import Settings
from raw_http import App, Client, connected
from served import fronted


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def limits(request: pytest.FixtureRequest) -> dict[str, Any]:
    """With `@pytest.mark.parametrize("limits", [{...}], indirect=True)`, the settings `connections_…` are these."""
    found: dict[str, Any] = getattr(request, "param", {})
    return found


@pytest.fixture
async def url(app: App, limits: dict[str, Any]) -> AsyncIterator[str]:
    async with fronted(app, Settings(**{f"connections_{name}": value for name, value in limits.items()})) as served:
        yield served


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    async with connected(url) as found:
        yield found
