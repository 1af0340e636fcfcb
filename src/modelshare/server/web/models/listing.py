"""The project's models, live, and uploading from the browser."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Response

from modelshare.server.paging import Paging
from modelshare.server.registry.uploads import expiry
from modelshare.server.registry.uploads import service as uploads
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.presenters import extended_view
from modelshare.server.web.context import ModelsPage, ProjectContext
from modelshare.server.web.models.page import ModelPage
from modelshare.server.web.pages import PageRoute
from modelshare.wire import left_out
from modelshare.wire.models import ExtendedModel
from modelshare.wire.uploads import UploadState

router = APIRouter(prefix="/dashboard/{project}/models", route_class=PageRoute, include_in_schema=False)
After = Annotated[str | None, Query(max_length=400)]
_ON_A_PAGE = 50
_OPEN_SHOWN = 20


@router.get("")
async def models(page: ModelsPage, after: After = None) -> Response:
    found, cursor = await _page(page, after)
    return page.render("dashboard/models/list.html", models=found, cursor=cursor, after=after, url=page.base_url)


@router.get("/events")
async def models_live(page: ModelsPage, after: After = None) -> Response:
    async def table(page: ProjectContext) -> str:
        found, _ = await _page(page, after)
        return page.fragment("dashboard/models/table.html", models=found)

    return page.live(table)


@router.get("/new")
async def new_model(page: ModelsPage) -> Response:
    return await _upload_page(page, None)


@router.get("/{model_id}/new-version")  # noqa: FAST003 - ModelPage takes the id
async def new_version(page: ModelPage) -> Response:
    async with page.platform.database.read() as session:  # closed before the storage is read
        model = await replace(page, session=session).model()
    return await _upload_page(page, model)


@router.post("/uploads/{upload_id}/cancel")
async def cancel_upload(page: ModelsPage, upload_id: str) -> Response:
    upload = await expiry.cancel(page.platform, page.caller, upload_id)
    message = f"Upload of {upload.name} {upload.version} cancelled. The uploaded data was deleted."
    return page.redirect(f"{page.root}/models", message)


async def _page(page: ProjectContext, after: str | None) -> tuple[list[tuple[ExtendedModel, int]], str | None]:
    """Each with the number of its active endpoints."""
    owned, cursor = await sharing.page(page.session, page.caller, Paging(_ON_A_PAGE, after))
    return [(extended_view(own, card=False), own.model.active_endpoints) for own in owned], cursor


async def _upload_page(page: ProjectContext, model: ExtendedModel | None) -> Response:
    """`model`: the model to upload a new version of; None for a new model."""
    page.request.state.connect_to = await uploads.origins(page.platform, page.caller)
    paging, name = Paging(_OPEN_SHOWN), model.name if model else None
    found = await uploads.page(page.platform, page.caller, paging, state=UploadState.OPEN, name=name)
    return page.render(
        "dashboard/models/upload.html",
        model=model,
        uploads=found.data,
        url=page.base_url,
        left_out=left_out.for_javascript(),
    )
