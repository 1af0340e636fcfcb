"""Agents that run no models but hold files of their project: what they register, and where they are connected."""

import uuid

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.errors import NotFoundError, UnauthenticatedError
from modelshare.server.fleet import queries
from modelshare.server.fleet.service import authenticate
from modelshare.server.http import Caller, Platform
from modelshare.server.ids import parse_uuid
from modelshare.server.registry import held
from modelshare.wire.held import HeldChanges, HeldOpen, HeldVersion


async def register(
    session: AsyncSession, platform: Platform, caller: Caller, request: HeldOpen, files: held.Files
) -> HeldVersion:
    """See `registry.held.register`. 404 unless the holder is one of the caller's project."""
    uid = parse_uuid(request.holder)
    row = await queries.own_agent(session, caller.project, uid) if uid else None
    if row is None or not row.is_holder:
        raise NotFoundError("There is no such agent of your project that holds files. Run `modelshare hold`.")
    return await held.register(session, platform, caller, row.id, request, files)


async def report_changes(session: AsyncSession, token: str | None, changes: HeldChanges, *, now: int) -> None:
    """Fails versions whose files changed on the machine of the agent with this token; 401 if it holds none."""
    agent = await authenticate(session, token)
    if agent is None or not agent.is_holder or agent.project_id is None:
        raise UnauthenticatedError("This route needs the token of an agent that holds files (`msa_...`).")
    await held.changed(session, agent.project_id, agent.id, changes.files, now=now)


async def resume(session: AsyncSession, agent_id: uuid.UUID, *, now: int) -> None:
    """Continues to check versions whose files this agent holds, if it does. Call it when it is connected."""
    row = await queries.agent(session, agent_id)
    if row is not None and row.is_holder and row.project_id is not None:
        await held.resume(session, row.project_id, row.id, now=now)


async def addresses_of(session: AsyncSession, agent_id: uuid.UUID) -> tuple[str, ...]:
    """URLs of the server processes that the agent is connected to."""
    links = await queries.links_of(session, [agent_id])
    return tuple(link.address for link in links[agent_id])
