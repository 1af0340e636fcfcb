"""`/v1/storage`, and downloads of versions."""

from typing import Annotated

from fastapi import APIRouter, Depends

from modelshare.server.http import (
    BaseUrl,
    KeysCaller,
    ModelId,
    ModelsCaller,
    ProjectRoute,
    ReadSession,
    WriteSession,
    get_platform,
)
from modelshare.server.paging import PagingDep
from modelshare.server.registry.moves import service as moves
from modelshare.server.registry.storages import downloads, service
from modelshare.server.registry.storages.stores import RegistryPlatform
from modelshare.wire.base import Page
from modelshare.wire.models import Download
from modelshare.wire.storage import MoveRequest, Storage, StorageMove, StorageSet

router = APIRouter(prefix="/v1/storage", tags=["storage"], route_class=ProjectRoute)
of_models = APIRouter(tags=["models"], route_class=ProjectRoute)
RegistryPlatformDep = Annotated[RegistryPlatform, Depends(get_platform)]


@router.get("")
async def get_storage(caller: KeysCaller, session: ReadSession, base_url: BaseUrl) -> Storage:
    """Returns where the project's new pushes are stored, and what the last check found. Never contains keys."""
    return await service.show(session, caller, origin=base_url)


@router.put("")
async def set_storage(
    caller: KeysCaller, platform: RegistryPlatformDep, base_url: BaseUrl, body: StorageSet
) -> Storage:
    """Stores new pushes in a bucket of the project's own, after checking that it allows everything that is needed.

    400 with the failed step and the missing IAM action otherwise. Existing models stay where they are.
    """
    return await service.set_storage(platform, caller, body, origin=base_url)


@router.delete("", status_code=204)
async def unset_storage(caller: KeysCaller, session: WriteSession, platform: RegistryPlatformDep) -> None:
    """Stores new pushes on the platform again. Models in the bucket stay there. Safe to repeat."""
    await service.unset(session, platform, caller)


@router.post("/check")
async def check_storage(caller: KeysCaller, platform: RegistryPlatformDep, base_url: BaseUrl) -> Storage:
    """Checks the project's bucket again: reads, writes and deletes small objects there."""
    return await service.check(platform, caller, origin=base_url)


@router.get("/moves")
async def list_moves(caller: ModelsCaller, session: ReadSession, paging: PagingDep) -> Page[StorageMove]:
    """Lists moves of versions from one storage to another, newest first."""
    return await moves.page(session, caller, paging)


@router.post("/moves", status_code=202)
async def move_to_storage(caller: KeysCaller, platform: RegistryPlatformDep, body: MoveRequest) -> Page[StorageMove]:
    """Moves versions to the project's own storage, or to the platform's, in the background. Safe to repeat.

    Every file is verified; then the version uses the copies, and the old bytes are deleted when no URL of them is valid
    any more. Returns the moves in progress; versions that are stored there already are left out.
    """
    return Page.of(await moves.request(platform, caller, body), None)


@router.delete("/moves/{move_id}")
async def cancel_move(
    caller: KeysCaller, session: WriteSession, platform: RegistryPlatformDep, move_id: str
) -> StorageMove:
    """Cancels a move that is in progress: the version stays where it is. 409 if it is done."""
    return await moves.cancel(session, caller, move_id, now=platform.now())


@of_models.post("/v1/models/{model_id}/versions/{version}/download")
async def download_version(
    caller: ModelsCaller, model_id: ModelId, platform: RegistryPlatformDep, base_url: BaseUrl, version: str
) -> Download:
    """Returns a signed URL for each file of a ready version of your own, valid for minutes. Ask again for new ones."""
    return await downloads.download(platform, caller, model_id, version, base_url=base_url)
