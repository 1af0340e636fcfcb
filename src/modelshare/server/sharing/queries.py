"""All queries for shares, audiences and recalls; those for the catalog are in `search/`."""

import uuid
from collections.abc import Collection

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from modelshare.server.db import any_tenant, capped_count, upsert
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing.search.cards import CatalogCard
from modelshare.server.sharing.search.queries import select_cards
from modelshare.server.sharing.tables import EVERYBODY, ClaimLinkRow, LastShownRow, RecallRow, ShareProjectRow, ShareRow


async def share(session: AsyncSession, model_id: uuid.UUID) -> ShareRow | None:
    """Lock the model first to change it."""
    return await session.get(ShareRow, model_id, populate_existing=True)


async def share_and_recall(session: AsyncSession, model_id: uuid.UUID) -> tuple[ShareRow | None, RecallRow | None]:
    """Both in one query, refreshed from the database. Lock the model first to change one."""
    statement = (
        select(ShareRow, RecallRow)
        .select_from(any_tenant(ModelRow))
        .outerjoin(ShareRow, ShareRow.model_id == ModelRow.id)
        .outerjoin(RecallRow, RecallRow.model_id == ModelRow.id)
        .where(ModelRow.id == model_id)
    )
    found = (await session.execute(statement.execution_options(populate_existing=True))).one_or_none()
    return (None, None) if found is None else (found[0], found[1])


async def shares(session: AsyncSession, model_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, ShareRow]:
    rows = await session.scalars(select(ShareRow).where(ShareRow.model_id.in_(model_ids)))
    return {row.model_id: row for row in rows}


async def count(session: AsyncSession, limit: int) -> int:
    return await session.scalar(capped_count(select(ShareRow.model_id), limit)) or 0


async def featured(session: AsyncSession, limit: int) -> list[CatalogCard]:
    """Most recently shared first."""
    statement = select_cards().where(ShareRow.featured).order_by(ShareRow.shared_at.desc(), ShareRow.model_id)
    return [CatalogCard(*row) for row in await session.execute(statement.limit(limit))]


async def recall(session: AsyncSession, model_id: uuid.UUID) -> RecallRow | None:
    """Lock the model first to change it."""
    return await session.get(RecallRow, model_id, populate_existing=True)


async def recalls(session: AsyncSession, model_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, RecallRow]:
    rows = await session.scalars(select(RecallRow).where(RecallRow.model_id.in_(model_ids)))
    return {row.model_id: row for row in rows}


async def overdue_recalls(session: AsyncSession, now: int) -> list[uuid.UUID]:
    statement = select(RecallRow.model_id).where(RecallRow.stopped_at.is_(None), RecallRow.deadline <= now)
    return list(await session.scalars(statement.order_by(RecallRow.model_id)))


async def is_shown_to(session: AsyncSession, model_id: uuid.UUID, project_id: str) -> bool:
    """Whether the project is in the audience of a targeted share."""
    return await session.get(any_tenant(ShareProjectRow), (model_id, project_id)) is not None


async def shown_to(session: AsyncSession, model_id: uuid.UUID) -> list[ShareProjectRow]:
    """With their projects, in the order in which they were added."""
    statement = (
        select(any_tenant(ShareProjectRow))
        .where(ShareProjectRow.model_id == model_id)
        .options(joinedload(ShareProjectRow.project))
        .order_by(ShareProjectRow.added_at, ShareProjectRow.project_id)
    )
    return list(await session.scalars(statement))


async def invited(session: AsyncSession, model_id: uuid.UUID, project_ids: Collection[str]) -> set[str]:
    """Those of the projects that are in the audience of a targeted share."""
    statement = select(any_tenant(ShareProjectRow).project_id).where(ShareProjectRow.model_id == model_id)
    return set(await session.scalars(statement.where(ShareProjectRow.project_id.in_(project_ids))))


async def last_shown(
    session: AsyncSession, model_id: uuid.UUID, project_ids: Collection[str]
) -> dict[str, LastShownRow]:
    """The state of the model when it was last visible to these projects and to everyone, by project."""
    statement = select(LastShownRow).where(
        LastShownRow.model_id == model_id, LastShownRow.project_id.in_([*project_ids, EVERYBODY])
    )
    rows = await session.scalars(statement.execution_options(populate_existing=True))
    return {row.project_id: row for row in rows}


async def links(session: AsyncSession, model_id: uuid.UUID) -> list[ClaimLinkRow]:
    """Newest first."""
    statement = select(ClaimLinkRow).where(ClaimLinkRow.model_id == model_id).order_by(ClaimLinkRow.id.desc())
    return list(await session.scalars(statement))


async def link(session: AsyncSession, model_id: uuid.UUID, link_id: uuid.UUID) -> ClaimLinkRow | None:
    statement = select(ClaimLinkRow).where(ClaimLinkRow.model_id == model_id, ClaimLinkRow.id == link_id)
    return await session.scalar(statement)


async def link_by_hash(session: AsyncSession, token_hash: str) -> ClaimLinkRow | None:
    """Refreshed from the database."""
    statement = select(ClaimLinkRow).where(ClaimLinkRow.hash == token_hash)
    return await session.scalar(statement.execution_options(populate_existing=True))


async def keep_last_shown(
    session: AsyncSession, model_id: uuid.UUID, project_ids: Collection[str], **shown: object
) -> None:
    rows = [{"model_id": model_id, "project_id": project_id, **shown} for project_id in project_ids]
    statement = upsert(session, LastShownRow).values(rows)
    await session.execute(statement.on_conflict_do_update(index_elements=["model_id", "project_id"], set_=shown))


async def forget_last_shown(session: AsyncSession, model_id: uuid.UUID) -> None:
    await session.execute(delete(any_tenant(LastShownRow)).where(LastShownRow.model_id == model_id))
