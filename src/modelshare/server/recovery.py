"""`modelshare admin reset-password`: the operator's way in for somebody who forgot the password."""

from pathlib import Path

from modelshare.server import migrations
from modelshare.server.accounts import passwords, people
from modelshare.server.db import Database
from modelshare.server.settings import Settings, SettingsError


async def reset_password(settings: Settings, email: str, password: str, *, now: int) -> None:
    """Sets the password and signs the person out everywhere. ApiError says what is wrong with either."""
    people.check_new_password(password, email)
    database = Database(settings.database)
    try:
        if database.is_sqlite and not Path(database.url.database or "").exists():
            raise SettingsError(f"There is no database in {settings.data_dir}. Name the server's folder: --data-dir.")
        await migrations.upgrade(database)
        password_hash = await passwords.hash_password(password)
        async with database.write() as session:
            await people.reset_password(session, email, password_hash, now=now)
    finally:
        await database.close()
