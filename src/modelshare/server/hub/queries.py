"""All queries for endpoints' tokens and for drafts."""

import uuid

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from modelshare.server.db import any_tenant, scoped_to, upsert
from modelshare.server.endpoints.tables import EndpointRow
from modelshare.server.hub.tables import DraftRow, EndpointTokenRow
from modelshare.server.registry.tables import key_of


async def token(session: AsyncSession, token_hash: str) -> EndpointTokenRow | None:
    """With its endpoint and that endpoint's project."""
    statement = select(EndpointTokenRow).where(EndpointTokenRow.token_hash == token_hash)
    return await session.scalar(
        statement.options(joinedload(EndpointTokenRow.endpoint).joinedload(EndpointRow.project))
    )


async def set_token(session: AsyncSession, endpoint_id: uuid.UUID, token_hash: str, actor: str, now: int) -> None:
    """In place of the endpoint's earlier one, if there is one."""
    values = {"token_hash": token_hash, "created_at": now, "created_by": actor}
    statement = upsert(session, EndpointTokenRow).values(endpoint_id=endpoint_id, **values)
    await session.execute(statement.on_conflict_do_update(index_elements=[EndpointTokenRow.endpoint_id], set_=values))


async def delete_token(session: AsyncSession, endpoint_id: uuid.UUID) -> bool:
    """Whether there was one."""
    there = delete(EndpointTokenRow).where(EndpointTokenRow.endpoint_id == endpoint_id)
    return (await session.scalars(there.returning(EndpointTokenRow.endpoint_id))).first() is not None


async def draft(session: AsyncSession, project_id: str, name: str, branch: str) -> DraftRow | None:
    statement = scoped_to(DraftRow, project_id).where(DraftRow.name_key == key_of(name), DraftRow.branch == branch)
    return await session.scalar(statement.execution_options(populate_existing=True))


async def drafts(session: AsyncSession, project_id: str, name: str) -> list[DraftRow]:
    """Of one model."""
    statement = scoped_to(DraftRow, project_id).where(DraftRow.name_key == key_of(name))
    return list(await session.scalars(statement.order_by(DraftRow.branch)))


async def delete_expired_drafts(session: AsyncSession, now: int) -> None:
    await session.execute(delete(any_tenant(DraftRow)).where(DraftRow.expires_at <= now))
