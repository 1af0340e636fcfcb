"""`/v1/endpoints`, the owner's view of who deploys a model, and recalls."""

from typing import Annotated

from fastapi import APIRouter, Depends

from modelshare.server.endpoints import deployment_stats, presenters, recalls, service
from modelshare.server.endpoints.policy import EndpointsPlatform
from modelshare.server.http import (
    BaseUrl,
    EndpointsCaller,
    ModelId,
    ModelsCaller,
    PlatformDep,
    ProjectRoute,
    ReadSession,
    WriteSession,
    get_platform,
)
from modelshare.server.paging import PagingDep
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.presenters import OwnModel, extended_view
from modelshare.wire.base import Page
from modelshare.wire.endpoints import Endpoint, EndpointCreate, EndpointPatch, Explanation
from modelshare.wire.models import CatalogFootprint, ExtendedModel, UnsharePreview
from modelshare.wire.sharing import Recall, RecallRequest

router = APIRouter(route_class=ProjectRoute, tags=["endpoints"])
EndpointsPlatformDep = Annotated[EndpointsPlatform, Depends(get_platform)]


@router.get("/v1/endpoints")
async def list_endpoints(
    caller: EndpointsCaller, session: ReadSession, paging: PagingDep, base_url: BaseUrl
) -> Page[Endpoint]:
    """Lists the project's endpoints, newest first."""
    return presenters.listing(*await service.page(session, caller, paging), base_url)


@router.post("/v1/endpoints", status_code=201)
async def create_endpoint(
    caller: EndpointsCaller,
    session: WriteSession,
    platform: EndpointsPlatformDep,
    base_url: BaseUrl,
    body: EndpointCreate,
) -> Endpoint:
    """Creates an endpoint. If refused, the error says why and what would make it possible, as `explain` does."""
    return presenters.view(
        await service.create(session, caller, body, platform.endpoint_policy, now=platform.now()), base_url
    )


@router.post("/v1/endpoints/explain")
async def explain_endpoint(
    caller: EndpointsCaller, session: ReadSession, platform: EndpointsPlatformDep, body: EndpointCreate
) -> Explanation:
    """Whether this endpoint could be created now; if not, why, and what would make it possible."""
    return await service.explain(session, caller, body, platform.endpoint_policy)


@router.get("/v1/endpoints/{slug}")
async def get_endpoint(
    caller: EndpointsCaller, session: ReadSession, platform: EndpointsPlatformDep, base_url: BaseUrl, slug: str
) -> Endpoint:
    """Returns an endpoint of the project."""
    row = await service.get(session, caller, slug)
    return presenters.view(row, base_url, platform.endpoint_policy.live(row.id, row.tier))


@router.patch("/v1/endpoints/{slug}")
async def change_endpoint(
    caller: EndpointsCaller,
    session: WriteSession,
    platform: EndpointsPlatformDep,
    base_url: BaseUrl,
    slug: str,
    body: EndpointPatch,
) -> Endpoint:
    """Activates or deactivates an endpoint, moves it to another tier, or changes its version."""
    return presenters.view(
        await service.change(session, caller, slug, body, platform.endpoint_policy, now=platform.now()), base_url
    )


@router.delete("/v1/endpoints/{slug}", status_code=204)
async def delete_endpoint(
    caller: EndpointsCaller, session: WriteSession, platform: EndpointsPlatformDep, slug: str
) -> None:
    """Deletes an endpoint."""
    await service.delete(session, caller, slug, platform.endpoint_policy, now=platform.now())


@router.post("/v1/models/{model_id}/unshare", tags=["models"])
async def unshare_model(
    caller: ModelsCaller, model_id: ModelId, session: WriteSession, platform: PlatformDep, *, dry_run: bool = False
) -> ExtendedModel | UnsharePreview:
    """Removes the model from the catalog; existing endpoints keep serving.

    Endpoints of other projects that follow `latest` stay at the current latest version: versions pushed or promoted
    later do not reach them until the model is shared with their project again. `dry_run=true` changes nothing and
    returns what would happen.
    """
    if dry_run:
        return await deployment_stats.unshare_preview(session, caller, model_id)
    return extended_view(OwnModel(await sharing.unshare(session, caller, model_id, now=platform.now())))


@router.get("/v1/models/{model_id}/catalog", tags=["models"])
async def get_footprint(caller: ModelsCaller, model_id: ModelId, session: ReadSession) -> CatalogFootprint:
    """Returns the owner's view of a model's footprint: role, counts per tier, deploying projects, tokens served."""
    return await deployment_stats.footprint(session, caller, model_id)


@router.post("/v1/models/{model_id}/recall", tags=["models"])
async def recall_model(
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: EndpointsPlatformDep,
    body: RecallRequest,
) -> Recall:
    """Recalls a model, for licence or safety reasons: unshares it now and stops other projects' endpoints at the
    deadline.

    Until then their endpoints keep serving, and deployers are notified. After that, machines delete the weights and
    confirm it. A `deadline` of null cancels the recall; the model stays out of the catalog until it is shared again.
    """
    return await recalls.request(session, caller, model_id, body, platform.endpoint_policy, now=platform.now())


@router.get("/v1/models/{model_id}/recall", tags=["models"])
async def get_recall(
    caller: ModelsCaller, model_id: ModelId, session: ReadSession, platform: EndpointsPlatformDep
) -> Recall:
    """Returns the state of a recall: endpoints still serving, and machines that have deleted the weights."""
    return await recalls.state(session, caller, model_id, platform.endpoint_policy)
