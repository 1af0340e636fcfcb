"""Queries for join keys, agents and deployments."""

import contextlib
import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping
from operator import itemgetter
from typing import TypeVar

from sqlalchemy import ColumnElement, Select, and_, delete, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from modelshare.server.db import any_tenant, capped_count, for_key_share, for_update, scoped_to, upsert
from modelshare.server.endpoints.tables import EndpointRow
from modelshare.server.fleet.rules import Content
from modelshare.server.fleet.tables import (
    AgentLinkRow,
    AgentRow,
    DeploymentRow,
    JoinKeyRow,
    ServingRow,
)
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.wire.agents import AgentState, Phase
from modelshare.wire.endpoints import EndpointProgress, EndpointStatus

Row = TypeVar("Row", JoinKeyRow, AgentRow)


def _of(table: type[Row], project_id: str | None) -> Select[Row]:
    """A project's rows, or with None the platform's."""
    return select(table).where(table.project_id.is_(None)) if project_id is None else scoped_to(table, project_id)


async def join_key_by_hash(session: AsyncSession, value_hash: str) -> JoinKeyRow | None:
    return await session.scalar(select(any_tenant(JoinKeyRow)).where(JoinKeyRow.hash == value_hash))


async def join_key(session: AsyncSession, project_id: str | None, key_id: uuid.UUID) -> JoinKeyRow | None:
    return await session.scalar(_of(JoinKeyRow, project_id).where(JoinKeyRow.id == key_id))


async def join_keys(
    session: AsyncSession, project_id: str | None, limit: int, after: uuid.UUID | None
) -> list[JoinKeyRow]:
    """Newest first."""
    statement = _of(JoinKeyRow, project_id).order_by(JoinKeyRow.id.desc()).limit(limit)
    return list(await session.scalars(statement.where(JoinKeyRow.id < after) if after else statement))


async def agent_by_token(session: AsyncSession, token_hash: str) -> AgentRow | None:
    """The agent with this token, unless it was removed."""
    statement = select(any_tenant(AgentRow)).where(
        AgentRow.token_hash == token_hash, AgentRow.state != AgentState.REMOVED
    )
    return await session.scalar(statement)


async def agent_that_had(session: AsyncSession, token_hash: str) -> AgentRow | None:
    """The agent with this token, even if it was removed."""
    return await session.scalar(select(any_tenant(AgentRow)).where(AgentRow.token_hash == token_hash))


async def agent(session: AsyncSession, agent_id: uuid.UUID) -> AgentRow | None:
    return await session.get(any_tenant(AgentRow), agent_id)


async def lock_agent(session: AsyncSession, agent_id: uuid.UUID) -> AgentRow | None:
    return await session.scalar(for_update(select(any_tenant(AgentRow)).where(AgentRow.id == agent_id)))


async def own_agent(
    session: AsyncSession, project_id: str | None, agent_id: uuid.UUID, *, lock: bool = False
) -> AgentRow | None:
    """A project's agent, or with None a shared one, unless it was removed."""
    statement = _of(AgentRow, project_id).where(AgentRow.id == agent_id, AgentRow.state != AgentState.REMOVED)
    return await session.scalar(for_update(statement) if lock else statement)


async def agents(session: AsyncSession, project_id: str | None, limit: int, after: uuid.UUID | None) -> list[AgentRow]:
    """Newest first, without removed ones."""
    statement = _of(AgentRow, project_id).where(AgentRow.state != AgentState.REMOVED)
    statement = statement.order_by(AgentRow.id.desc()).limit(limit)
    return list(await session.scalars(statement.where(AgentRow.id < after) if after else statement))


async def agents_holding(
    session: AsyncSession, project_id: str, model_id: uuid.UUID, limit: int = 200
) -> list[AgentRow]:
    """A project's agents that hold a version of the model, newest first."""
    holding = select(DeploymentRow.agent_id).join(DeploymentRow.version).where(VersionRow.model_id == model_id)
    statement = scoped_to(AgentRow, project_id).where(AgentRow.state != AgentState.REMOVED, AgentRow.id.in_(holding))
    return list(await session.scalars(statement.order_by(AgentRow.id.desc()).limit(limit)))


async def agent_names(
    session: AsyncSession, project_id: str | None, agent_ids: Collection[uuid.UUID]
) -> dict[uuid.UUID, str]:
    """Names of a project's agents, or with None of shared ones, removed ones included."""
    statement = _of(AgentRow, project_id).where(AgentRow.id.in_(agent_ids))
    rows = await session.execute(statement.with_only_columns(AgentRow.id, AgentRow.name))
    return {row.id: row.name for row in rows}


async def count_linked(session: AsyncSession, limit: int) -> int:
    return (
        await session.scalar(
            capped_count(select(any_tenant(AgentRow).id).where(AgentRow.state == AgentState.ACTIVE), limit)
        )
        or 0
    )


async def count_agents(session: AsyncSession, limit: int, **of: str | uuid.UUID) -> int:
    """The number of agents with these column values, without removed ones; counted up to `limit`."""
    statement = select(any_tenant(AgentRow).id).where(AgentRow.state != AgentState.REMOVED).filter_by(**of)
    return await session.scalar(capped_count(statement, limit)) or 0


async def present_agents(session: AsyncSession) -> list[AgentRow]:
    """Agents that were not removed."""
    return list(await session.scalars(select(any_tenant(AgentRow)).where(AgentRow.state != AgentState.REMOVED)))


async def lock_agents(session: AsyncSession, agent_ids: Collection[uuid.UUID]) -> list[AgentRow]:
    """Locks them in the order of their ids. To change a deployment, lock its agent first."""
    statement = for_update(select(any_tenant(AgentRow)).where(AgentRow.id.in_(agent_ids)).order_by(AgentRow.id))
    return list(await session.scalars(statement))


async def keep_endpoints(session: AsyncSession, ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Ids of those that exist; they cannot be deleted until the transaction ends."""
    statement = select(any_tenant(EndpointRow).id).where(EndpointRow.id.in_(ids)).order_by(EndpointRow.id)
    return set(await session.scalars(for_key_share(statement)))


async def keep_versions(session: AsyncSession, ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Ids of versions whose models exist and are not being deleted; they cannot be until the transaction ends."""
    statement = select(VersionRow.id).join(VersionRow.model).where(VersionRow.id.in_(ids))
    return set(await session.scalars(for_key_share(statement, of=ModelRow, wait=False)))


async def links_of(session: AsyncSession, agent_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, list[AgentLinkRow]]:
    """Links of these agents, oldest first."""
    statement = select(AgentLinkRow).where(AgentLinkRow.agent_id.in_(agent_ids)).order_by(AgentLinkRow.token)
    found: dict[uuid.UUID, list[AgentLinkRow]] = defaultdict(list)
    for row in await session.scalars(statement):
        found[row.agent_id].append(row)
    return found


async def end_link(session: AsyncSession, agent_id: uuid.UUID, token: uuid.UUID) -> bool:
    """Deletes a link; whether it was there."""
    statement = delete(AgentLinkRow).where(AgentLinkRow.agent_id == agent_id, AgentLinkRow.token == token)
    return await session.scalar(statement.returning(AgentLinkRow.token)) is not None


async def end_links(session: AsyncSession, agent_id: uuid.UUID, *which: ColumnElement[bool]) -> None:
    """Deletes links of this agent: all, or those for which the conditions hold."""
    await session.execute(delete(AgentLinkRow).where(AgentLinkRow.agent_id == agent_id, *which))


async def heartbeat(session: AsyncSession, tokens: Collection[uuid.UUID], *, now: int) -> set[uuid.UUID]:
    """Records a heartbeat for the links with these tokens; returns the tokens of those that exist."""
    of_links = select(AgentLinkRow.agent_id).where(AgentLinkRow.token.in_(tokens))
    linked = for_update(select(any_tenant(AgentRow).id).where(AgentRow.id.in_(of_links)).order_by(AgentRow.id))
    await session.execute(update(any_tenant(AgentRow)).where(AgentRow.id.in_(linked)).values(last_seen_at=now))
    seen = update(AgentLinkRow).where(AgentLinkRow.token.in_(tokens)).values(seen_at=now)
    return set(await session.scalars(seen.returning(AgentLinkRow.token)))


def _stale(seen_before: int) -> Select[AgentRow]:
    stale_link = exists().where(AgentLinkRow.agent_id == AgentRow.id, AgentLinkRow.seen_at < seen_before)
    return select(any_tenant(AgentRow)).where(
        AgentRow.state == AgentState.ACTIVE, or_(AgentRow.last_seen_at < seen_before, stale_link)
    )


async def has_stale_agents(session: AsyncSession, seen_before: int) -> bool:
    return await session.scalar(_stale(seen_before).limit(1)) is not None


async def stale_agents(session: AsyncSession, seen_before: int) -> list[AgentRow]:
    """Agents with a link that had no heartbeat since then: its process is dead."""
    return list(await session.scalars(for_update(_stale(seen_before).order_by(AgentRow.id))))


async def agents_linked_to(session: AsyncSession, address: str) -> list[AgentRow]:
    there = select(AgentLinkRow.agent_id).where(AgentLinkRow.address == address)
    statement = select(any_tenant(AgentRow)).where(AgentRow.id.in_(there))
    return list(await session.scalars(for_update(statement.order_by(AgentRow.id))))


async def linked_agents(session: AsyncSession, project_id: str | None) -> list[AgentRow]:
    """Connected agents of a project that run models, or with None the shared ones."""
    connected = AgentRow.state == AgentState.ACTIVE, AgentRow.is_holder.is_(False)
    return list(await session.scalars(_of(AgentRow, project_id).where(*connected)))


async def deployments(session: AsyncSession) -> list[DeploymentRow]:
    return list(await session.scalars(select(DeploymentRow)))


async def deployments_of(session: AsyncSession, agent_ids: Collection[uuid.UUID]) -> list[DeploymentRow]:
    """With version, model and the model's project, oldest first."""
    version = joinedload(DeploymentRow.version)
    statement = (
        select(DeploymentRow)
        .where(DeploymentRow.agent_id.in_(agent_ids))
        .options(version.joinedload(VersionRow.model).joinedload(ModelRow.project))
        .order_by(DeploymentRow.id)
    )
    return list(await session.scalars(statement))


async def copies(
    session: AsyncSession, project_id: str | None, version_id: uuid.UUID, file: str
) -> list[tuple[DeploymentRow, AgentRow]]:
    """Deployments of this content on connected agents of a project, or with None on shared ones, oldest first."""
    connected = _of(AgentRow, project_id).where(AgentRow.state == AgentState.ACTIVE)
    agents = {row.id: row for row in await session.scalars(connected)}
    statement = select(DeploymentRow).where(DeploymentRow.version_id == version_id, DeploymentRow.file == file)
    rows = await session.scalars(statement.where(DeploymentRow.agent_id.in_(agents)).order_by(DeploymentRow.id))
    return [(row, agents[row.agent_id]) for row in rows]


async def linked_by_id(session: AsyncSession, agent_ids: Collection[uuid.UUID]) -> list[AgentRow]:
    """Those of these agents that are connected."""
    statement = select(any_tenant(AgentRow)).where(AgentRow.id.in_(agent_ids), AgentRow.state == AgentState.ACTIVE)
    return list(await session.scalars(statement))


async def deployments_to_change(session: AsyncSession, agent_ids: Collection[uuid.UUID]) -> list[DeploymentRow]:
    """Deployments of these agents, which must be locked, oldest first; without those of models being deleted."""
    statement = select(DeploymentRow).join(DeploymentRow.version).join(VersionRow.model)
    statement = statement.where(DeploymentRow.agent_id.in_(agent_ids)).order_by(DeploymentRow.id)
    return list(await session.scalars(for_key_share(statement, of=ModelRow, wait=False)))


async def deployment(session: AsyncSession, agent_id: uuid.UUID, deployment_id: uuid.UUID) -> DeploymentRow | None:
    """A deployment of this agent, with version, model and the model's project."""
    version = joinedload(DeploymentRow.version)
    statement = (
        select(DeploymentRow)
        .where(DeploymentRow.id == deployment_id, DeploymentRow.agent_id == agent_id)
        .options(version.joinedload(VersionRow.model).joinedload(ModelRow.project))
    )
    return await session.scalar(statement)


async def with_agent_and_version(session: AsyncSession, deployment_ids: Collection[uuid.UUID]) -> list[DeploymentRow]:
    """These deployments in the order of their ids, each with its agent, its version and its model."""
    statement = (
        select(DeploymentRow)
        .where(DeploymentRow.id.in_(deployment_ids))
        .options(joinedload(DeploymentRow.agent), joinedload(DeploymentRow.version).joinedload(VersionRow.model))
        .order_by(DeploymentRow.id)
    )
    return list(await session.scalars(statement))


async def ready_or_expected(session: AsyncSession, version_ids: Collection[uuid.UUID]) -> list[DeploymentRow]:
    """Ready deployments on connected agents, and those that may soon be: the agent is expected to connect or to report.
    Each with its agent and version.
    """
    is_ready, is_connected = DeploymentRow.phase == Phase.READY, AgentRow.state == AgentState.ACTIVE
    is_away = and_(is_ready, AgentRow.state == AgentState.DISCONNECTED)
    is_silent = and_(is_connected, DeploymentRow.phase == Phase.WAITING)
    statement = (
        select(DeploymentRow)
        .join(DeploymentRow.agent)
        .where(
            DeploymentRow.version_id.in_(version_ids),
            or_(
                and_(is_ready, is_connected),
                and_(AgentRow.expected_until.is_not(None), or_(is_away, is_silent)),
            ),
        )
        .options(joinedload(DeploymentRow.agent), joinedload(DeploymentRow.version).joinedload(VersionRow.model))
    )
    return list(await session.scalars(statement))


async def active_endpoints_of(session: AsyncSession, model_id: uuid.UUID) -> list[uuid.UUID]:
    statement = select(any_tenant(EndpointRow).id).where(EndpointRow.model_id == model_id, EndpointRow.is_active)
    return list(await session.scalars(statement))


async def observations(
    session: AsyncSession,
) -> dict[uuid.UUID, tuple[EndpointStatus, str | None, EndpointProgress | None]]:
    """The stored status, reason and progress of each active endpoint. An unreadable one counts as not stored."""
    statement = select(any_tenant(EndpointRow).id, EndpointRow.status, EndpointRow.status_reason, EndpointRow.progress)
    found = {}
    for id_, status, reason, progress in await session.execute(statement.where(EndpointRow.is_active)):
        with contextlib.suppress(ValueError):
            known = EndpointProgress.model_validate(progress) if progress else None
            found[id_] = EndpointStatus(status), reason, known
    return found


async def servings(session: AsyncSession) -> list[ServingRow]:
    return list(await session.scalars(select(ServingRow)))


async def keep_serving(session: AsyncSession, changed: Mapping[uuid.UUID, Content | None]) -> None:
    """Stores what each endpoint serves; None deletes it. Ordered by ID to prevent deadlocks."""
    for endpoint_id, content in sorted(changed.items(), key=itemgetter(0)):
        if content is None:
            await session.execute(delete(ServingRow).where(ServingRow.endpoint_id == endpoint_id))
        else:
            serving = content._asdict()
            fresh = upsert(session, ServingRow).values(endpoint_id=endpoint_id, **serving)
            await session.execute(fresh.on_conflict_do_update(index_elements=["endpoint_id"], set_=serving))


async def served_with(session: AsyncSession, version_id: uuid.UUID) -> list[uuid.UUID]:
    """IDs of endpoints that serve this version, or served it last."""
    return list(await session.scalars(select(ServingRow.endpoint_id).where(ServingRow.version_id == version_id)))


async def agents_with(session: AsyncSession, version_id: uuid.UUID) -> list[uuid.UUID]:
    """Ids of agents with a deployment of this version."""
    return list(await session.scalars(select(DeploymentRow.agent_id).where(DeploymentRow.version_id == version_id)))


async def deployments_of_version(session: AsyncSession, version_id: uuid.UUID) -> list[DeploymentRow]:
    """Its deployments. Lock their agents and the version's model first."""
    return list(await session.scalars(select(DeploymentRow).where(DeploymentRow.version_id == version_id)))


async def serving(session: AsyncSession, endpoint_id: uuid.UUID) -> ServingRow | None:
    return await session.get(ServingRow, endpoint_id)
