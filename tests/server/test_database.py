"""What the database promises, whichever it is."""

import asyncio
import os
import stat
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.app import Application
from modelshare.server.db import Database

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


@pytest.mark.parametrize("lend", ["sqlite"], indirect=True)
async def test_its_files_are_private_whatever_was_there_before(database_url: str) -> None:
    before = os.umask(0)
    try:
        path = Path(make_url(database_url).database or "")
        path.chmod(0o664)
        database = Database(database_url.replace("sqlite:", "sqlite+aiosqlite:"))
        async with database.write() as session:
            session.add(ProjectRow(name="Acme", slug="acme", created_at=0))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob("test.db*")}
        await database.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("test.db", "test.db-wal", "test.db-shm"), 0o600)


@pytest.mark.parametrize("lend", ["sqlite"], indirect=True)
async def test_a_new_connection_leaves_the_lock_of_another(database_url: str) -> None:
    """A process that opens and closes the file by itself would lose all of its locks on it (fcntl(2))."""
    database = Database(database_url.replace("sqlite:", "sqlite+aiosqlite:"))
    other = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    async with database.write() as writing:
        writing.add(ProjectRow(name="Acme", slug="acme", created_at=0))
        await writing.flush()
        async with database.read() as reading:
            assert await reading.scalar(PROJECTS) == 0
        path = make_url(database_url).database or ""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", other, path, stderr=asyncio.subprocess.PIPE
        )
        assert b"database is locked" in (await process.communicate())[1]
    await database.close()
