"""Queries of files that lie in place."""

import uuid
from collections.abc import Collection

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import any_tenant
from modelshare.server.registry.tables import FileRow, RegisteredFileRow


async def unread(session: AsyncSession, version_id: uuid.UUID) -> list[RegisteredFileRow]:
    """Files that are still to be read, by path."""
    statement = select(RegisteredFileRow).where(RegisteredFileRow.version_id == version_id)
    return list(await session.scalars(statement.order_by(RegisteredFileRow.path)))


async def delete_unread(session: AsyncSession, version_id: uuid.UUID, paths: Collection[str]) -> None:
    this = RegisteredFileRow.version_id == version_id, RegisteredFileRow.path.in_(paths)
    await session.execute(delete(RegisteredFileRow).where(*this))


async def read(session: AsyncSession, version_id: uuid.UUID) -> list[FileRow]:
    """Files of a version that have been read."""
    return list(await session.scalars(select(any_tenant(FileRow)).where(FileRow.version_id == version_id)))
