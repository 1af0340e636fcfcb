"""Fixtures of tests of faults."""

from collections.abc import AsyncIterator

import pytest

from modelshare.server.db import Database
from modelshare.server.settings import Settings
from network_errors import VARIABLES


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings.database)
    await database.start()
    yield database
    await database.close()
