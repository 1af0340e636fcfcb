"""Every select on projects and keys."""

import uuid
from collections.abc import Collection, Mapping

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from modelshare.server.accounts.tables import KeyRow, KeyValueRow, ProjectRow
from modelshare.server.db import locked, owned


async def key_value(session: AsyncSession, value_hash: str) -> KeyValueRow | None:
    """A value with its key and project."""
    return next(iter(await key_values(session, [value_hash])), None)


async def key_values(session: AsyncSession, hashes: Collection[str]) -> list[KeyValueRow]:
    """Values with their keys and projects."""
    statement = select(KeyValueRow).where(KeyValueRow.hash.in_(hashes))
    return list(await session.scalars(statement.options(joinedload(KeyValueRow.key).joinedload(KeyRow.project))))


async def values_of(session: AsyncSession, key_id: uuid.UUID) -> list[KeyValueRow]:
    return list(await session.scalars(select(KeyValueRow).where(KeyValueRow.key_id == key_id)))


async def keys(session: AsyncSession, project_id: str, limit: int, after: uuid.UUID | None) -> list[KeyRow]:
    """Newest first."""
    statement = owned(KeyRow, project_id).order_by(KeyRow.id.desc()).limit(limit)
    return list(await session.scalars(statement.where(KeyRow.id < after) if after else statement))


async def lock_key(session: AsyncSession, project_id: str, key_id: uuid.UUID) -> KeyRow | None:
    """Locked, so that of two who rotate it at once the second finds the value of the first."""
    return await session.scalar(locked(owned(KeyRow, project_id).where(KeyRow.id == key_id)))


async def set_last_used(session: AsyncSession, used: Mapping[uuid.UUID, int]) -> None:
    """In one order for all processes, so that two that write at once never wait for each other."""
    await session.execute(update(KeyRow), [{"id": key_id, "last_used_at": used[key_id]} for key_id in sorted(used)])


async def project(session: AsyncSession, project_id: str) -> ProjectRow | None:
    return await session.get(ProjectRow, project_id)


async def projects_named(session: AsyncSession, names: Collection[str]) -> list[ProjectRow]:
    """Those whose slug or id is among `names`."""
    statement = select(ProjectRow).where(ProjectRow.slug.in_(names) | ProjectRow.id.in_(names))
    return list(await session.scalars(statement))


async def projects(session: AsyncSession, limit: int, after: tuple[int, str] | None) -> list[ProjectRow]:
    """Oldest first."""
    statement = select(ProjectRow).order_by(ProjectRow.created_at, ProjectRow.id).limit(limit)
    if after:
        created_at, project_id = after
        statement = statement.where(
            (ProjectRow.created_at > created_at)
            | ((ProjectRow.created_at == created_at) & (ProjectRow.id > project_id))
        )
    return list(await session.scalars(statement))


async def has_platform_key(session: AsyncSession) -> bool:
    return await session.scalar(select(KeyRow.id).where(KeyRow.project_id.is_(None)).limit(1)) is not None
