"""What `modelshare admin` does on the server's machine: ways back in for the operator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from modelshare.server import installation, migrations
from modelshare.server.accounts import passwords, people
from modelshare.server.clock import DatabaseClock
from modelshare.server.db import Database
from modelshare.server.registry.storages import credentials
from modelshare.server.sealing import Keyring
from modelshare.server.settings import Settings, SettingsError


async def reset_password(settings: Settings, email: str, password: str) -> None:
    """Sets the password and signs the person out everywhere. ApiError says what is wrong with either."""
    people.check_new_password(password, email)
    async with _existing(settings) as database:
        password_hash = await passwords.hash_password(password)
        clock = DatabaseClock(database)
        await clock.check()
        async with database.write() as session:
            await people.reset_password(session, email, password_hash, now=int(clock()))


async def replace_secret(settings: Settings) -> None:
    """Has the database be used with the secret of these settings, made where it is lost. Nobody may use it now."""
    async with _existing(settings) as database:
        await installation.replace_secret(settings, database)


async def rotate_secrets(settings: Settings) -> int:
    """Encrypts all secrets in the database with the newest key, created where the settings give none; how many."""
    keyring = Keyring(settings)
    async with _existing(settings) as database:
        keyring.add_key()
        async with database.write() as session:
            count = await credentials.seal_again(session, keyring)
    keyring.forget_old()
    return count


@asynccontextmanager
async def _existing(settings: Settings) -> AsyncIterator[Database]:
    """The database, at the newest schema. SettingsError where there is none."""
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
