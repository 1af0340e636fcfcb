"""The page of imports: what the platform copies from other places, and the form that starts one."""

from typing import Annotated

from fastapi import APIRouter, Form, Response

from modelshare.server.paging import PagingDep
from modelshare.server.registry.imports import service as imports
from modelshare.server.web.context import ModelsPage, ProjectContext, Text
from modelshare.server.web.pages import PageRoute, parse_form
from modelshare.wire.importing import ImportCreate

router = APIRouter(prefix="/dashboard/{project}/models/imports", route_class=PageRoute, include_in_schema=False)
Patterns = Annotated[str, Form(max_length=20_000)]


@router.get("")
async def imports_page(page: ModelsPage, paging: PagingDep) -> Response:
    found = await imports.page(page.session, page.caller, paging)
    settings = page.platform.settings
    return page.render(
        "dashboard/models/imports.html",
        imports=found,
        hub=settings.import_hf_endpoint,
        is_enabled=settings.import_enabled,
        after=paging.after,
    )


@router.get("/events")
async def imports_live(page: ModelsPage, paging: PagingDep) -> Response:
    async def table(page: ProjectContext) -> str:
        found = await imports.page(page.session, page.caller, paging)
        return page.fragment("dashboard/models/imports_table.html", imports=found)

    return page.live(table)


@router.post("")
async def start(
    page: ModelsPage,
    source: Text = "",
    name: Text = "",
    version: Text = "",
    endpoint: Text = "",
    token: Text = "",
    exclude: Patterns = "",
) -> Response:
    given = {"name": name, "version": version, "endpoint": endpoint, "token": token}
    texts = {field: text.strip() or None for field, text in given.items()}
    spec = parse_form(ImportCreate, source=source.strip(), exclude=exclude.split() or None, **texts)
    started, _ = await imports.create(page.platform, page.caller, spec)
    return page.redirect(f"{page.root}/models/imports", f"{started.name} is being imported.")


@router.post("/{import_id}/cancel")
async def cancel(page: ModelsPage, import_id: str) -> Response:
    ended = await imports.cancel(page.session, page.caller, import_id, now=page.now)
    return page.redirect(f"{page.root}/models/imports", f"Import of {ended.name} cancelled.")
