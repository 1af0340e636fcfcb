"""What the database promises, whichever it is."""

import asyncio
import os
import sqlite3
import stat
import sys
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from conftest import Tenant, new_tenant
from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.app import Application
from modelshare.server.db import Database, notify
from modelshare.server.outages import Outage, outage_of
from transactions import as_another_request

pytestmark = pytest.mark.anyio
PROJECTS = text("SELECT count(*) FROM projects")


async def test_a_read_sees_one_state(app: Application) -> None:
    """Even where something is written between its statements."""

    async def write() -> None:
        async with app.database.write() as writing:
            writing.add(ProjectRow(name="Acme", slug="acme", created_at=0))

    async with app.database.read() as reading:
        before = await reading.scalar(PROJECTS)
        await as_another_request(write())
        assert (before, await reading.scalar(PROJECTS)) == (0, 0)
    async with app.database.read() as reading:
        assert await reading.scalar(PROJECTS) == 1


async def test_effects_run_once_for_each_subject_in_the_transaction_that_changes_it(app: Application) -> None:
    seen: list[tuple[str, int | None]] = []

    async def effect(session: AsyncSession, subject: str) -> None:
        seen.append((subject, await session.scalar(PROJECTS)))
        session.add(ProjectRow(name="Derived", slug=f"derived-{subject}", created_at=0))

    for topic in ("one", "two"):
        app.database.before_commit(topic, effect)
    async with app.database.write() as session:
        session.add(ProjectRow(name="Acme", slug="acme", created_at=0))
        for topic, subject in (("two", "b"), ("one", "b"), ("one", "a"), ("other", "c")):
            notify(session, topic, subject)
    assert seen == [("a", 1), ("b", 2)], "in one order, after the change itself"
    async with app.database.read() as session:
        assert await session.scalar(PROJECTS) == 3


async def test_what_an_effect_notifies_has_its_effects_too(app: Application) -> None:
    seen: list[str] = []

    async def first(session: AsyncSession, subject: str) -> None:
        for topic in ("first", "second"):  # of itself, too: that runs once
            notify(session, topic, subject)

    async def second(_: AsyncSession, subject: str) -> None:
        seen.append(subject)

    app.database.before_commit("first", first)
    app.database.before_commit("second", second)
    async with app.database.write() as session:
        notify(session, "first", "a")
    assert seen == ["a"]


async def test_a_change_whose_effect_fails_is_undone(app: Application) -> None:
    told: list[str] = []

    async def fails(session: AsyncSession, subject: str) -> None:
        raise RuntimeError(subject)

    app.database.before_commit("one", fails)
    app.database.subscribe("one", told.append)

    async def change() -> None:
        async with app.database.write() as session:
            session.add(ProjectRow(name="Acme", slug="acme", created_at=0))
            notify(session, "one", "a")

    with pytest.raises(RuntimeError, match="a"):
        await change()
    async with app.database.read() as session:
        assert await session.scalar(PROJECTS) == 0
    assert told == []


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

    async def read() -> None:
        async with database.read() as reading:
            assert await reading.scalar(PROJECTS) == 0

    async with database.write() as writing:
        writing.add(ProjectRow(name="Acme", slug="acme", created_at=0))
        await writing.flush()
        await as_another_request(read())
        path = make_url(database_url).database or ""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", other, path, stderr=asyncio.subprocess.PIPE
        )
        assert b"database is locked" in (await process.communicate())[1]
    await database.close()


@pytest.mark.parametrize("value", [{"created_at": 2**63}, {"name": None}, {"slug": "taken"}])
async def test_what_can_never_be_written_is_told_from_a_database_that_is_away(
    app: Application, owner: Tenant, value: dict[str, object]
) -> None:
    await new_tenant(app, "taken")
    with pytest.raises(Exception) as refused:  # noqa: PT011 - drivers and dialects differ in what they raise
        async with app.database.write() as session:
            await session.execute(update(ProjectRow).where(ProjectRow.id == owner.project.id).values(**value))
    assert outage_of(refused.value) is None
    away = Database("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    with pytest.raises(OSError) as gone:  # noqa: PT011 - as above
        async with away.write() as session:
            await session.execute(select(ProjectRow))
    assert outage_of(gone.value) is not None
    await away.close()


@pytest.mark.parametrize("lend", ["sqlite"], indirect=True)
async def test_a_locked_database_is_trouble_that_passes(app: Application) -> None:
    async with app.database.write() as holding:
        await holding.execute(select(ProjectRow))
        impatient = sqlite3.connect(str(app.database.url.database), timeout=0)
        with pytest.raises(sqlite3.OperationalError) as busy:
            impatient.execute("BEGIN IMMEDIATE")
        impatient.close()
    assert outage_of(OperationalError("BEGIN IMMEDIATE", None, busy.value)) is not None


@pytest.mark.parametrize("lend", ["postgres"], indirect=True)
async def test_a_connection_whose_ping_fails_is_replaced(database_url: str) -> None:
    """Even one that is open: while the server ends it, it refuses what is asked before it is closed."""
    database = Database(database_url.replace("postgresql", "postgresql+asyncpg", 1))
    process = text("SELECT pg_backend_pid()")
    async with database.read() as session:
        before = await session.scalar(process)
        driver = (await (await session.connection()).get_raw_connection()).driver_connection
    assert driver is not None
    busy = asyncio.create_task(driver.execute("SELECT pg_sleep(60)"))
    await asyncio.sleep(0)
    async with database.read() as session:
        assert await session.scalar(process) != before
    busy.cancel()
    await asyncio.wait([busy])
    await database.close()


def test_what_the_driver_says_of_a_connection_that_is_just_ended_is_an_outage() -> None:
    error = asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")
    assert outage_of(error) is Outage.DATABASE_AWAY
