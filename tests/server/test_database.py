"""What the database promises, whichever it is."""

import sqlite3

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError

from conftest import Tenant, new_tenant
from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.app import Application
from modelshare.server.db import Database, is_passing

pytestmark = pytest.mark.anyio
PROJECTS = text("SELECT count(*) FROM projects")


async def test_a_read_sees_one_state(app: Application) -> None:
    """Even where something is written between its statements."""
    async with app.database.read() as reading:
        before = await reading.scalar(PROJECTS)
        async with app.database.write() as writing:
            writing.add(ProjectRow(name="Acme", slug="acme", created_at=0))
        assert (before, await reading.scalar(PROJECTS)) == (0, 0)
    async with app.database.read() as reading:
        assert await reading.scalar(PROJECTS) == 1


@pytest.mark.parametrize("value", [{"created_at": 2**63}, {"name": None}, {"slug": "taken"}])
async def test_what_can_never_be_written_is_told_from_a_database_that_is_away(
    app: Application, owner: Tenant, value: dict[str, object]
) -> None:
    await new_tenant(app, "taken")
    with pytest.raises(Exception) as refused:  # noqa: PT011 - drivers and dialects differ in what they raise
        async with app.database.write() as session:
            await session.execute(update(ProjectRow).where(ProjectRow.id == owner.project.id).values(**value))
    assert not is_passing(refused.value)
    away = Database("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    with pytest.raises(OSError) as gone:  # noqa: PT011 - as above
        async with away.write() as session:
            await session.execute(select(ProjectRow))
    assert is_passing(gone.value)
    await away.close()


@pytest.mark.parametrize("lend", ["sqlite"], indirect=True)
async def test_a_locked_database_is_trouble_that_passes(app: Application) -> None:
    async with app.database.write() as holding:
        await holding.execute(select(ProjectRow))
        impatient = sqlite3.connect(str(app.database.url.database), timeout=0)
        with pytest.raises(sqlite3.OperationalError) as busy:
            impatient.execute("BEGIN IMMEDIATE")
        impatient.close()
    assert is_passing(OperationalError("BEGIN IMMEDIATE", None, busy.value))
