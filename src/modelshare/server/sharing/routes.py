"""`/v1/models` with sharing, `/v1/catalog` with claims, `/v1/tiers`."""

import uuid
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from modelshare.server.errors import ConflictError
from modelshare.server.http import (
    EndpointsCaller,
    ModelId,
    ModelReference,
    ModelsCaller,
    PlatformCaller,
    PlatformDep,
    ProjectRoute,
    ReadSession,
    WriteSession,
    authenticate,
    public_rate_limit,
    reference_of,
    unknown_model,
)
from modelshare.server.paging import PagingDep
from modelshare.server.registry import service as registry
from modelshare.server.registry import versions
from modelshare.server.registry.service import version_of, version_view
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.server.sharing import audience, presenters, provenance, search, service
from modelshare.server.sharing.search import ANYBODY, Filters, SearchQuery, Sort, Viewer
from modelshare.server.sharing.tiers import SharingPlatformDep
from modelshare.wire.base import Page
from modelshare.wire.models import (
    AnnexXii,
    BomFormat,
    CatalogModelDetail,
    CatalogPage,
    CatalogRole,
    Deletion,
    ExtendedModel,
    FeatureRequest,
    Manifest,
    Model,
    ModelPatch,
    SharedModel,
    StoredBytes,
    Version,
    VersionPatch,
)
from modelshare.wire.sharing import Claim, ShareRequest
from modelshare.wire.tiers import Tier

router = APIRouter(route_class=ProjectRoute, tags=["models"])
public = APIRouter(dependencies=[Depends(public_rate_limit)])


async def _viewer(request: Request) -> Viewer:
    """Who views the catalog. A key is optional, but must be valid if it is sent."""
    if request.headers.get("authorization") is None:
        return ANYBODY
    return service.viewer_of(await authenticate(request))


ViewerDep = Annotated[Viewer, Depends(_viewer)]


async def _catalog_model_id(viewer: ViewerDep, session: ReadSession, model_id: ModelReference) -> uuid.UUID:
    found = await service.find_id(session, reference_of(model_id), own=viewer.project_id)
    return found or unknown_model(model_id)


async def _any_model_id(platform: PlatformDep, model_id: ModelReference) -> uuid.UUID:
    async with platform.database.read() as session:  # ends before the route's own transaction
        found = await service.find_id(session, reference_of(model_id), own=None)
    return found or unknown_model(model_id)


_BOM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The document", "content": {"application/json": {"schema": {"type": "object"}}}}
}
CatalogModelId = Annotated[uuid.UUID, Depends(_catalog_model_id)]
"""The ID of a model of any project. The catalog decides whether the viewer may see it."""
AnyModelId = Annotated[uuid.UUID, Depends(_any_model_id)]


@router.get("/v1/models")
async def list_models(
    caller: ModelsCaller, session: ReadSession, paging: PagingDep, *, extended: bool = False
) -> Page[ExtendedModel] | Page[Model]:
    """Lists the project's models, newest first; `extended=true` adds all fields."""
    rows, cursor = await service.page(session, caller, paging)
    if extended:
        data = [presenters.extended_view(own, card=False) for own in rows]
        return Page[ExtendedModel].of(data, cursor)
    return Page[Model].of([presenters.model_view(own.model) for own in rows], cursor)


@router.get("/v1/models/{model_id}")
async def get_model(caller: ModelsCaller, model_id: ModelId, session: ReadSession) -> ExtendedModel:
    """Returns a model of the project."""
    return presenters.extended_view(await service.get(session, caller, model_id))


@router.patch("/v1/models/{model_id}")
async def edit_model(
    caller: ModelsCaller, model_id: ModelId, session: WriteSession, platform: PlatformDep, body: ModelPatch
) -> ExtendedModel:
    """Renames a model or edits its card; the manifest never changes."""
    await registry.edit(session, caller, model_id, body, now=platform.now())
    return presenters.extended_view(await service.get(session, caller, model_id))


@router.delete(
    "/v1/models/{model_id}",
    status_code=204,
    response_model=None,
    responses={200: {"model": Deletion, "description": "With `bytes=keep`: what is kept"}},
)
async def delete_model(
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    bytes: StoredBytes | None = None,  # noqa: A002 - the contract's name
) -> Response | None:
    """Deletes a model with all its versions; 409 while active endpoints of other projects use it.

    If files of it are in a storage of your own, `bytes` has to say what happens to them: `keep` leaves them there, and
    the response lists them; `delete` deletes them. Files on the platform are always deleted.
    """
    kept = await registry.delete(session, caller, model_id, now=platform.now(), stored=bytes)
    return JSONResponse(Deletion(kept=kept).model_dump(mode="json")) if bytes is StoredBytes.KEEP else None


@router.post("/v1/models/{model_id}/revalidate")
async def revalidate_model(
    caller: ModelsCaller, model_id: ModelId, session: WriteSession, platform: PlatformDep
) -> ExtendedModel:
    """Checks all files of the model again, in the background."""
    await versions.revalidate(session, caller, model_id, now=platform.now())
    return presenters.extended_view(await service.get(session, caller, model_id))


@router.get("/v1/models/{model_id}/versions")
async def list_versions(caller: ModelsCaller, model_id: ModelId, session: ReadSession) -> Page[Version]:
    """Lists the model's versions, newest first."""
    model = await registry.get(session, caller, model_id)
    return Page(data=[version_view(row) for row in reversed(model.versions)])


@router.get("/v1/models/{model_id}/versions/{version}/manifest", response_model=Manifest)
async def get_manifest(caller: ModelsCaller, model_id: ModelId, session: ReadSession, version: str) -> Response:
    """Returns the manifest of a ready version in its canonical form, whose SHA-256 is its digest."""
    found = version_of(await registry.get(session, caller, model_id), version)
    if found.manifest is None:
        raise ConflictError(f"Version {version} is {found.status}. A version has a manifest once it is ready.")
    return Response(found.manifest, media_type="application/json")


@router.get("/v1/models/{model_id}/versions/{version}/bom", response_model=None, responses=_BOM)
async def get_bom(
    caller: ModelsCaller,
    model_id: ModelId,
    session: ReadSession,
    version: str,
    format: BomFormat = BomFormat.CYCLONEDX,  # noqa: A002 - the contract's name
) -> dict[str, Any] | AnnexXii:
    """Returns what a ready version is made of: an AI bill of materials (CycloneDX), or the EU AI Act's Annex XII."""
    model = await registry.get(session, caller, model_id)
    found = version_of(model, version)
    if found.manifest is None:
        raise ConflictError(f"Version {version} is {found.status}. Ask again once it is ready.")
    return _bom(model, found, format)


def _bom(model: ModelRow, version: VersionRow, kind: BomFormat) -> dict[str, Any] | AnnexXii:
    make = provenance.cyclonedx if kind is BomFormat.CYCLONEDX else provenance.annex_xii
    return make(model, version)


@router.post("/v1/models/{model_id}/versions/{version}/promote")
async def promote_version(
    caller: ModelsCaller, model_id: ModelId, session: WriteSession, platform: PlatformDep, version: str
) -> ExtendedModel:
    """Makes a ready version the latest; endpoints that follow `latest` switch to it."""
    await versions.promote(session, caller, model_id, version, now=platform.now())
    return presenters.extended_view(await service.get(session, caller, model_id))


@router.post("/v1/models/{model_id}/versions/{version}/rollback")
async def roll_back_version(
    caller: ModelsCaller, model_id: ModelId, session: WriteSession, platform: PlatformDep, version: str
) -> ExtendedModel:
    """Rolls back to `version`: it becomes the latest, and endpoints that follow `latest` switch to it.

    It must be ready (otherwise 404) and not already the latest (otherwise 409). The version that was the latest is
    kept.
    """
    await versions.roll_back(session, caller, model_id, version, now=platform.now())
    return presenters.extended_view(await service.get(session, caller, model_id))


@router.patch("/v1/models/{model_id}/versions/{version}")
async def edit_version(
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    version: str,
    body: VersionPatch,
) -> Version:
    """Edits a version's notes; null removes them."""
    return version_view(await versions.edit_version(session, caller, model_id, version, body, now=platform.now()))


@router.post("/v1/models/{model_id}/share")
async def share_model(
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    body: Annotated[ShareRequest, Body(default_factory=ShareRequest)],
) -> SharedModel:
    """Shares the model in the catalog: its manifest, never its weights.

    With everyone, with certain projects, or with projects that claim a link. Without a body, a model that is not shared
    yet is shared with everyone, and the audience of a shared one stays the same.
    """
    own, link = await service.share(session, caller, model_id, body.audience, now=platform.now())
    return SharedModel(**presenters.extended_view(own).model_dump(), link=link)


@router.delete("/v1/models/{model_id}/links/{link_id}", status_code=204)
async def end_link(
    caller: ModelsCaller, model_id: ModelId, session: WriteSession, platform: PlatformDep, link_id: str
) -> None:
    """Revokes a claim link; projects that have claimed it still see the model."""
    await audience.end_link(session, caller, model_id, link_id, now=platform.now())


@router.post("/v1/catalog/claims", tags=["catalog"])
async def claim_link(caller: EndpointsCaller, platform: SharingPlatformDep, body: Claim) -> CatalogModelDetail:
    """Claims a link: the model then appears in the project's view of the catalog."""
    async with platform.database.write() as session:
        model_id = await audience.claim(session, caller, body.token, now=platform.now())
    async with platform.database.read() as session:  # the catalog entry is written when the claim is committed
        return await service.catalog_model(session, service.viewer_of(caller), model_id, platform.tiers)


@router.post("/v1/platform/catalog/{model_id}/feature", tags=["platform"])
async def feature_model(
    caller: PlatformCaller, model_id: AnyModelId, session: WriteSession, platform: PlatformDep, body: FeatureRequest
) -> FeatureRequest:
    """Sets or clears the featured flag of a model in the catalog."""
    share = await service.feature(session, caller, model_id, featured=body.featured, now=platform.now())
    return FeatureRequest(featured=share.featured)


@router.get("/v1/platform/tiers", tags=["platform"])
async def list_platform_tiers(_: PlatformCaller, platform: SharingPlatformDep) -> Page[Tier]:
    """Lists the platform's tiers with all fields of the tiers file."""
    return Page(data=list(platform.tiers))


@public.get("/v1/tiers", tags=["catalog"])
async def list_tiers(platform: SharingPlatformDep) -> Page[Tier]:
    """Lists the service tiers and their limits."""
    return Page(data=list(platform.tiers))


@public.get("/v1/catalog/models", tags=["catalog"])
async def list_catalog(
    viewer: ViewerDep,
    session: ReadSession,
    platform: SharingPlatformDep,
    paging: PagingDep,
    q: Annotated[str | None, Query(max_length=200)] = None,
    family: str | None = None,
    tag: str | None = None,
    license: str | None = None,  # noqa: A002 - the contract's name
    architecture: str | None = None,
    format: str | None = None,  # noqa: A002 - the contract's name
    role: CatalogRole | None = None,
    min_parameters: Annotated[int, Field(ge=0, le=1 << 62)] | None = None,
    max_parameters: Annotated[int, Field(ge=0, le=1 << 62)] | None = None,
    min_context: Annotated[int, Field(ge=0, le=1 << 62)] | None = None,
    max_context: Annotated[int, Field(ge=0, le=1 << 62)] | None = None,
    sort: Sort = Sort.RELEVANCE,
    *,
    facets: bool = False,
) -> CatalogPage:
    """Searches the catalog. No key needed; with one, models shared with its project are included."""
    filters = Filters(
        q, family, tag, license, architecture, format, role, min_parameters, max_parameters, min_context, max_context
    )
    found = await search.find(session, viewer, SearchQuery(filters, sort, paging.limit, paging.after, facets))
    return presenters.catalog_page(found, platform.tiers)


@public.get("/v1/catalog/models/{model_id}", tags=["catalog"])
async def get_catalog_model(
    viewer: ViewerDep, model_id: CatalogModelId, session: ReadSession, platform: SharingPlatformDep
) -> CatalogModelDetail:
    """Returns a model of the catalog: card, facts, role and manifest. No key needed for public models."""
    return await service.catalog_model(session, viewer, model_id, platform.tiers)


@public.get("/v1/catalog/models/{model_id}/bom", tags=["catalog"], response_model=None, responses=_BOM)
async def get_catalog_bom(
    viewer: ViewerDep,
    model_id: CatalogModelId,
    session: ReadSession,
    format: BomFormat = BomFormat.CYCLONEDX,  # noqa: A002 - the contract's name
) -> dict[str, Any] | AnnexXii:
    """Returns what a model of the catalog is made of: an AI bill of materials, or the EU AI Act's Annex XII."""
    _, model, version = await service.catalog_entry(session, viewer, model_id)
    return _bom(model, version, format)
