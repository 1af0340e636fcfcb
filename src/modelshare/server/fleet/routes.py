"""`/v1/join-keys`, `/v1/agents`, `/v1/platform/...` of the same, `/v1/enroll`, and an agent's grants."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.errors import ConflictError, UnauthenticatedError
from modelshare.server.fleet import direct, grants, holding, service, version_deletion
from modelshare.server.fleet.tables import AgentRow
from modelshare.server.fleet.verdicts import FleetPlatform
from modelshare.server.fleet.weight_deletions import service as weight_deletions
from modelshare.server.http import (
    BaseUrl,
    Caller,
    ModelId,
    ModelsCaller,
    PlatformDep,
    ProjectRoute,
    ReadSession,
    WriteSession,
    bearer,
    get_platform,
    platform_caller,
    public_rate_limit,
    require,
)
from modelshare.server.paging import PagingDep
from modelshare.server.proven import proven
from modelshare.server.registry.storages.stores import download_urls
from modelshare.server.registry.uploads.service import checked_files
from modelshare.wire.agents import (
    Agent,
    AgentPatch,
    Enroll,
    Enrolled,
    Grant,
    GrantFile,
    JoinKey,
    JoinKeyCreate,
    JoinKeyWithValue,
)
from modelshare.wire.base import Page
from modelshare.wire.direct import GrantRequest
from modelshare.wire.held import HeldChanges, HeldOpen, HeldVersion
from modelshare.wire.keys import Scope
from modelshare.wire.models import Deletion, StoredBytes, VersionDeletion
from modelshare.wire.sharing import WeightsDeletion
from modelshare.wire.verdict import NONCE_BYTES, AgentStatus

router = APIRouter(route_class=ProjectRoute)
public = APIRouter(tags=["agents"])
"""Routes that authenticate by a join key or an agent's token instead of a project's key."""
_ID = r"^[0-9A-Za-z_-]{1,64}$"
_NONCE = rf"^[0-9a-f]{{{2 * NONCE_BYTES}}}$"
_own_fleet = require(Scope.AGENTS)


async def _fleet_caller(request: Request) -> Caller:
    """The owner of the agents: the platform for routes below `/v1/platform`, else the caller's project."""
    of_platform = request.scope["path"].startswith("/v1/platform/")
    return await (platform_caller if of_platform else _own_fleet)(request)


FleetCaller = Annotated[Caller, Depends(_fleet_caller)]
FleetPlatformDep = Annotated[FleetPlatform, Depends(get_platform)]


@public.post("/v1/enroll", status_code=201, dependencies=[Depends(public_rate_limit)])
async def enroll(session: WriteSession, platform: FleetPlatformDep, body: Enroll) -> Enrolled:
    """Exchanges a join key for an agent's own credential, which is shown only in this response."""
    return await service.enroll(session, body, platform.settings, platform.verdicts, now=platform.now())


@public.get("/v1/agent/status", dependencies=[Depends(public_rate_limit)])
async def agent_status(
    request: Request,
    session: ReadSession,
    platform: FleetPlatformDep,
    agent_id: Annotated[str, Query(pattern=_ID)],
    nonce: Annotated[str, Query(pattern=_NONCE)],
) -> AgentStatus:
    """Whether an agent, by its ID and token, is still part of the fleet; signed, for agents that were refused."""
    token = bearer(request.headers.get("authorization"))
    if token is None:
        raise UnauthenticatedError("This route needs an agent token (`msa_...`).")
    return await platform.verdicts.status(session, agent_id=agent_id, token=token, nonce=nonce)


@public.post("/v1/agent/deployments/{deployment_id}/grant")
async def issue_grant(
    request: Request,
    platform: FleetPlatformDep,
    base_url: BaseUrl,
    deployment_id: str,
    body: GrantRequest | None = None,
) -> Grant:
    """Returns a signed URL for each file of a deployment assigned to the agent, valid for minutes. Request a new grant
    for new ones.
    """
    now, seconds = platform.now(), platform.settings.grants_seconds
    async with platform.database.read() as session:
        agent = await _agent(request, session)
        wanted = await grants.grant(session, agent, deployment_id, now=now, seconds=seconds)
    urls = await download_urls(platform, wanted.files, expires_at=wanted.expires_at, base_url=base_url)
    async with platform.database.write() as session:
        agent = await _agent(request, session)
        granted = await grants.grant(session, agent, deployment_id, now=now, seconds=seconds)
        if granted != wanted:  # while the storage was asked
            raise ConflictError("The deployment has just changed. Request the grant again.")
        grants.record_grant(session, agent, granted, now=now)
        for report in body.wrong_bytes if body is not None else ():
            await direct.report_wrong_bytes(session, agent, report, now=now)
        sources = await direct.sources(session, agent, granted)
    return Grant(
        deployment_id=deployment_id,
        manifest_digest=granted.deployment.version.manifest_digest or "",
        files=[
            GrantFile(
                path=file.path,
                size=file.size,
                sha256=file.sha256,
                url=url,
            )
            for file, url in zip(granted.files, urls, strict=True)
        ],
        expires_at=granted.expires_at,
        sources=await asyncio.to_thread(direct.signed, platform.verdicts, sources, agent.id, granted),
    )


async def _agent(request: Request, session: AsyncSession) -> AgentRow:
    """The agent whose token the request has; 401 otherwise."""
    agent = await service.authenticate(session, bearer(request.headers.get("authorization")))
    if agent is None:
        raise UnauthenticatedError("This route needs an agent token (`msa_...`). Enrol the agent to get one.")
    proven(request.scope)
    return agent


@router.post("/v1/held-versions", status_code=201, tags=["models"])
async def register_held(caller: ModelsCaller, platform: PlatformDep, body: HeldOpen) -> HeldVersion:
    """Makes a version of files that stay on the machine of one of the project's agents (`modelshare hold`).

    Nothing is uploaded: headers are read over the agent's connection, and so are the files by agents that get a grant.
    The same files again give the same version.
    """
    files = await asyncio.to_thread(checked_files, platform, body)
    async with platform.database.write() as session:
        return await holding.register(session, platform, caller, body, files)


@public.post("/v1/agent/held-changes", status_code=204)
async def report_held_changes(request: Request, platform: PlatformDep, body: HeldChanges) -> None:
    """Fails the versions that have one of these files, which the agent holds and which have changed there."""
    async with platform.database.write() as session:
        token = bearer(request.headers.get("authorization"))
        await holding.report_changes(session, token, body, now=platform.now())
        proven(request.scope)


@router.get(
    "/v1/platform/join-keys",
    tags=["platform"],
    name="list_platform_join_keys",
    description="Join keys for shared agents.",
)
@router.get("/v1/join-keys", tags=["agents"])
async def list_join_keys(caller: FleetCaller, session: ReadSession, paging: PagingDep) -> Page[JoinKey]:
    """Lists the project's join keys, newest first, without their values."""
    return await service.list_join_keys(session, caller, paging)


@router.post(
    "/v1/platform/join-keys",
    status_code=201,
    tags=["platform"],
    name="create_platform_join_key",
    description="A join key for agents that serve any project's endpoints on the shared tiers it names.",
)
@router.post("/v1/join-keys", status_code=201, tags=["agents"])
async def create_join_key(
    caller: FleetCaller, session: WriteSession, platform: FleetPlatformDep, body: JoinKeyCreate
) -> JoinKeyWithValue:
    """Creates a join key for agents that serve the project's `self_hosted` endpoints. Its value is shown only in this
    response.
    """
    return await service.create_join_key(session, caller, body, platform.tiers, now=platform.now())


@router.delete(
    "/v1/platform/join-keys/{key_id}",
    status_code=204,
    tags=["platform"],
    name="revoke_platform_join_key",
    description="Revokes a join key for shared agents; agents that enrolled with it stay enrolled.",
)
@router.delete("/v1/join-keys/{key_id}", status_code=204, tags=["agents"])
async def revoke_join_key(caller: FleetCaller, session: WriteSession, platform: PlatformDep, key_id: str) -> None:
    """Revokes a join key; agents that enrolled with it stay enrolled."""
    await service.revoke_join_key(session, caller, key_id, now=platform.now())


@router.get("/v1/platform/agents", tags=["platform"], name="list_platform_agents", description="The shared agents.")
@router.get("/v1/agents", tags=["agents"])
async def list_agents(caller: FleetCaller, session: ReadSession, paging: PagingDep) -> Page[Agent]:
    """Lists the project's agents, newest first, with the deployments of each."""
    return await service.list_agents(session, caller, paging)


@router.get(
    "/v1/platform/agents/{agent_id}", tags=["platform"], name="get_platform_agent", description="One shared agent."
)
@router.get("/v1/agents/{agent_id}", tags=["agents"])
async def get_agent(caller: FleetCaller, session: ReadSession, agent_id: str) -> Agent:
    """Returns an agent of the project."""
    return await service.get_agent(session, caller, agent_id)


@router.patch(
    "/v1/platform/agents/{agent_id}",
    tags=["platform"],
    name="change_platform_agent",
    description="Renames, suspends or resumes a shared agent.",
)
@router.patch("/v1/agents/{agent_id}", tags=["agents"])
async def change_agent(
    caller: FleetCaller, session: WriteSession, platform: PlatformDep, agent_id: str, body: AgentPatch
) -> Agent:
    """Renames, suspends or resumes an agent."""
    return await service.change_agent(session, caller, agent_id, body, now=platform.now())


@router.delete(
    "/v1/platform/agents/{agent_id}",
    status_code=204,
    tags=["platform"],
    name="remove_platform_agent",
    description="Removes a shared agent: revokes its credential and closes its connection.",
)
@router.delete("/v1/agents/{agent_id}", status_code=204, tags=["agents"])
async def remove_agent(caller: FleetCaller, session: WriteSession, platform: PlatformDep, agent_id: str) -> None:
    """Removes an agent: revokes its credential and closes its connection. It deletes its deployments and their
    weights.
    """
    await service.remove_agent(session, caller, agent_id, now=platform.now())


@router.delete(
    "/v1/models/{model_id}/versions/{version}",
    tags=["models"],
    status_code=204,
    response_model=None,
    responses={
        200: {
            "model": VersionDeletion | Deletion,
            "description": "With `dry_run=true`: what would happen. With `bytes=keep`: what is kept.",
        }
    },
)
async def delete_version(
    caller: ModelsCaller,
    model_id: ModelId,
    platform: PlatformDep,
    version: str,
    *,
    dry_run: bool = False,
    bytes: StoredBytes | None = None,  # noqa: A002 - the contract's name
) -> Response | None:
    """Deletes a version that is neither the latest nor in use, or one that failed, and frees its share of the quota.

    409 `version_in_use` says what uses it. If the version is still being uploaded, the upload is cancelled. The number
    of a version that was ready cannot be used again. `dry_run=true` changes nothing and returns what would happen.
    `bytes` is as of deleting a model.
    """
    if dry_run:
        async with platform.database.read() as session:
            plan = await version_deletion.preview(session, caller, model_id, version)
        return JSONResponse(plan.model_dump(mode="json"))
    kept = await version_deletion.delete(platform, caller, model_id, version, bytes)
    return JSONResponse(Deletion(kept=kept).model_dump(mode="json")) if bytes is StoredBytes.KEEP else None


@router.post("/v1/models/{model_id}/weight-deletions/{deployment_id}/close", tags=["models"])
async def close_weight_deletion(
    caller: ModelsCaller, model_id: ModelId, session: WriteSession, platform: PlatformDep, deployment_id: str
) -> WeightsDeletion:
    """Stops waiting for a machine, such as a removed one, to confirm that it deleted the model's weights."""
    return await weight_deletions.close(session, caller, model_id, deployment_id, now=platform.now())
