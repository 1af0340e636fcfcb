"""Every select on the storages of projects."""

import uuid

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import any_tenant, for_update, scoped_to
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.storage.stores import PLATFORM


async def current(session: AsyncSession, project_id: str, *, lock: bool = False) -> StorageRow | None:
    """The storage that new pushes of this project go to; None: the platform's."""
    is_current = StorageRow.writable, StorageRow.replaced_at.is_(None)
    statement = scoped_to(StorageRow, project_id).where(*is_current)
    return await session.scalar(for_update(statement) if lock else statement)


async def current_id(session: AsyncSession, project_id: str) -> str:
    """As rows name it."""
    row = await current(session, project_id)
    return row.id.hex if row is not None else PLATFORM


async def storage(session: AsyncSession, storage_id: uuid.UUID) -> StorageRow | None:
    """Of whatever project."""
    return await session.scalar(select(any_tenant(StorageRow)).where(StorageRow.id == storage_id))
