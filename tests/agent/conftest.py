from collections.abc import AsyncIterator

import pytest

from agent.support import Storage, storage_server


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    async with storage_server() as server:
        yield server
