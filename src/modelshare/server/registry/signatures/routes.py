"""`/v1/signers`, and signatures of versions."""

from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modelshare.server.http import (
    KeysCaller,
    ModelId,
    ModelsCaller,
    PlatformDep,
    ProjectRoute,
    ReadSession,
    WriteSession,
)
from modelshare.server.paging import PagingDep
from modelshare.server.registry.service import version_view
from modelshare.server.registry.signatures import service
from modelshare.wire.base import Page
from modelshare.wire.models import Version
from modelshare.wire.signers import Signer, SignerAdd

router = APIRouter(route_class=ProjectRoute)
_BUNDLE_BODY: Final = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
}


@router.get("/v1/signers", tags=["signers"])
async def list_signers(caller: ModelsCaller, session: ReadSession, paging: PagingDep) -> Page[Signer]:
    """Lists the public keys that the project has registered, newest first."""
    return await service.page(session, caller, paging)


@router.post("/v1/signers", status_code=201, tags=["signers"])
async def add_signer(caller: KeysCaller, session: WriteSession, platform: PlatformDep, body: SignerAdd) -> Signer:
    """Registers a public key. The project's versions that are signed with it become `valid`."""
    return await service.add(session, caller, body, now=platform.now())


@router.delete("/v1/signers/{signer}", status_code=204, tags=["signers"])
async def remove_signer(caller: KeysCaller, session: WriteSession, platform: PlatformDep, signer: str) -> None:
    """Removes a signer, by ID or name. The project's versions that are signed with its key become `unknown_signer`."""
    await service.remove(session, caller, signer, now=platform.now())


@router.post("/v1/models/{model_id}/versions/{version}/signature", tags=["models"], openapi_extra=_BUNDLE_BODY)
async def sign_version(
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    version: str,
    request: Request,
) -> Version:
    """Stores a signature of the version: a Sigstore bundle as OpenSSF Model Signing makes it, which covers all files.

    It replaces an earlier one. 400 says why it is invalid. A signature by a key that the project has not registered is
    stored, and counts once the key is registered.
    """
    data = await request.body()
    return version_view(await service.sign(session, caller, model_id, version, data, now=platform.now()))


@router.delete("/v1/models/{model_id}/versions/{version}/signature", status_code=204, tags=["models"])
async def remove_signature(
    caller: ModelsCaller, model_id: ModelId, session: WriteSession, platform: PlatformDep, version: str
) -> None:
    """Removes the version's signature. Endpoints that run it continue to run.

    A `model.sig` among the version's files stays there, and counts again once the model is revalidated.
    """
    await service.unsign(session, caller, model_id, version, now=platform.now())


@router.get(
    "/v1/models/{model_id}/versions/{version}/signature",
    tags=["models"],
    response_class=Response,
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}, "description": "The bundle"}},
)
async def get_signature(caller: ModelsCaller, model_id: ModelId, session: ReadSession, version: str) -> Response:
    """Returns the version's signature, as it was stored: a `model.sig` for `model_signing verify`."""
    return Response(await service.bundle_of(session, caller, model_id, version), media_type="application/json")
