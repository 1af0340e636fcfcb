"""`/v1/imports`."""

from typing import Any

from fastapi import APIRouter, Response

from modelshare.server.http import ModelsCaller, PlatformDep, ProjectRoute, ReadSession, WriteSession
from modelshare.server.paging import PagingDep
from modelshare.server.registry.imports import service
from modelshare.wire.base import Page
from modelshare.wire.importing import Import, ImportCreate

router = APIRouter(prefix="/v1/imports", tags=["models"], route_class=ProjectRoute)
_RUNNING: dict[int | str, dict[str, Any]] = {200: {"description": "The same import is in progress already"}}


@router.post("", status_code=201, responses=_RUNNING)
async def start_import(caller: ModelsCaller, platform: PlatformDep, body: ImportCreate, response: Response) -> Import:
    """Copies a model from a Hugging Face Hub or an OCI registry, in the background. GET shows how far it is.

    Repeat it to update the model: there is a new version only if the source has changed.
    """
    started, is_new = await service.create(platform, caller, body)
    response.status_code = 201 if is_new else 200
    return started


@router.get("")
async def list_imports(caller: ModelsCaller, session: ReadSession, paging: PagingDep) -> Page[Import]:
    """Lists imports, newest first."""
    return await service.page(session, caller, paging)


@router.get("/{import_id}")
async def get_import(caller: ModelsCaller, session: ReadSession, import_id: str) -> Import:
    """Returns an import with its progress, and why it failed or what it waits for."""
    return await service.get(session, caller, import_id)


@router.post("/{import_id}/cancel")
async def cancel_import(caller: ModelsCaller, session: WriteSession, platform: PlatformDep, import_id: str) -> Import:
    """Cancels an import: what has arrived is deleted. 409 if all files have arrived, or if it failed."""
    return await service.cancel(session, caller, import_id, now=platform.now())
