"""Queries for requests to delete weights."""

import uuid
from collections.abc import Collection

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, union
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from modelshare.server.db import any_tenant, for_update
from modelshare.server.fleet.tables import AgentRow, DeploymentRow, WeightDeletionRow
from modelshare.server.registry.tables import VersionRow


def _unconfirmed(agent_ids: Collection[uuid.UUID]) -> Select[WeightDeletionRow]:
    return select(any_tenant(WeightDeletionRow)).where(
        WeightDeletionRow.agent_id.in_(agent_ids), WeightDeletionRow.confirmed_at.is_(None)
    )


async def lock_unconfirmed_deletions(
    session: AsyncSession, agent_ids: Collection[uuid.UUID]
) -> list[WeightDeletionRow]:
    """Unconfirmed deletions of these agents, locked in the order of their ids."""
    return list(await session.scalars(for_update(_unconfirmed(agent_ids).order_by(WeightDeletionRow.deployment_id))))


async def unconfirmed_deletions(session: AsyncSession, agent_id: uuid.UUID) -> list[uuid.UUID]:
    """Ids of deployments."""
    return list(await session.scalars(_unconfirmed([agent_id]).with_only_columns(WeightDeletionRow.deployment_id)))


async def weight_deletion(
    session: AsyncSession, model_id: uuid.UUID, deployment_id: uuid.UUID
) -> WeightDeletionRow | None:
    """A request to delete weights of this model, locked."""
    statement = select(any_tenant(WeightDeletionRow)).where(
        WeightDeletionRow.model_id == model_id, WeightDeletionRow.deployment_id == deployment_id
    )
    found: WeightDeletionRow | None = await session.scalar(for_update(statement))
    return found


def _is_pending() -> ColumnElement[bool]:
    return and_(WeightDeletionRow.confirmed_at.is_(None), WeightDeletionRow.closed_at.is_(None))


def _not_of(owner_id: str, project_id: InstrumentedAttribute[str | None]) -> ColumnElement[bool]:
    """Agents of other projects and of the platform."""
    return or_(project_id.is_(None), project_id != owner_id)


async def weight_deletions(
    session: AsyncSession, model_id: uuid.UUID, owner_id: str, since: int | None
) -> list[WeightDeletionRow]:
    """Requests to agents of others to delete weights, newest first: all since `since`, and unconfirmed older ones. With
    None, only unconfirmed ones.
    """
    statement = select(any_tenant(WeightDeletionRow)).where(
        WeightDeletionRow.model_id == model_id, _not_of(owner_id, WeightDeletionRow.project_id)
    )
    unconfirmed = _is_pending()
    statement = statement.where(unconfirmed if since is None else or_(WeightDeletionRow.asked_at >= since, unconfirmed))
    return list(
        await session.scalars(statement.order_by(WeightDeletionRow.asked_at.desc(), WeightDeletionRow.deployment_id))
    )


async def machines_holding(session: AsyncSession, model_id: uuid.UUID, owner_id: str) -> int:
    """The number of agents of others that have weights of the model, or have not confirmed that they deleted them. This
    includes removed agents until the owner closes the request.
    """
    hold = (
        select(DeploymentRow.agent_id)
        .join(DeploymentRow.agent)
        .join(DeploymentRow.version)
        .where(VersionRow.model_id == model_id, _not_of(owner_id, AgentRow.project_id))
    )
    told = select(any_tenant(WeightDeletionRow).agent_id).where(
        WeightDeletionRow.model_id == model_id,
        _not_of(owner_id, WeightDeletionRow.project_id),
        _is_pending(),
    )
    return await session.scalar(select(func.count()).select_from(union(hold, told).subquery())) or 0
