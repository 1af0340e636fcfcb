"""People who look at pages, each with a browser's cookie and headers."""

from collections.abc import AsyncIterator

import httpx
import pytest

from conftest import Tenant
from modelshare.server.app import Application
from persons import browser_of, sign_up


@pytest.fixture
async def person(app: Application, owner: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    """An owner of the project that owns models."""
    token = await sign_up(app, "ada", owner.project.id)
    async with browser_of(app, token) as client:
        yield client


@pytest.fixture
async def stranger(app: Application, deployer: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    """An owner of another project."""
    token = await sign_up(app, "bob", deployer.project.id)
    async with browser_of(app, token) as client:
        yield client


@pytest.fixture
async def visitor(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    """Nobody who is signed in."""
    async with browser_of(app, None) as client:
        yield client
