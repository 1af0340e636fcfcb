"""Pages of a project's signers, and of what it requires of signatures."""

from fastapi import APIRouter, Response

from modelshare.server.accounts import service as accounts
from modelshare.server.paging import PagingDep
from modelshare.server.registry.signatures import service
from modelshare.server.web.context import OwnerPage, Text
from modelshare.server.web.pages import PageRoute, parse_form
from modelshare.wire.keys import ProjectSettings
from modelshare.wire.signers import SignerAdd

router = APIRouter(prefix="/dashboard/{project}/signers", route_class=PageRoute, include_in_schema=False)


@router.get("")
async def signers(page: OwnerPage, paging: PagingDep) -> Response:
    return page.render(
        "dashboard/signers/list.html",
        signers=await service.page(page.session, page.caller, paging),
        settings=await accounts.own_project(page.session, page.caller),
    )


@router.post("/new")
async def add(page: OwnerPage, name: Text = "", public_key: Text = "") -> Response:
    spec = parse_form(SignerAdd, name=name.strip(), public_key=public_key.strip())
    signer = await service.add(page.session, page.caller, spec, now=page.now)
    return page.redirect(f"{page.root}/signers", f"{signer.name} added. Its signatures count from now on.")


@router.post("/require")
async def require(page: OwnerPage, required: Text = "", allowed_signers: Text = "") -> Response:
    spec = parse_form(ProjectSettings, require_signature=bool(required), allowed_signers=allowed_signers.split())
    await accounts.change_settings(page.session, page.caller, spec, now=page.now)
    return page.redirect(f"{page.root}/signers", "Saved.")


@router.get("/{signer_id}/remove")
async def remove_page(page: OwnerPage, signer_id: str) -> Response:
    signer = await service.get(page.session, page.caller, signer_id)
    return page.render("dashboard/signers/remove.html", signer=signer)


@router.post("/{signer_id}/remove")
async def remove(page: OwnerPage, signer_id: str) -> Response:
    await service.remove(page.session, page.caller, signer_id, now=page.now)
    return page.redirect(f"{page.root}/signers", "Signer removed.")
