"""Recovery on the server's machine: `modelshare admin` and `modelshare secrets`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from modelshare.server import installation, migrations
from modelshare.server.accounts import passwords, people
from modelshare.server.clock import DatabaseClock
from modelshare.server.db import Database
from modelshare.server.registry.imports import service as imports
from modelshare.server.registry.storages import credentials
from modelshare.server.retention import sweep
from modelshare.server.sealing import Keyring
from modelshare.server.settings import Settings, SettingsError


async def reset_password(settings: Settings, email: str, password: str) -> None:
    """Sets the password and signs the person out everywhere. Raises ApiError."""
    people.check_new_password(password, email)
    async with _existing(settings) as database:
        password_hash = await passwords.hash_password(password)
        clock = DatabaseClock(database)
        await clock.check()
        async with database.write() as session:
            await people.reset_password(session, email, password_hash, now=int(clock()))


async def replace_secret(settings: Settings) -> None:
    """Binds the database to the secret of these settings, generated if it is lost. The server must be stopped."""
    async with _existing(settings) as database:
        await installation.replace_secret(settings, database)


async def rotate_secrets(settings: Settings) -> int:
    """Encrypts all secrets in the database with the newest key and returns how many.

    The key is generated if the settings give none.
    """
    keyring = Keyring(settings)
    async with _existing(settings) as database:
        keyring.add_key()
        async with database.write() as session:
            count = await credentials.seal_again(session, keyring) + await imports.seal_again(session, keyring)
    keyring.forget_old()
    return count


async def export_audit(settings: Settings, file: Path, *, before: int) -> int:
    """Writes the audit log from before this time to a new file; returns the number of entries. Raises OSError."""
    async with _existing(settings) as database:
        return await sweep.export_audit(database, file, before=before)


@asynccontextmanager
async def _existing(settings: Settings) -> AsyncIterator[Database]:
    """The database, upgraded to the newest schema. Raises SettingsError if there is none."""
    database = Database(settings.database)
    try:
        if database.is_sqlite and not Path(database.url.database or "").exists():
            raise SettingsError(
                f"There is no database in {settings.data_dir}. Set --data-dir to the server's data folder."
            )
        await migrations.upgrade(database)
        yield database
    finally:
        await database.close()
