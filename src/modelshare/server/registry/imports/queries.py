"""All queries for imports."""

import uuid
from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import any_tenant, for_update, scoped_to
from modelshare.server.registry.imports.tables import ImportRow
from modelshare.server.registry.tables import VersionRow
from modelshare.wire.importing import ImportState


class VersionOutcome(NamedTuple):
    """The status of an import's version."""

    status: str
    reason: str | None


async def any_import(session: AsyncSession, import_id: uuid.UUID, *, lock: bool = False) -> ImportRow | None:
    """Of whatever project."""
    statement = select(any_tenant(ImportRow)).where(ImportRow.id == import_id)
    return await session.scalar(for_update(statement) if lock else statement)


async def own(session: AsyncSession, project_id: str, import_id: uuid.UUID, *, lock: bool = False) -> ImportRow | None:
    statement = scoped_to(ImportRow, project_id).where(ImportRow.id == import_id)
    return await session.scalar(for_update(statement) if lock else statement)


async def page(session: AsyncSession, project_id: str, limit: int, after: uuid.UUID | None) -> list[ImportRow]:
    """Newest first."""
    statement = scoped_to(ImportRow, project_id).order_by(ImportRow.id.desc()).limit(limit)
    return list(await session.scalars(statement.where(ImportRow.id < after) if after else statement))


async def in_progress(session: AsyncSession, project_id: str) -> list[ImportRow]:
    statement = scoped_to(ImportRow, project_id).where(ImportRow.state == ImportState.IMPORTING)
    return list(await session.scalars(statement))


async def versions(session: AsyncSession, version_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, VersionOutcome]:
    statement = select(VersionRow.id, VersionRow.status, VersionRow.status_reason).where(VersionRow.id.in_(version_ids))
    return {row.id: VersionOutcome(row.status, row.status_reason) for row in await session.execute(statement)}


async def report(session: AsyncSession, import_id: uuid.UUID, bytes_done: int, *, now: int) -> bool:
    """Stores the progress; False if the import has ended."""
    is_running = ImportRow.id == import_id, ImportRow.state == ImportState.IMPORTING
    values = {"bytes_done": bytes_done, "progressed_at": now, "reason": None}
    statement = update(any_tenant(ImportRow)).where(*is_running).values(**values).returning(ImportRow.id)
    return bool((await session.scalars(statement)).first())


async def note(session: AsyncSession, import_id: uuid.UUID, reason: str) -> None:
    """What the import waits for."""
    statement = update(any_tenant(ImportRow)).where(ImportRow.id == import_id)
    await session.execute(statement.where(ImportRow.state == ImportState.IMPORTING).values(reason=reason))


async def with_tokens(session: AsyncSession) -> list[ImportRow]:
    """Of all projects, locked."""
    statement = select(any_tenant(ImportRow)).where(ImportRow.token.is_not(None))
    return list(await session.scalars(for_update(statement.order_by(ImportRow.id))))
