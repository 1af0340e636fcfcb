"""Requests to agents to delete weights, and their confirmations."""

import uuid
from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts.service import get_project
from modelshare.server.audit.service import Audit, project_changed
from modelshare.server.db import notify
from modelshare.server.errors import ConflictError, NotFoundError
from modelshare.server.fleet import queries as fleet_queries
from modelshare.server.fleet.tables import DeploymentRow, WeightDeletionRow
from modelshare.server.fleet.topics import DEPLOYMENTS_TOPIC, READY_TOPIC
from modelshare.server.fleet.weight_deletions import queries
from modelshare.server.http import Caller
from modelshare.server.ids import parse_uuid
from modelshare.server.registry import service as registry
from modelshare.server.registry.tables import ModelRow
from modelshare.wire.sharing import WeightsDeletion


async def request_deletion(session: AsyncSession, deployments: Collection[DeploymentRow], *, now: int) -> None:
    """Ends deployments, and tells their agents to delete the weights and confirm it. The agents must be locked."""
    for row in await fleet_queries.with_agent_and_version(session, [row.id for row in deployments]):
        session.add(
            WeightDeletionRow(
                deployment_id=row.id,
                agent_id=row.agent_id,
                project_id=row.agent.project_id,
                model_id=row.version.model_id,
                version=row.version.version,
                asked_at=now,
            )
        )
        await session.delete(row)
        placement_changed(session, row)
        notify(session, READY_TOPIC, str(row.version_id))


def placement_changed(session: AsyncSession, row: DeploymentRow) -> None:
    """Updates the pages of the agent's project and of the model's owner: both show which agents have the weights."""
    project_changed(session, row.agent.project_id)
    project_changed(session, row.version.model.project_id)


async def confirm(session: AsyncSession, released: Collection[tuple[uuid.UUID, uuid.UUID]], *, now: int) -> None:
    """Records confirmations, given as (agent, deployment), once each in the audit logs of the model's owner and of the
    agent's project."""
    # Selected by agent, not by the IDs that agents sent, which are arbitrary and unlimited.
    for row in await queries.lock_unconfirmed_deletions(session, {agent_id for agent_id, _ in released}):
        if (row.agent_id, row.deployment_id) not in released:
            continue
        row.confirmed_at = now
        model = await registry.find_any(session, row.model_id)
        for project_id in {model.project_id if model else None, row.project_id} - {None}:
            Audit(session, project_id, f"agent:{row.agent_id}", now).done(
                "agent.delete_weights", f"deployment:{row.deployment_id}", model=str(row.model_id), version=row.version
            )


async def unconfirmed(session: AsyncSession, agent_id: uuid.UUID) -> list[str]:
    """Ids of deployments whose weights the agent was told to delete and has not confirmed."""
    return [str(deployment_id) for deployment_id in await queries.unconfirmed_deletions(session, agent_id)]


async def weights(session: AsyncSession, model: ModelRow, *, since: int | None) -> tuple[int, list[WeightsDeletion]]:
    """The number of agents of others that have the weights, and requests to delete them; an
    `endpoints.service.Weights`."""
    holding = await queries.machines_holding(session, model.id, model.project_id)
    rows = await queries.weight_deletions(session, model.id, model.project_id, since)
    names = {row.project_id: await _name(session, row.project_id) for row in rows}
    return holding, [_view(row, names[row.project_id]) for row in rows]


async def close(
    session: AsyncSession, caller: Caller, model_id: uuid.UUID, deployment_id: str, *, now: int
) -> WeightsDeletion:
    """Stops waiting for a confirmation, for example of a removed agent. The agent may still confirm it later.

    404 unless it is a request for one of the caller's models to another project's agent; 409 if it was confirmed.
    """
    model, uid = await registry.get(session, caller, model_id), parse_uuid(deployment_id)
    row = await queries.weight_deletion(session, model.id, uid) if uid else None
    if row is None or row.project_id == model.project_id:
        raise NotFoundError(
            "No such machine was asked to delete weights. GET /v1/models/{id}/recall lists those that were."
        )
    if row.confirmed_at is not None:
        raise ConflictError("This machine has confirmed that the weights are deleted, so there is nothing to close.")
    if row.closed_at is None:
        row.closed_at = now
        notify(session, DEPLOYMENTS_TOPIC, str(row.deployment_id))
        for project_id in {model.project_id, row.project_id} - {None}:
            Audit(session, project_id, caller.actor_in(project_id or ""), now).done(
                "weight_deletion.close",
                f"deployment:{row.deployment_id}",
                model=str(row.model_id),
                version=row.version,
                asked_at=row.asked_at,
            )
    return _view(row, await _name(session, row.project_id))


def _view(row: WeightDeletionRow, project: str | None) -> WeightsDeletion:
    return WeightsDeletion(
        deployment=str(row.deployment_id),
        version=row.version,
        project=project,
        asked_at=row.asked_at,
        confirmed_at=row.confirmed_at,
        closed_at=row.closed_at,
    )


async def _name(session: AsyncSession, project_id: str | None) -> str | None:
    """The project's name; None for the platform, which owns the shared agents."""
    if project_id is None:
        return None
    project = await get_project(session, project_id)
    return project.name if project else "a deleted project"
