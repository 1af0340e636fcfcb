"""All queries for moves."""

import uuid
from collections.abc import Sequence

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import any_tenant, for_update, scoped_to
from modelshare.server.registry.moves.tables import MoveFileRow, MoveRow
from modelshare.server.registry.tables import FileRow, ModelRow, VersionRow
from modelshare.wire.models import ModelStatus
from modelshare.wire.storage import MoveState


async def move(session: AsyncSession, move_id: uuid.UUID, *, lock: bool = False) -> MoveRow | None:
    """Of whatever project."""
    statement = select(any_tenant(MoveRow)).where(MoveRow.id == move_id)
    return await session.scalar(for_update(statement) if lock else statement)


async def own(session: AsyncSession, project_id: str, move_id: uuid.UUID) -> MoveRow | None:
    return await session.scalar(for_update(scoped_to(MoveRow, project_id).where(MoveRow.id == move_id)))


async def page(session: AsyncSession, project_id: str, limit: int, after: uuid.UUID | None) -> list[MoveRow]:
    """Newest first."""
    statement = scoped_to(MoveRow, project_id).order_by(MoveRow.id.desc()).limit(limit)
    return list(await session.scalars(statement.where(MoveRow.id < after) if after else statement))


async def in_progress(session: AsyncSession, version_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, MoveRow]:
    """By version."""
    is_one = MoveRow.state == MoveState.MOVING, MoveRow.version_id.in_(version_ids)
    rows = await session.scalars(select(any_tenant(MoveRow)).where(*is_one))
    return {row.version_id: row for row in rows if row.version_id is not None}


async def movable(
    session: AsyncSession, project_id: str, storage: str, model_id: uuid.UUID | None, version: str | None
) -> list[tuple[VersionRow, ModelRow, int]]:
    """Versions of the project of which something is stored elsewhere, oldest first, and the bytes of that."""
    stored = (
        select(FileRow.version_id, FileRow.sha256, FileRow.size)
        .where(FileRow.project_id == project_id, FileRow.storage != storage)
        .distinct()
        .subquery()
    )
    elsewhere = select(stored.c.version_id, func.sum(stored.c.size).label("size")).group_by(stored.c.version_id)
    sizes = elsewhere.subquery()
    statement = (
        select(VersionRow, any_tenant(ModelRow), sizes.c.size)
        .join(ModelRow, ModelRow.id == VersionRow.model_id)
        .join(sizes, sizes.c.version_id == VersionRow.id)
        .where(ModelRow.project_id == project_id, VersionRow.status.in_((ModelStatus.READY, ModelStatus.FAILED)))
        .order_by(VersionRow.id)
    )
    if model_id is not None:
        statement = statement.where(ModelRow.id == model_id)
    if version is not None:
        statement = statement.where(VersionRow.version == version)
    return [(each, model, int(size)) for each, model, size in await session.execute(statement)]


async def copies(session: AsyncSession, move_id: uuid.UUID) -> dict[str, MoveFileRow]:
    """By digest."""
    rows = await session.scalars(select(MoveFileRow).where(MoveFileRow.move_id == move_id))
    return {row.sha256: row for row in rows}


async def store_copy(session: AsyncSession, copy: MoveFileRow) -> None:
    await session.merge(copy)


async def report(session: AsyncSession, move_id: uuid.UUID, bytes_done: int) -> bool:
    """Stores the progress; False if the move has ended."""
    statement = update(any_tenant(MoveRow)).where(MoveRow.id == move_id, MoveRow.state == MoveState.MOVING)
    return bool((await session.scalars(statement.values(bytes_done=bytes_done).returning(MoveRow.id))).first())


async def note(session: AsyncSession, move_id: uuid.UUID, reason: str | None) -> None:
    """What the move waits for."""
    statement = update(any_tenant(MoveRow)).where(MoveRow.id == move_id, MoveRow.state == MoveState.MOVING)
    await session.execute(statement.values(reason=reason))


async def delete_copies(session: AsyncSession, move_id: uuid.UUID) -> None:
    await session.execute(delete(MoveFileRow).where(MoveFileRow.move_id == move_id))
