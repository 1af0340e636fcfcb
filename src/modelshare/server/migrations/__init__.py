"""The schema's history. `upgrade` brings a database to `HEAD`; one that is there starts without importing Alembic."""

import importlib
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from modelshare.server.db import Database
from modelshare.server.migrations.tables import metadata

HEAD = "0002"
"""The newest revision; a test compares it with the files."""
_LOCK = 0x6D6F64656C  # "model": the advisory lock under which one process migrates and the others wait


class SchemaTooNewError(Exception):
    """The database was made by a newer modelshare."""


async def upgrade(database: Database, revision: str = HEAD) -> None:
    """Brings the schema to `revision`, if it is not there. Processes that start at once wait for each other."""
    async with database.engine.begin() as connection:
        if not database.is_sqlite:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        await connection.run_sync(_upgrade, revision)


async def downgrade(database: Database, revision: str) -> None:
    """Takes the schema back to `revision` (`base`: nothing is left)."""
    async with database.engine.begin() as connection:
        await connection.run_sync(lambda sync: _alembic().downgrade(_config(sync), revision))


def current(connection: Connection) -> str | None:
    """The revision a database is at, None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


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
        _alembic().upgrade(_config(connection), revision)


def _create(connection: Connection) -> None:
    """Gives a new database the tables as they are: what all migrations make, but quickly. A test compares."""
    metadata.create_all(connection)
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


def _alembic() -> Any:
    # Imported late: it costs a third of a second, and only a change of schema needs it.
    return importlib.import_module("alembic.command")


def _config(connection: Connection) -> Any:
    config = importlib.import_module("alembic.config").Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config
