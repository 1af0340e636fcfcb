"""What the database knows of the platform's secret: no other one is put in its place unless somebody means it.

The database keeps a fingerprint of the secret, from which nobody learns it. A process that comes with another secret
would sign links and requests that the other processes refuse, and webhooks that their receivers refuse.
"""

import hashlib
import hmac
from typing import Final

from sqlalchemy import Connection, delete, inspect, select, text
from sqlalchemy.orm import Mapped, mapped_column

from modelshare.server import secret
from modelshare.server.db import Database, Table, upsert
from modelshare.server.settings import Settings, SettingsError

_PURPOSE: Final = b"modelshare secret fingerprint 1"
_ONLY: Final = 1
ANEW: Final = "`modelshare admin replace-secret`"


class SecretRow(Table):
    """Which secret the platform has. There is one row."""

    __tablename__ = "secret"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fingerprint: Mapped[str]


async def require_secret(settings: Settings, database: Database) -> None:
    """SettingsError where the secret that belongs to the data is gone: a new one must not take its place unasked."""
    file = secret.path(settings.data_dir)
    if settings.secret is not None or file.exists():
        return
    async with database.engine.connect() as connection:
        in_use = await connection.run_sync(_is_in_use)
    if in_use and not file.exists():  # looked at again: whoever began to use the database meanwhile had made it before
        raise SettingsError(
            f"{file} is missing, and the database is in use. Restore the file from a backup, or set the setting "
            f"`secret` to its content. If it is lost, {ANEW} starts with a new one: existing download links "
            "stop working, and webhooks get new signing secrets."
        )


async def check_secret(settings: Settings, database: Database) -> None:
    """SettingsError where the database was used with another secret; the first one that it sees, it keeps in mind."""
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


async def replace_secret(settings: Settings, database: Database) -> None:
    """From now on the database is used with the secret of these settings, and no other one."""
    async with database.write() as session:
        await session.execute(delete(SecretRow))
        session.add(SecretRow(id=_ONLY, fingerprint=_fingerprint(settings)))


def _fingerprint(settings: Settings) -> str:
    return hmac.digest(settings.signing_secret(), _PURPOSE, hashlib.sha256).hex()


def _is_in_use(connection: Connection) -> bool:
    there = inspect(connection)
    tables = [name for name in ("secret", "projects", "keys", "people") if there.has_table(name)]
    return any(connection.scalar(text(f"SELECT EXISTS (SELECT 1 FROM {name})")) for name in tables)  # noqa: S608 - names of our own
