"""Access keys of buckets, encrypted in the rows of their storages."""

import json

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import notify
from modelshare.server.registry.storages import queries
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.sealing import Keyring

TOPIC = "storages"
"""Notification that a storage changed; the subject is its id as rows name it."""


def seal(keyring: Keyring, row: StorageRow, access_key_id: str, secret_access_key: str) -> None:
    """Gives the row keys. It has its id and project. Raises SealedError."""
    keys = {"access_key_id": access_key_id, "secret_access_key": secret_access_key}
    row.credentials = keyring.seal(json.dumps(keys), _about(row))


def unseal(keyring: Keyring, row: StorageRow) -> dict[str, str] | None:
    """None where a role is assumed. Raises SealedError."""
    if row.credentials is None:
        return None
    keys: dict[str, str] = json.loads(keyring.open(row.credentials, _about(row)))
    return keys


async def seal_again(session: AsyncSession, keyring: Keyring) -> int:
    """Encrypts all keys with the newest sealing key; returns how many. Raises SealedError."""
    rows = await queries.with_credentials(session)
    for row in rows:
        if (keys := unseal(keyring, row)) is not None:
            seal(keyring, row, **keys)
            notify(session, TOPIC, row.id.hex)
    return len(rows)


async def forget_unused(session: AsyncSession, project_id: str) -> None:
    """Deletes storages that were replaced, with their keys, once nothing is stored there. The project is locked."""
    await session.flush()
    for row in await queries.unused(session, project_id):
        await session.delete(row)
        notify(session, TOPIC, row.id.hex)


def _about(row: StorageRow) -> tuple[str, ...]:
    """What keys are sealed for: they cannot be decrypted in another row, nor after the row was pointed elsewhere."""
    return ("storage credentials", row.project_id, row.id.hex, row.url, row.endpoint)
