"""The platform with a clock that the test turns."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import httpx
import pytest

from clock import Clock
from conftest import Tenant, client_of
from modelshare.server.app import Application

MakeKey = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client_with(app: Application, owner: Tenant) -> AsyncIterator[MakeKey]:
    """Makes a key of the owner's project with these fields; a client that sends it."""
    async with AsyncExitStack() as clients:

        async def make(**fields: object) -> httpx.AsyncClient:
            made = await owner.http.post("/v1/keys", json={"name": "made", **fields})
            assert made.status_code == 201, made.text
            return await clients.enter_async_context(client_of(app, made.json()["key"]))

        yield make
