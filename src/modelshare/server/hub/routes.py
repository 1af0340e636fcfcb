"""`/v1/endpoints/{slug}/hf-token`, and the routes of the OCI form."""

from fastapi import APIRouter

from modelshare.server.http import EndpointsCaller, PlatformDep, ProjectRoute, WriteSession
from modelshare.server.hub import service
from modelshare.server.hub.oci import routes as oci_routes
from modelshare.wire.endpoints import EndpointToken

router = APIRouter(route_class=ProjectRoute, tags=["endpoints"])


@router.post("/v1/endpoints/{slug}/hf-token", status_code=201)
async def make_token(caller: EndpointsCaller, session: WriteSession, platform: PlatformDep, slug: str) -> EndpointToken:
    """Creates a token by which Hugging Face clients read the files that the endpoint runs. Shown only in this response;
    an earlier one ends.

    It ends with the endpoint, and reads nothing while that is inactive.
    """
    return await service.make_token(session, caller, slug, now=platform.now())


@router.delete("/v1/endpoints/{slug}/hf-token", status_code=204)
async def revoke_token(caller: EndpointsCaller, session: WriteSession, platform: PlatformDep, slug: str) -> None:
    """Revokes the endpoint's token, immediately."""
    await service.revoke_token(session, caller, slug, now=platform.now())


router.include_router(oci_routes.router)
