"""Opens the database of an installation, and prevents using it with the wrong secret.

The database has a fingerprint of the platform's secret, which does not reveal it. With another secret, a process would
sign links and requests that other processes reject, and webhooks that receivers reject.
"""

import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator, Iterator
from typing import Final

from sqlalchemy import Connection, delete, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapped, mapped_column

from modelshare.server import secret
from modelshare.server.db import Database, Table, upsert
from modelshare.server.outages import DRIVER_ERRORS
from modelshare.server.settings import Settings, SettingsError

_PURPOSE: Final = b"modelshare secret fingerprint 1"
_ONLY: Final = 1
UNFINISHED_RESTORE: Final = ".restoring"
"""A folder in the data folder while a backup is restored there."""
ANEW: Final = "`modelshare admin replace-secret`"


class SecretRow(Table):
    """The fingerprint of the platform's secret. There is one row."""

    __tablename__ = "secret"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fingerprint: Mapped[str]


class SchemaRow(Table):
    """Which processes may use the schema. There is one row, written by the upgrade to its revision."""

    __tablename__ = "schema_compatibility"

    revision: Mapped[str] = mapped_column(primary_key=True)
    oldest_compatible: Mapped[str]


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """The database alone. Raises SettingsError if it is unavailable."""
    database = Database(settings.database)
    try:
        with database_errors(database):
            yield database
    finally:
        await database.close()


@contextlib.contextmanager
def database_errors(database: Database) -> Iterator[None]:
    try:
        yield
    except (OSError, DBAPIError, *DRIVER_ERRORS) as error:
        where = database.url.render_as_string(hide_password=True)
        raise SettingsError(
            f"Cannot use the database {where} ({_brief(error)}). Start it, or set `database_url` to another."
        ) from error


async def require_secret(settings: Settings, database: Database) -> None:
    """Raises SettingsError if the secret of existing data is missing, instead of creating a new one."""
    file = secret.path(settings.data_dir)
    if settings.secret is not None or file.exists():
        return
    async with database.engine.connect() as connection:
        in_use = await connection.run_sync(_is_in_use)
    if in_use and not file.exists():  # again: another process may have created it
        raise SettingsError(
            f"{file} is missing, and the database is in use. Restore the file from a backup, or set the setting "
            f"`secret` to its content. If it is lost, {ANEW} starts with a new one: existing download links "
            "stop working, and webhooks get new signing secrets."
        )


def require_finished_restore(settings: Settings) -> None:
    """Raises SettingsError if the data folder holds half a platform."""
    if (settings.data_dir / UNFINISHED_RESTORE).exists():
        raise SettingsError(
            f"A backup was only partly restored into {settings.data_dir}. Run the same `modelshare restore` again."
        )


async def check_secret(settings: Settings, database: Database) -> None:
    """Raises SettingsError if the database was used with another secret. Stores the fingerprint of the first one."""
    own = _fingerprint(settings)
    async with database.write() as session:
        await session.execute(
            upsert(session, SecretRow).values(id=_ONLY, fingerprint=own).on_conflict_do_nothing(index_elements=["id"])
        )
        known = await session.scalar(select(SecretRow.fingerprint))
    if known != own:
        raise SettingsError(
            "The secret does not match this database. All processes on one database need the same: set `secret` "
            "(MODELSHARE_SECRET or MODELSHARE_SECRET_FILE) to it. To change it on purpose, stop all of them and "
            f"run {ANEW} with the new one."
        )


async def fits(settings: Settings, database: Database) -> bool:
    """Whether the database was used with the secret of these settings, or with none yet. Changes nothing."""
    async with database.read() as session:
        known = await session.scalar(select(SecretRow.fingerprint))
    return known in {None, _fingerprint(settings)}


async def replace_secret(settings: Settings, database: Database) -> None:
    """Makes the secret of these settings the only one for the database."""
    async with database.write() as session:
        await session.execute(delete(SecretRow))
        session.add(SecretRow(id=_ONLY, fingerprint=_fingerprint(settings)))


def _fingerprint(settings: Settings) -> str:
    return hmac.digest(settings.signing_secret(), _PURPOSE, hashlib.sha256).hex()


def _is_in_use(connection: Connection) -> bool:
    there = inspect(connection)
    tables = [name for name in ("secret", "projects", "keys", "people") if there.has_table(name)]
    return any(connection.scalar(text(f"SELECT EXISTS (SELECT 1 FROM {name})")) for name in tables)  # noqa: S608 - names of our own


def _brief(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    said = (cause.strerror if isinstance(cause, OSError) else None) or str(cause)
    return said.splitlines()[0].rstrip(".") if said else type(cause).__name__
