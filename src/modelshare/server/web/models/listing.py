"""The project's models, live, and uploading from the browser."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.http import BaseUrl, Caller, ModelId, Paging, PlatformDep, ReadSession
from modelshare.server.registry.uploads import expiry
from modelshare.server.registry.uploads import service as uploads
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.presenters import extended_view
from modelshare.server.web.dependencies import LiveDep
from modelshare.server.web.live_parts import watched
from modelshare.server.web.page_auth import ModelsCaller, ProjectDep
from modelshare.server.web.pages import PageRoute, fragment, redirect_after_form, render
from modelshare.wire import left_out
from modelshare.wire.keys import Scope
from modelshare.wire.models import ExtendedModel
from modelshare.wire.uploads import UploadState

router = APIRouter(prefix="/dashboard/{project}/models", route_class=PageRoute, include_in_schema=False)
After = Annotated[str | None, Query(max_length=400)]
_ON_A_PAGE = 50
_OPEN_SHOWN = 20


@router.get("")
async def models(
    request: Request, caller: ModelsCaller, session: ReadSession, url: BaseUrl, after: After = None
) -> Response:
    found, cursor = await _page(session, caller, after)
    return render(request, "dashboard/models/list.html", models=found, cursor=cursor, after=after, url=url)


@router.get("/events")
async def models_live(
    request: Request, viewer: ModelsCaller, project: ProjectDep, live: LiveDep, after: After = None
) -> Response:
    async def table(session: AsyncSession, caller: Caller) -> str:
        found, _ = await _page(session, caller, after)
        root = f"/dashboard/{project.slug}"
        return fragment("dashboard/models/table.html", models=found, root=root)

    return live.stream(viewer.id, watched(request, project, Scope.MODELS, table))


@router.get("/new")
async def new_model(request: Request, caller: ModelsCaller, platform: PlatformDep, url: BaseUrl) -> Response:
    return await _upload_page(request, caller, platform, url, None)


@router.get("/{model_id}/new-version")
async def new_version(
    request: Request,
    caller: ModelsCaller,
    model_id: ModelId,
    session: ReadSession,
    platform: PlatformDep,
    url: BaseUrl,
) -> Response:
    model = extended_view(await sharing.get(session, caller, model_id), card=False)
    return await _upload_page(request, caller, platform, url, model)


@router.post("/uploads/{upload_id}/cancel")
async def cancel_upload(
    request: Request, caller: ModelsCaller, project: ProjectDep, platform: PlatformDep, upload_id: str
) -> Response:
    upload = await expiry.cancel(platform, caller, upload_id)
    message = f"Upload of {upload.name} {upload.version} cancelled. The uploaded data was deleted."
    return redirect_after_form(request, f"/dashboard/{project.slug}/models", message)


async def _page(
    session: AsyncSession, caller: Caller, after: str | None
) -> tuple[list[tuple[ExtendedModel, int]], str | None]:
    """Each with how many active endpoints use it, shared or not."""
    owned, cursor = await sharing.page(session, caller, Paging(_ON_A_PAGE, after))
    return [(extended_view(own, card=False), own.model.active_endpoints) for own in owned], cursor


async def _upload_page(
    request: Request, caller: Caller, platform: PlatformDep, url: str, model: ExtendedModel | None
) -> Response:
    """`model`: whose new version it is; None for a new model. A bucket takes parts from the browser itself."""
    if platform.store.direct:
        request.state.connect_to = [platform.store.origin]
    paging, name = Paging(_OPEN_SHOWN, None), model.name if model else None
    found = await uploads.page(platform, caller, paging, state=UploadState.OPEN, name=name)
    return render(
        request,
        "dashboard/models/upload.html",
        model=model,
        uploads=found.data,
        url=url,
        left_out=left_out.for_scripts(),
    )
