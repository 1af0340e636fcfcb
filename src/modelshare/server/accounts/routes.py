"""`/v1/keys`, `/v1/project` and `/v1/platform/projects`."""

from fastapi import APIRouter

from modelshare.server.accounts import service
from modelshare.server.http import KeysCaller, PlatformCaller, PlatformDep, ProjectRoute, ReadSession, WriteSession
from modelshare.server.paging import PagingDep
from modelshare.wire.base import Page
from modelshare.wire.keys import (
    Key,
    KeyCreate,
    KeyPatch,
    KeyWithValue,
    Project,
    ProjectCreate,
    ProjectPatch,
    ProjectSettings,
    ProjectWithKey,
)

router = APIRouter(route_class=ProjectRoute)


@router.get("/v1/keys", tags=["keys"])
async def list_keys(caller: KeysCaller, session: ReadSession, paging: PagingDep) -> Page[Key]:
    """Lists the project's keys, newest first, without their values."""
    return await service.list_keys(session, caller, paging)


@router.post("/v1/keys", status_code=201, tags=["keys"])
async def create_key(caller: KeysCaller, session: WriteSession, platform: PlatformDep, body: KeyCreate) -> KeyWithValue:
    """Creates a key. Its value is shown only in this response."""
    return await service.create_key(session, caller, body, now=platform.now())


@router.post("/v1/keys/{key_id}/rotate", tags=["keys"])
async def rotate_key(caller: KeysCaller, session: WriteSession, platform: PlatformDep, key_id: str) -> KeyWithValue:
    """Gives the key a new value; the old one stays valid for 24 hours."""
    grace = platform.settings.keys_rotation_grace_seconds
    return await service.rotate_key(session, caller, key_id, now=platform.now(), grace_seconds=grace)


@router.post("/v1/keys/{key_id}/suspend", tags=["keys"])
async def suspend_key(caller: KeysCaller, session: WriteSession, platform: PlatformDep, key_id: str) -> Key:
    """Suspends the key with all its values, immediately and on every process, until it is resumed."""
    return await service.suspend_key(session, caller, key_id, is_suspended=True, now=platform.now())


@router.post("/v1/keys/{key_id}/resume", tags=["keys"])
async def resume_key(caller: KeysCaller, session: WriteSession, platform: PlatformDep, key_id: str) -> Key:
    """Resumes a suspended key: it works again, with the values that it has."""
    return await service.suspend_key(session, caller, key_id, is_suspended=False, now=platform.now())


@router.patch("/v1/keys/{key_id}", tags=["keys"])
async def change_key(
    caller: KeysCaller, session: WriteSession, platform: PlatformDep, key_id: str, body: KeyPatch
) -> Key:
    """Sets what the key may use, on every process within a second. What is not sent stays as it is."""
    return await service.change_key(session, caller, key_id, body, now=platform.now())


@router.delete("/v1/keys/{key_id}", status_code=204, tags=["keys"])
async def revoke_key(caller: KeysCaller, session: WriteSession, platform: PlatformDep, key_id: str) -> None:
    """Revokes the key and all its values, immediately and on every process."""
    await service.revoke_key(session, caller, key_id, now=platform.now())


@router.get("/v1/project", tags=["project"])
async def get_own_project(caller: KeysCaller, session: ReadSession) -> Project:
    """Returns the project with its settings."""
    return await service.own_project(session, caller)


@router.patch("/v1/project", tags=["project"])
async def change_own_project(
    caller: KeysCaller, session: WriteSession, platform: PlatformDep, body: ProjectSettings
) -> Project:
    """Sets the project's monthly budget, whether it shares and deploys signed versions only, and whose signatures
    count for deploying.

    What is required of signatures concerns what is shared and deployed from now on; endpoints that run keep the version
    they serve. The budget holds within a second.
    """
    return await service.change_settings(session, caller, body, now=platform.now())


@router.get("/v1/platform/projects", tags=["platform"])
async def list_projects(_: PlatformCaller, session: ReadSession, paging: PagingDep) -> Page[Project]:
    """Lists all projects, oldest first."""
    return await service.list_projects(session, paging)


@router.post("/v1/platform/projects", status_code=201, tags=["platform"])
async def create_project(
    caller: PlatformCaller, session: WriteSession, platform: PlatformDep, body: ProjectCreate
) -> ProjectWithKey:
    """Creates a project with its first key, whose value is shown only in this response."""
    return await service.create_project(session, body, now=platform.now(), actor=caller.actor)


@router.patch("/v1/platform/projects/{project}", tags=["platform"])
async def change_project(
    caller: PlatformCaller, session: WriteSession, platform: PlatformDep, project: str, body: ProjectPatch
) -> Project:
    """Sets a project's storage quota from its next push on; null means the platform's default."""
    return await service.change_project(session, project, body, now=platform.now(), actor=caller.actor)
