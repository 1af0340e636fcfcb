"""The watch over transactions sees what it is for."""

from pathlib import Path

import pytest
from sqlalchemy import text

from modelshare.server.db import Database
from modelshare.server.storage.local import FolderStore
from transactions import CalledInTransactionError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(tmp_path: Path) -> Database:
    return Database(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}")


async def test_a_call_of_storage_while_a_transaction_is_open_is_seen(
    database: Database, tmp_path: Path, slow_in_transaction: list[str]
) -> None:
    store = FolderStore(tmp_path / "storage", b"secret")
    async with database.write() as session:
        await store.check()  # nothing was asked of the database yet
        await session.execute(text("SELECT 1"))
        with pytest.raises(CalledInTransactionError, match=r"FolderStore.check"):
            await store.check()
    await store.check()
    await database.close()
    assert len(slow_in_transaction) == 1
    slow_in_transaction.clear()


async def test_a_second_session_while_one_is_open_is_seen(database: Database, slow_in_transaction: list[str]) -> None:
    async with database.read() as session:
        await session.execute(text("SELECT 1"))
        with pytest.raises(CalledInTransactionError, match=r"Database.read"):
            async with database.read():
                pass
    await database.close()
    assert len(slow_in_transaction) == 1
    slow_in_transaction.clear()
