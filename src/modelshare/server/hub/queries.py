"""All queries for endpoints' tokens and for drafts."""

import uuid

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from modelshare.server.db import any_tenant, scoped_to, upsert
from modelshare.server.endpoints.tables import EndpointRow
from modelshare.server.hub.tables import DraftRow, EndpointTokenRow, XorbRow
from modelshare.server.storage.stores import PLATFORM


async def token(session: AsyncSession, token_hash: str) -> EndpointTokenRow | None:
    """With its endpoint and that endpoint's project."""
    statement = select(EndpointTokenRow).where(EndpointTokenRow.token_hash == token_hash)
    return await session.scalar(
        statement.options(joinedload(EndpointTokenRow.endpoint).joinedload(EndpointRow.project))
    )


async def set_token(session: AsyncSession, endpoint_id: uuid.UUID, token_hash: str, actor: str, now: int) -> None:
    """Replaces the endpoint's earlier token."""
    values = {"token_hash": token_hash, "created_at": now, "created_by": actor}
    statement = upsert(session, EndpointTokenRow).values(endpoint_id=endpoint_id, **values)
    await session.execute(statement.on_conflict_do_update(index_elements=[EndpointTokenRow.endpoint_id], set_=values))


async def delete_token(session: AsyncSession, endpoint_id: uuid.UUID) -> bool:
    """Returns whether there was one."""
    there = delete(EndpointTokenRow).where(EndpointTokenRow.endpoint_id == endpoint_id)
    return (await session.scalars(there.returning(EndpointTokenRow.endpoint_id))).first() is not None


async def draft(session: AsyncSession, project_id: str, name_key: str, branch: str) -> DraftRow | None:
    statement = scoped_to(DraftRow, project_id).where(DraftRow.name_key == name_key, DraftRow.branch == branch)
    return await session.scalar(statement.execution_options(populate_existing=True))


async def drafts(session: AsyncSession, project_id: str, name_key: str) -> list[DraftRow]:
    """Of one model."""
    statement = scoped_to(DraftRow, project_id).where(DraftRow.name_key == name_key)
    return list(await session.scalars(statement.order_by(DraftRow.branch)))


async def delete_expired_drafts(session: AsyncSession, now: int) -> None:
    await session.execute(delete(any_tenant(DraftRow)).where(DraftRow.expires_at <= now))


async def xorb(session: AsyncSession, project_id: str, name_key: str, generation: str, name: str) -> XorbRow | None:
    statement = scoped_to(XorbRow, project_id).where(XorbRow.name_key == name_key, XorbRow.generation == generation)
    return await session.scalar(statement.where(XorbRow.xorb == name))


async def add_xorb(session: AsyncSession, row: XorbRow) -> bool:
    """False where another request added it first."""
    values = {column.key: getattr(row, column.key) for column in XorbRow.__table__.columns}
    statement = upsert(session, XorbRow).values(values).on_conflict_do_nothing().returning(XorbRow.id)
    return (await session.scalars(statement)).first() is not None


async def set_stored(session: AsyncSession, xorb_id: uuid.UUID) -> None:
    await session.execute(update(any_tenant(XorbRow)).where(XorbRow.id == xorb_id).values(is_stored=True))


async def xorb_bytes(session: AsyncSession, project_id: str) -> int:
    """On the platform's storage."""
    of_project = select(func.sum(XorbRow.size)).where(XorbRow.project_id == project_id)
    return int(await session.scalar(of_project.where(XorbRow.storage == PLATFORM)) or 0)


async def expired_xorbs(session: AsyncSession, now: int, limit: int) -> list[XorbRow]:
    """Of all projects."""
    statement = select(any_tenant(XorbRow)).where(XorbRow.expires_at <= now)
    return list(await session.scalars(statement.order_by(XorbRow.id).limit(limit)))


async def delete_xorb(session: AsyncSession, xorb_id: uuid.UUID) -> None:
    await session.execute(delete(any_tenant(XorbRow)).where(XorbRow.id == xorb_id))
