"""Prevents using a database with the wrong secret.

The database has a fingerprint of the platform's secret, which does not reveal it. With another secret, a process would
sign links and requests that other processes reject, and webhooks that receivers reject.
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
    """The fingerprint of the platform's secret. There is one row."""

    __tablename__ = "secret"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fingerprint: Mapped[str]


async def require_secret(settings: Settings, database: Database) -> None:
    """Raises SettingsError if the secret of existing data is missing, instead of creating a new one."""
    file = secret.path(settings.data_dir)
    if settings.secret is not None or file.exists():
        return
    async with database.engine.connect() as connection:
        in_use = await connection.run_sync(_is_in_use)
    if in_use and not file.exists():  # again, since another process may have created it meanwhile
