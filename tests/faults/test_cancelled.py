"""A task that is cancelled in the middle of a transaction leaves no lock behind."""

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import text

import inline_sqlite
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio
SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000000) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(1)",
}


@pytest.fixture(autouse=True)
def sqlite_in_threads() -> Iterator[None]:
    """As in a server: a statement that takes long can be cancelled."""
    with inline_sqlite.in_threads():
        yield


async def test_a_write_that_is_cancelled_in_a_statement(app: Application) -> None:
    begun = asyncio.Event()

    async def write() -> None:
        async with app.database.write() as session:
            await session.execute(text("UPDATE models SET name = 'taken'"))
            begun.set()
            await session.execute(text(SLOW[app.database.url.get_backend_name()]))

    writing = asyncio.ensure_future(write())
    await begun.wait()
    await asyncio.sleep(0.05)  # into the statement: there is nothing to see from here
    writing.cancel()
    # The error is kept, and with it all that its frames refer to: nothing is freed by chance.
    (error,) = await asyncio.gather(writing, return_exceptions=True)
    assert isinstance(error, asyncio.CancelledError)
    async with asyncio.timeout(60), app.database.write() as session:
        await session.execute(text("UPDATE models SET name = 'free'"))
