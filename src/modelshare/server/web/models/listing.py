"""The project's models, live, and uploading from the browser."""

from dataclasses import replace
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Response

from modelshare.server.paging import Paging
from modelshare.server.registry.in_place import service as in_place
from modelshare.server.registry.uploads import expiry
from modelshare.server.registry.uploads import service as uploads
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.presenters import extended_view
from modelshare.server.web.choices import Choice, Chosen, Field, Option
from modelshare.server.web.context import ModelsPage, ProjectContext
from modelshare.server.web.models.page import ModelPage, Text
from modelshare.server.web.pages import PageRoute, parse_form
from modelshare.wire import left_out
from modelshare.wire.models import ExtendedModel
from modelshare.wire.registering import ModelRegister
from modelshare.wire.uploads import UploadState

router = APIRouter(prefix="/dashboard/{project}/models", route_class=PageRoute, include_in_schema=False)
After = Annotated[str | None, Query(max_length=400)]
IDENTITY: Final = Choice(
    "identity",
    "Choose how the platform signs in to the bucket.",
    (
        Option("kept", "As in the project's storage"),
        Option(
            "keys",
            "With an access key",
            (Field("access_key_id", "Access key ID"), Field("secret_access_key", "Secret access key")),
        ),
        Option("role", "As a role on AWS", (Field("role_arn", "Role ARN"),)),
    ),
    otherwise="kept",
)
_LATEST: Final = (("", "only if it is higher and not a pre-release"), ("yes", "yes, always"), ("no", "no"))
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


@router.get("/register")
async def register_page(page: ModelsPage) -> Response:
    return page.render("dashboard/models/register.html", identity=IDENTITY, latest=_LATEST)


@router.post("/register")
async def register(
    page: ModelsPage,
    identity: Annotated[Chosen, Depends(IDENTITY.read)],
    source: Text = "",
    name: Text = "",
    version: Text = "",
    notes: Text = "",
    latest: Text = "",
    endpoint: Text = "",
    region: Text = "",
) -> Response:
    given = {"version": version, "version_notes": notes, "endpoint": endpoint, "region": region}
    given |= {field: identity.text(field) for field in ("access_key_id", "secret_access_key", "role_arn")}
    texts = {field: text.replace("\r\n", "\n").strip() or None for field, text in given.items()}
    make_latest = {"yes": True, "no": False}.get(latest)
    spec = parse_form(ModelRegister, source=source.strip(), name=name.strip(), make_latest=make_latest, **texts)
    registered, _ = await in_place.register(page.platform, page.caller, spec)
    message = f"{registered.name} {registered.version} is being read where it lies. {registered.left_out or ''}".strip()
    return page.redirect(f"{page.root}/models/{registered.model}", message)


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
