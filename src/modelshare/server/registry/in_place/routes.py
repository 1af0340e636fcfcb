"""`POST /v1/models/register`."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from modelshare.server.http import ModelsCaller, ProjectRoute, get_platform
from modelshare.server.registry.in_place import service
from modelshare.server.registry.storages.stores import RegistryPlatform
from modelshare.wire.registering import ModelRegister, Registered

router = APIRouter(route_class=ProjectRoute, tags=["models"])
_KNOWN: dict[int | str, dict[str, Any]] = {200: {"description": "These very files are registered already"}}


@router.post("/v1/models/register", status_code=201, responses=_KNOWN)
async def register_model(
    caller: ModelsCaller,
    platform: Annotated[RegistryPlatform, Depends(get_platform)],
    body: ModelRegister,
    response: Response,
) -> Registered:
    """Publishes a model that lies in a bucket of yours, where it lies. Nothing is copied.

    The platform lists the files and reads each once; the version is `processing` until then. It fails when a file
    changes later. A source outside the project's storage needs an owner, or a key with the scope `keys`.
    """
    registered, is_new = await service.register(platform, caller, body)
    response.status_code = 201 if is_new else 200
    return registered
