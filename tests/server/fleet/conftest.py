"""A served platform, for agents that link to it."""

from collections.abc import AsyncIterator

import pytest

from modelshare.server.app import Application
from served import serving


@pytest.fixture
async def url(app: Application) -> AsyncIterator[str]:
    async with serving(app) as served:
        yield served
