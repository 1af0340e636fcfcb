"""Deletes a version: what prevents it, what it frees, and what is deleted along with it.

In `fleet` rather than `registry`, because endpoints and agents may prevent it.
"""

import uuid

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import notify
from modelshare.server.endpoints import holders
from modelshare.server.endpoints import service as endpoints
from modelshare.server.errors import AuditedRefusal, ConflictError
from modelshare.server.fleet import queries
from modelshare.server.fleet.topics import DESIRED_TOPIC
from modelshare.server.fleet.weight_deletions import service as weight_deletions
from modelshare.server.http import Caller, Platform
from modelshare.server.registry import service as registry
from modelshare.server.registry import versions
from modelshare.server.registry.storages import keeping
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.server.registry.uploads import expiry
from modelshare.server.sharing import service as sharing
from modelshare.wire.errors import ErrorCode
from modelshare.wire.models import KeptFile, ModelStatus, StoredBytes, VersionDeletion


async def preview(session: AsyncSession, caller: Caller, model_id: uuid.UUID, version: str) -> VersionDeletion:
    """What `delete` would do. 404 unless it is a version of the caller's own model."""
    model = await registry.get(session, caller, model_id)
    found = registry.version_of(model, version)
    reasons = await _obstacles(session, caller, model, found)
    notes = []
    if found.status == ModelStatus.UPLOADING:
        notes.append("Its upload is cancelled.")
    elif found.manifest is not None:
        notes.append(f"The number {found.version} cannot be used again: push other files as another version.")
    if len(model.versions) == 1:
        notes.append("It is the model's only version, so the model is deleted too.")
    return VersionDeletion(
        version=found.version,
        possible=not reasons,
        reasons=reasons,
        frees_bytes=await versions.bytes_only_of(session, model, found),
        notes=notes,
        own_storages=await keeping.own_storages(session, caller.project, [found.id]),
    )


async def delete(
    platform: Platform, caller: Caller, model_id: uuid.UUID, version: str, stored: StoredBytes | None = None
) -> list[KeptFile]:
    """Deletes a version that is neither the latest nor in use; cancels its upload if there is one.

    `stored`: what happens to files in the project's own storage; returns those that were kept. 409 says who uses it.
    Once this returns, files that no other version has no longer count against the quota.
    """
    async with platform.database.read() as session:
        model = await registry.get(session, caller, model_id)
        found = registry.version_of(model, version)
        upload = await versions.open_upload_of(session, found) if found.status == ModelStatus.UPLOADING else None
    if upload is not None:
        await expiry.cancel(platform, caller, str(upload))
        return []
    async with platform.database.write() as session:
        await versions.lock_stored(session, caller)
        model = await registry.get_locked(session, caller, model_id)
        found = registry.version_of(model, version)
        if reasons := await _obstacles(session, caller, model, found):
            raise ConflictError(
                f"Version {found.version} cannot be deleted. {' '.join(reasons)}",
                code=ErrorCode.VERSION_IN_USE,
                refusal=AuditedRefusal("model.delete_version", f"model:{model.id}"),
            )
        await _delete_deployments(session, found, platform.now())
        return await versions.delete_version(session, caller, model, found, now=platform.now(), stored=stored)


async def _obstacles(session: AsyncSession, caller: Caller, model: ModelRow, version: VersionRow) -> list[str]:
    """Why the version cannot be deleted now, each with a remedy. Other projects appear as numbers only."""
    if version.is_latest:
        return ["It is the latest version. Promote another one, then delete it."]
    found = []
    have = await holders.of(session, model, version)
    if have.own:
        found.append(f"{_endpoints(have.own)} of your project {_have(have.own)} it: change or delete them.")
    if have.others:
        found.append(
            f"{_endpoints(have.others)} of other projects {_have(have.others)} it: wait until they are deleted, "
            "or recall the model."
        )
    if answering := await _answering(session, version):
        found.append(
            f"{_endpoints(answering)} still {'answers' if answering == 1 else 'answer'} with it until another "
            "version is loaded. Try again later."
        )
    own = await sharing.get(session, caller, model.id)
    if own.recall is not None and own.recall.stopped_at is None:
        found.append("The model is being recalled. Wait until the recall is complete, or cancel it.")
    # An upload does not count as another version: it may be cancelled, and the model with it.
    kept = [each for each in model.versions if each is not version and each.status != ModelStatus.UPLOADING]
    if not kept and (own.share is not None or model.active_endpoints):
        found.append("It is the only version of a model that is shared or in use. Delete the model instead.")
    return found


async def _answering(session: AsyncSession, version: VersionRow) -> int:
    """The number of active endpoints that serve this version until their current one is ready."""
    ids = await queries.served_with(session, version.id)
    return sum(each.version_id != version.id for each in await endpoints.active(session, ids)) if ids else 0


async def _delete_deployments(session: AsyncSession, version: VersionRow, now: int) -> None:
    """Tells agents that still have the version, although no endpoint needs it, to delete it."""
    agents = await queries.agents_with(session, version.id)
    await queries.lock_agents(session, agents)
    rows = await queries.deployments_of_version(session, version.id)
    await weight_deletions.request_deletion(session, rows, now=now)
    for agent_id in {row.agent_id for row in rows}:
        notify(session, DESIRED_TOPIC, str(agent_id))
    await session.flush()


def _endpoints(count: int) -> str:
    return f"{count} active {'endpoint' if count == 1 else 'endpoints'}"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
