"""The schema's history. `upgrade` brings a database to `HEAD`; one that is there starts without importing Alembic.

Migrations only add, so that processes of the version before go on beside this one. What a migration removes, no process
that is still supported uses: it says so in `unused_since`, and processes that are older than that stop writing
(`docs/decisions/0056-upgrades.md`).
"""

import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from modelshare.server.background import retry
from modelshare.server.db import CHANNEL, Database
from modelshare.server.migrations import queries
from modelshare.server.migrations.rules import Fit, Schema, fit_of
from modelshare.server.migrations.tables import metadata
from modelshare.server.outages import Outage, OutageError, report

log = structlog.get_logger()

HEAD = "0032"
"""The newest revision; a test compares it with the files."""
OLDEST_COMPATIBLE = "0026"
"""The oldest `HEAD` of processes that may use a database at this one: the newest `unused_since`; a test compares."""
SCHEMA_TOPIC = "schema"
"""Notified when the schema was changed; the subject is its revision."""
_LOCK = 0x6D6F64656C  # "model": the advisory lock under which one process migrates and the others wait
_LOCK_TIMEOUT: Final = text("SET LOCAL lock_timeout = '800ms'")
"""Less than PostgreSQL's deadlock_timeout: a migration gives way to requests and is tried again."""
_GAVE_WAY: Final = {"55P03", "40P01"}
"""lock_not_available, deadlock_detected."""


class SchemaTooNewError(Exception):
    """The database was upgraded by a newer modelshare, and does not work with this one."""


class BrokenReferencesError(Exception):
    """A migration would leave rows that refer to nothing; it is undone."""


class DataLossError(Exception):
    """A downgrade would delete data; it is undone."""

    def __init__(self, lost: list[str]) -> None:
        super().__init__(f"This would delete the content of {', '.join(lost)}.")
        self.lost = lost


class UnknownRevisionError(Exception):
    """There is no such revision, or it is newer than the database."""


class SchemaChangedError(OutageError):
    """The schema was changed under a running process, which no longer fits it."""

    outage = Outage.SCHEMA_CHANGED


class SchemaGuard:
    """Refuses writes of this process from the moment that the schema no longer fits it, until it does again.

    Every transaction asks before it commits, so none can slip in between an upgrade and its notification.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._accepted: set[str | None] = {HEAD}
        database.guard_writes(self.check)
        database.subscribe(SCHEMA_TOPIC, self._changed)

    async def check(self, session: AsyncSession) -> None:
        """Raises SchemaChangedError if this process must not write."""
        revision = await queries.revision(session)
        if revision in self._accepted:
            return
        found = Schema(revision, await queries.oldest_compatible(session, revision))
        match fit_of(found, HEAD):
            case Fit.TOO_NEW:
                raise SchemaChangedError(
                    f"This process runs an older version than the database: it knows revision {HEAD}, and the database "
                    f"is at {revision}. Nothing can be changed here until the operator starts the newer version."
                )
            case Fit.OLDER | Fit.EMPTY:
                raise SchemaChangedError(
                    f"This process runs a newer version than the database: it needs revision {HEAD}, and the database "
                    f"is at {revision}. Nothing can be changed here until the operator upgrades the database."
                )
        log.info("the database was upgraded by a newer version; this process keeps serving", revision=revision)
        self._accepted.add(revision)

    async def _changed(self, _: str) -> None:
        """Says at once what the next write would be told."""
        try:
            async with self._database.read() as session:
                await self.check(session)
        except Exception as error:  # noqa: BLE001 - a listener must not raise, and every write asks anyway
            report("this process no longer writes", error)


async def upgrade(database: Database, revision: str = HEAD) -> None:
    """Brings the schema to `revision`, if it is not there. Processes that start at once wait for each other.

    A newer schema that works with this version is left as it is.
    """
    await _migrate(database, _upgrade, revision)


async def downgrade(database: Database, revision: str, *, keep_data: bool = False) -> None:
    """Takes the schema back to `revision` (`base`: nothing is left). `keep_data`: raises DataLossError instead of
    deleting what the older schema has no place for."""
    await _migrate(database, _downgrade, revision, keep_data)


async def schema_of(database: Database) -> Schema:
    """What the database says about itself."""
    async with database.engine.connect() as connection:
        return await connection.run_sync(queries.schema)


async def _migrate(database: Database, work: Callable[..., bool], *arguments: Any) -> None:
    """In one transaction; again while others use the tables. The first argument is the revision."""

    async def attempt() -> Exception | None:
        try:
            async with _transaction(database) as connection:
                if await connection.run_sync(work, *arguments) and not database.is_sqlite:
                    told = {"channel": CHANNEL, "payload": f"{SCHEMA_TOPIC}:{arguments[0]}"}
                    await connection.execute(text("SELECT pg_notify(:channel, :payload)"), told)
        except Exception as error:
            if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _GAVE_WAY:
                raise
            return error
        return None

    error = await retry("migrate the database while its tables are in use", attempt, longest=1.0)
    if error is not None:
        raise error


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
                await connection.execute(_LOCK_TIMEOUT)
                yield connection
            return
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.execute("PRAGMA foreign_keys=OFF")  # has no effect inside a transaction
        try:
            async with connection.begin():
                yield connection
        finally:
            await driver.execute("PRAGMA foreign_keys=ON")


def _upgrade(connection: Connection, revision: str) -> bool:
    """Returns whether it changed something."""
    found = queries.schema(connection)
    if found.revision == revision:
        return False
    match fit_of(found, HEAD):
        case Fit.TOO_NEW:
            raise SchemaTooNewError(
                f"The database is at revision {found.revision}, and this version of modelshare knows {HEAD}. Install "
                "the version that upgraded it, or a newer one."
            )
        case Fit.NEWER:
            log.info("the database was upgraded by a newer version, and works with this one", revision=found.revision)
            return False
    if revision == HEAD and not inspect(connection).has_table("alembic_version"):
        _create(connection)
    else:
        _step(connection, "upgrade", revision)
    queries.note_schema(connection, Schema(revision, OLDEST_COMPATIBLE))
    return True


def _downgrade(connection: Connection, revision: str, keep_data: bool) -> bool:
    if keep_data:
        before = queries.sizes(connection)
        trial = connection.begin_nested()
        _step(connection, "downgrade", revision)
        after = queries.sizes(connection)
        trial.close()  # undone
        if lost := queries.lost(connection, before, after):
            raise DataLossError(lost)
    _step(connection, "downgrade", revision)
    queries.note_schema(connection, Schema(revision, OLDEST_COMPATIBLE))
    return True


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
    try:
        getattr(importlib.import_module("alembic.command"), direction)(config, revision)
    except importlib.import_module("alembic.util").CommandError as error:
        raise UnknownRevisionError(f"There is no way to revision `{revision}` from here.") from error
    if connection.dialect.name == "sqlite" and (broken := connection.execute(text("PRAGMA foreign_key_check")).all()):
        raise BrokenReferencesError(
            f"Rows of these tables would refer to nothing: {sorted({row[0] for row in broken})}."
        )
