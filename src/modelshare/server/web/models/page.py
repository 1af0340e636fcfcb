"""A model's page: where it stands, its versions and files, and what people read of it."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.endpoints import deployment_stats, recalls
from modelshare.server.endpoints.service import EndpointPolicy
from modelshare.server.errors import InvalidRequestError
from modelshare.server.fleet import version_deletion
from modelshare.server.http import Caller, ModelId, Platform, PlatformDep, ReadSession, WriteSession
from modelshare.server.registry import service as registry
from modelshare.server.registry import versions
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.presenters import extended_view
from modelshare.server.web import markdown
from modelshare.server.web.dependencies import LiveDep
from modelshare.server.web.live_parts import watched
from modelshare.server.web.page_auth import ModelsCaller, ProjectDep
from modelshare.server.web.pages import PageRoute, fragment, parse_form, redirect_after_form, render
from modelshare.wire.keys import Scope
from modelshare.wire.models import ModelPatch, VersionPatch

router = APIRouter(prefix="/dashboard/{project}/models/{model_id}", route_class=PageRoute, include_in_schema=False)
Text = Annotated[str, Form()]
_LISTED_FILES = 200


@router.get("")
async def model_page(
    request: Request, caller: ModelsCaller, model_id: ModelId, session: ReadSession, platform: PlatformDep
) -> Response:
    shown = await _shown(session, caller, model_id, platform)
    return render(request, "dashboard/models/model.html", **shown, streamed=False)


@router.get("/events")
async def model_live(
    request: Request,
    viewer: ModelsCaller,
    model_id: ModelId,
    project: ProjectDep,
    platform: PlatformDep,
    live: LiveDep,
) -> Response:
    async def whole(session: AsyncSession, caller: Caller) -> str:
        shown = await _shown(session, caller, model_id, platform)
        root, now = f"/dashboard/{project.slug}", platform.now()
        return fragment("dashboard/models/whole.html", **shown, root=root, now=now, streamed=True)

    return live.stream(viewer.id, watched(request, project, Scope.MODELS, whole))


@router.get("/edit")
async def edit_page(request: Request, caller: ModelsCaller, model_id: ModelId, session: ReadSession) -> Response:
    model = extended_view(await sharing.get(session, caller, model_id))
    return render(request, "dashboard/models/edit.html", model=model)


@router.post("/edit")
async def edit(
    request: Request,
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    project: ProjectDep,
    name: Text = "",
    display_name: Text = "",
    description: Text = "",
    tags: Text = "",
    license: Text = "",  # noqa: A002 - the product's word
    card: Text = "",
) -> Response:
    """An empty field empties what people read; only a name there has to be."""
    texts = {
        "name": name,
        "display_name": display_name,
        "description": description,
        "license": license,
        "card": card,
    }
    texts = {field: text.replace("\r\n", "\n").strip() for field, text in texts.items()}
    words = list(dict.fromkeys(word.strip() for word in tags.split(",") if word.strip()))
    patch = parse_form(ModelPatch, **texts, tags=words)
    patch = patch.model_copy(update={field: None for field, text in texts.items() if not text})
    await registry.edit(session, caller, model_id, patch, now=platform.now())
    return redirect_after_form(request, f"/dashboard/{project.slug}/models/{model_id}", "Saved.")


@router.post("/versions/{version}/promote")
async def promote(
    request: Request,
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    project: ProjectDep,
    version: str,
) -> Response:
    await versions.promote(session, caller, model_id, version, now=platform.now())
    message = f"{version} is now the latest version. Endpoints that follow `latest` switch to it."
    return redirect_after_form(request, f"/dashboard/{project.slug}/models/{model_id}", message)


@router.get("/versions/{version}/rollback")
async def roll_back_page(
    request: Request, caller: ModelsCaller, model_id: ModelId, session: ReadSession, version: str
) -> Response:
    own = await sharing.get(session, caller, model_id)
    found = registry.version_of(own.model, version)
    model = extended_view(own, card=False)
    shown = registry.version_view(found)
    return render(request, "dashboard/models/roll_back.html", model=model, version=shown)


@router.post("/versions/{version}/rollback")
async def roll_back(
    request: Request,
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    project: ProjectDep,
    version: str,
) -> Response:
    before = registry.resolve(await registry.get(session, caller, model_id), None)
    instead = f", instead of {before.version}" if before else ""
    await versions.roll_back(session, caller, model_id, version, now=platform.now())
    message = f"{version} is the latest version again{instead}. Endpoints that follow `latest` switch to it."
    return redirect_after_form(request, f"/dashboard/{project.slug}/models/{model_id}", message)


@router.get("/versions/{version}/edit")
async def edit_version_page(
    request: Request, caller: ModelsCaller, model_id: ModelId, session: ReadSession, version: str
) -> Response:
    own = await sharing.get(session, caller, model_id)
    shown = registry.version_view(registry.version_of(own.model, version))
    return render(request, "dashboard/models/edit_version.html", model=extended_view(own, card=False), version=shown)


@router.post("/versions/{version}/edit")
async def edit_version(
    request: Request,
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    project: ProjectDep,
    version: str,
    notes: Text = "",
) -> Response:
    text = notes.replace("\r\n", "\n").strip()
    patch = parse_form(VersionPatch, version_notes=text) if text else VersionPatch(version_notes=None)
    await versions.edit_version(session, caller, model_id, version, patch, now=platform.now())
    return redirect_after_form(request, f"/dashboard/{project.slug}/models/{model_id}", "Saved.")


@router.get("/versions/{version}/delete")
async def delete_version_page(
    request: Request, caller: ModelsCaller, model_id: ModelId, session: ReadSession, version: str
) -> Response:
    preview = await version_deletion.preview(session, caller, model_id, version)
    model = extended_view(await sharing.get(session, caller, model_id), card=False)
    return render(request, "dashboard/models/delete_version.html", model=model, preview=preview)


@router.post("/versions/{version}/delete")
async def delete_version(
    request: Request,
    caller: ModelsCaller,
    model_id: ModelId,
    platform: PlatformDep,
    project: ProjectDep,
    version: str,
) -> Response:
    await version_deletion.delete(platform, caller, model_id, version)
    async with platform.database.read() as session:
        is_left = await registry.find(session, caller, model_id) is not None
    page = f"/dashboard/{project.slug}/models"
    return redirect_after_form(request, f"{page}/{model_id}" if is_left else page, f"Version {version} deleted.")


@router.post("/revalidate")
async def revalidate(
    request: Request,
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    project: ProjectDep,
) -> Response:
    await versions.revalidate(session, caller, model_id, now=platform.now())
    message = "Revalidation started. Its result appears here."
    return redirect_after_form(request, f"/dashboard/{project.slug}/models/{model_id}", message)


@router.get("/delete")
async def delete_page(request: Request, caller: ModelsCaller, model_id: ModelId, session: ReadSession) -> Response:
    own = await sharing.get(session, caller, model_id)
    foreign = own.model.foreign_endpoints
    return render(
        request,
        "dashboard/models/delete.html",
        model=extended_view(own, card=False),
        foreign_endpoints=foreign,
        own_endpoints=own.model.active_endpoints - foreign,
    )


@router.post("/delete")
async def delete(
    request: Request,
    caller: ModelsCaller,
    model_id: ModelId,
    session: WriteSession,
    platform: PlatformDep,
    project: ProjectDep,
    name: Text = "",
) -> Response:
    """The name is typed to be sure."""
    model = await registry.get(session, caller, model_id)
    if name.strip() != model.name:
        raise InvalidRequestError(f"This model is named {model.name}. Type exactly that to delete it.", param="name")
    await registry.delete(session, caller, model_id, now=platform.now())
    return redirect_after_form(
        request, f"/dashboard/{project.slug}/models", f"{name.strip()} deleted, with all its versions."
    )


async def _shown(session: AsyncSession, caller: Caller, model_id: uuid.UUID, platform: Platform) -> dict[str, Any]:
    """What the page tells, and its live part anew."""
    own = await sharing.get(session, caller, model_id)
    model, version = own.model, registry.current(own.model)
    if model.card:
        await markdown.prepare(model.card)
    files = await registry.stored_files(session, version.id) if version else []
    latest = registry.resolve(model, None)
    terms: EndpointPolicy = platform.parts[EndpointPolicy]
    return {
        "model": extended_view(own),
        "newest": registry.version_view(model.versions[-1]) if model.versions else None,
        "versions": [registry.version_view(row) for row in reversed(model.versions)],
        "ready": [row.version for row in registry.ready(model)],
        "before_latest": [row.version for row in model.versions if latest and row.id < latest.id],
        "files": files[:_LISTED_FILES],
        "more_files": max(0, len(files) - _LISTED_FILES),
        "footprint": await deployment_stats.footprint(session, caller, model_id),
        "recall": await recalls.state(session, caller, model_id, terms),
    }
