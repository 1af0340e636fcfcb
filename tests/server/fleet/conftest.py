"""A served platform, for agents that link to it."""

from collections.abc import AsyncIterator

import pytest

from modelshare.server.app import Application
from served import serving


@pytest.fixture
async def url(running_app: Application) -> AsyncIterator[str]:
    async with serving(running_app) as served:
        yield served
