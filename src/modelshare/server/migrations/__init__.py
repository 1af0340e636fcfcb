"""The schema's history. `upgrade` brings a database to `HEAD`; one that is there starts without importing Alembic."""

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from modelshare.server.db import Database
from modelshare.server.migrations.tables import metadata

HEAD = "0029"
"""The newest revision; a test compares it with the files."""
_LOCK = 0x6D6F64656C  # "model": the advisory lock under which one process migrates and the others wait


class SchemaTooNewError(Exception):
    """The database was made by a newer modelshare."""


class BrokenReferencesError(Exception):
    """A migration would leave rows that refer to nothing; it is undone."""


async def upgrade(database: Database, revision: str = HEAD) -> None:
    """Brings the schema to `revision`, if it is not there. Processes that start at once wait for each other."""
    async with _transaction(database) as connection:
        await connection.run_sync(_upgrade, revision)


async def downgrade(database: Database, revision: str) -> None:
    """Takes the schema back to `revision` (`base`: nothing is left)."""
    async with _transaction(database) as connection:
        await connection.run_sync(_step, "downgrade", revision)


def current(connection: Connection) -> str | None:
    """The revision a database is at, None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


@asynccontextmanager
async def _transaction(database: Database) -> AsyncIterator[AsyncConnection]:
    """One for a whole migration, alone with the schema.

    SQLite alters some tables by recreating them, and dropping the old one would delete rows that refer to it. So
    foreign keys are disabled meanwhile, and checked at the end (https://www.sqlite.org/lang_altertable.html#otheralter).
    """
    async with database.engine.connect() as connection:
        if not database.is_sqlite:
            async with connection.begin():
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
                yield connection
            return
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.execute("PRAGMA foreign_keys=OFF")  # has no effect inside a transaction
        try:
            async with connection.begin():
                yield connection
        finally:
            await driver.execute("PRAGMA foreign_keys=ON")


def _upgrade(connection: Connection, revision: str) -> None:
    at = current(connection)
    if at == revision:
        return
    if at is not None and at > HEAD:
        raise SchemaTooNewError(
            f"The database is at revision {at}, and this modelshare knows {HEAD}. Install the newer modelshare again."
        )
    if revision == HEAD and not inspect(connection).has_table("alembic_version"):
        _create(connection)
    else:
        _step(connection, "upgrade", revision)


def _create(connection: Connection) -> None:
    """Gives a new database the tables as they are: what all migrations make, but quickly. A test compares."""
    metadata.create_all(connection)
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


def _step(connection: Connection, direction: str, revision: str) -> None:
    """Has Alembic go up or down to `revision`."""
    # Imported late: it costs a third of a second, and only a change of schema needs it.
    config = importlib.import_module("alembic.config").Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    getattr(importlib.import_module("alembic.command"), direction)(config, revision)
    if connection.dialect.name == "sqlite" and (broken := connection.execute(text("PRAGMA foreign_key_check")).all()):
        raise BrokenReferencesError(
            f"Rows of these tables would refer to nothing: {sorted({row[0] for row in broken})}."
        )
