from collections.abc import AsyncIterator

import pytest

from agent.peer import Peer, peer_server
from agent.support import Storage, storage_server


@pytest.fixture(autouse=True)
def patient_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine may take longer to accept a connection on a loaded machine."""
    monkeypatch.setattr("modelshare.agent.engine_pool._CONNECT_SECONDS", 60)


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    async with storage_server() as server:
        yield server


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with peer_server() as server:
        yield server
