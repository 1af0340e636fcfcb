"""Grants: an agent's access to the files of a deployment, for a while."""

import math
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import Audit
from modelshare.server.endpoints import service as endpoints
from modelshare.server.errors import NotFoundError
from modelshare.server.fleet import queries, rules
from modelshare.server.fleet.service import facts_of
from modelshare.server.fleet.tables import AgentRow, DeploymentRow
from modelshare.server.ids import parse_uuid
from modelshare.server.registry import file_selection
from modelshare.server.registry import service as registry
from modelshare.server.registry.service import StoredFile
from modelshare.wire.agents import AgentState


@dataclass(frozen=True, slots=True)
class Granted:
    """The contents of a grant, before the storage signs the URLs."""

    deployment: DeploymentRow = field(compare=False)
    files: list[StoredFile]
    expires_at: int


async def grant(session: AsyncSession, agent: AgentRow, deployment_id: str, *, now: int, seconds: int) -> Granted:
    """Access to a deployment's files for `seconds`, to be issued by `record_grant`.

    404 unless the deployment belongs to this agent, the agent is connected, and an active endpoint that it may serve
    uses that version now. A grant expires at a recall's deadline at the latest.
    """
    uid = parse_uuid(deployment_id)
    row = await queries.deployment(session, agent.id, uid) if uid else None
    needed_until = await _needed_until(session, agent, row) if row and agent.state == AgentState.ACTIVE else None
    if row is None or needed_until is None or now >= needed_until:
        raise NotFoundError(
            "This deployment is not assigned to this agent. Wait for the desired state from the server."
        )
    expires_at = int(min(now + seconds, needed_until))
    files = await registry.stored_files(session, row.version_id)
    model = file_selection.find(row.version, row.file)
    return Granted(row, model.needed(files) if model else [], expires_at)


def record_grant(session: AsyncSession, agent: AgentRow, granted: Granted, *, now: int) -> None:
    """In the audit logs of the model's owner and of the agent's project."""
    row = granted.deployment
    owner_id = row.version.model.project_id
    of_version = {"model": str(row.version.model_id), "version": row.version.version}
    for project_id in {owner_id, agent.project_id or owner_id}:
        Audit(session, project_id, f"agent:{agent.id}", now).done(
            "grant.issue", f"deployment:{row.id}", project=agent.project_id or "platform", **of_version
        )


async def _needed_until(session: AsyncSession, agent: AgentRow, row: DeploymentRow) -> float | None:
    """When the last endpoint that needs this deployment ends (Unix seconds, or infinity); None if none needs it."""
    facts = facts_of(agent)
    ids = await queries.active_endpoints_of(session, row.version.model_id)
    ends = [
        math.inf if endpoint.ends_at is None else endpoint.ends_at
        for endpoint in await endpoints.active(session, ids)
        if (endpoint.version_id, endpoint.file) == (row.version_id, row.file)
        and rules.eligible(endpoint.tier, endpoint.project_id, facts)
    ]
    return max(ends, default=None)
