"""What agents were told to let go of, and that they said the weights are deleted."""

import uuid
from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts.service import get_project
from modelshare.server.audit import service as audit
from modelshare.server.db import notify
from modelshare.server.fleet import queries
from modelshare.server.fleet.tables import DeploymentRow, ReleaseRow
from modelshare.server.fleet.topics import READY_TOPIC
from modelshare.server.registry import service as registry
from modelshare.server.registry.tables import ModelRow
from modelshare.wire.sharing import WeightsRelease


async def let_go(session: AsyncSession, deployments: Collection[DeploymentRow], *, now: int) -> None:
    """Ends deployments, whose agents are locked; each agent hears of it, deletes the weights and says so."""
    for row in await queries.with_agent_and_version(session, [row.id for row in deployments]):
        session.add(
            ReleaseRow(
                deployment_id=row.id,
                agent_id=row.agent_id,
                project_id=row.agent.project_id,
                model_id=row.version.model_id,
                version=row.version.version,
                asked_at=now,
            )
        )
        await session.delete(row)
        notify(session, READY_TOPIC, str(row.version_id))


async def confirm(session: AsyncSession, released: Collection[tuple[uuid.UUID, uuid.UUID]], *, now: int) -> None:
    """Agents say that the weights of deployments are deleted: (agent, deployment). Told to the weights' owner and to
    the agent's project, once."""
    # By agent, not by what they say: that may be anything, and any number of things.
    for row in await queries.lock_unconfirmed_releases(session, {agent_id for agent_id, _ in released}):
        if (row.agent_id, row.deployment_id) not in released:
            continue
        row.confirmed_at = now
        model = await registry.find_any(session, row.model_id)
        for project_id in {model.project_id if model else None, row.project_id} - {None}:
            audit.record(
                session,
                project_id=project_id,
                now=now,
                actor=f"agent:{row.agent_id}",
                action="agent.release",
                target=f"deployment:{row.deployment_id}",
                model=str(row.model_id),
                version=row.version,
            )


async def unconfirmed(session: AsyncSession, agent_id: uuid.UUID) -> list[str]:
    """Ids of deployments that the agent was told to let go of and has said nothing of since."""
    return [str(deployment_id) for deployment_id in await queries.unconfirmed_releases(session, agent_id)]


async def weights(session: AsyncSession, model: ModelRow, *, since: int | None) -> tuple[int, list[WeightsRelease]]:
    """Who holds the weights beside the owner, and who was told to delete them: `endpoints.service.Weights`."""
    holding = await queries.machines_holding(session, model.id, model.project_id)
    rows = await queries.releases(session, model.id, model.project_id, since)
    names = {row.project_id: await _name(session, row.project_id) for row in rows}
    return holding, [
        WeightsRelease(
            deployment=str(row.deployment_id),
            version=row.version,
            project=names[row.project_id],
            asked_at=row.asked_at,
            confirmed_at=row.confirmed_at,
        )
        for row in rows
    ]


async def _name(session: AsyncSession, project_id: str | None) -> str | None:
    project = await get_project(session, project_id) if project_id else None
    return project.name if project else None
