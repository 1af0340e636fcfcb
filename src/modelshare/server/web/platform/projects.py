"""Pages of all projects, all people, and the platform's admins."""

import re
import uuid
from decimal import Decimal
from typing import Annotated, Final

from fastapi import APIRouter, Form, Response
from pydantic import AfterValidator

from modelshare.server.accounts import people
from modelshare.server.accounts import service as accounts
from modelshare.server.errors import NotFoundError
from modelshare.server.paging import PagingDep
from modelshare.server.web.context import AdminPage, Text
from modelshare.server.web.number_format import size
from modelshare.server.web.pages import PageRoute, parse_form
from modelshare.wire.keys import ProjectCreate, ProjectPatch

router = APIRouter(route_class=PageRoute)
_HERE: Final = "/dashboard/-/platform/projects"
_GB: Final = 1_000_000_000
_NUMBER: Final = re.compile(r"(\d{1,9}(\.\d{1,9})?)?", re.ASCII)


def _checked(text: str) -> str:
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError("Enter a number of gigabytes such as 80 or 1.5, or leave the field empty")
    return text.strip()


Gigabytes = Annotated[str, Form(max_length=100), AfterValidator(_checked)]
"""Empty: the platform's default."""


@router.get("/projects")
async def projects(page: AdminPage, paging: PagingDep) -> Response:
    listed = await accounts.list_projects(page.session, paging)
    quota = page.platform.settings.projects_quota_bytes
    return page.render("platform/projects.html", projects=listed, default_quota=quota)


@router.get("/projects/new")
async def new_project_page(page: AdminPage) -> Response:
    quota = page.platform.settings.projects_quota_bytes
    return page.render("platform/new_project.html", default_quota=quota)


@router.post("/projects/new")
async def new_project(page: AdminPage, name: Text, slug: Text, quota_gb: Gigabytes = "") -> Response:
    """Like in the API, the project's first key is for its owner."""
    spec = parse_form(ProjectCreate, name=name.strip(), slug=slug.strip(), quota_bytes=_bytes(quota_gb))
    project = await accounts.create_project(page.session, spec, now=page.now, actor=page.caller.actor)
    return page.show_once("platform/project_shown.html", made=project, base_url=page.base_url)


@router.get("/projects/{project_id}/quota")
async def quota_page(page: AdminPage, project_id: str) -> Response:
    found = await accounts.get_project(page.session, project_id)
    if found is None:
        raise NotFoundError("There is no such project.")
    given = "" if found.quota_bytes is None else _gigabytes(found.quota_bytes)
    default = page.platform.settings.projects_quota_bytes
    return page.render("platform/quota.html", of=found, quota_gb=given, default_quota=default)


@router.post("/projects/{project_id}/quota")
async def change_quota(page: AdminPage, project_id: str, quota_gb: Gigabytes = "") -> Response:
    spec = ProjectPatch(quota_bytes=_bytes(quota_gb))
    changed = await accounts.change_project(page.session, project_id, spec, now=page.now, actor=page.caller.actor)
    default = page.platform.settings.projects_quota_bytes
    quota = f"the platform's default, {size(default)}" if changed.quota_bytes is None else size(changed.quota_bytes)
    return page.redirect(_HERE, f"{changed.name} may store {quota}.")


@router.get("/people")
async def everybody(page: AdminPage, paging: PagingDep) -> Response:
    return page.render("platform/people.html", people=await people.people(page.session, page.caller, paging))


@router.post("/people/{person_id}/admin")
async def set_admin(page: AdminPage, person_id: uuid.UUID, admin: Annotated[bool, Form()]) -> Response:
    person = await people.set_admin(page.session, page.caller, person_id, is_admin=admin, now=page.now)
    url = "/dashboard" if person_id == page.person.id and not admin else "/dashboard/-/platform/people"
    return page.redirect(url, f"{person.name} is {'now' if admin else 'no longer'} an admin.")


def _bytes(gigabytes: str) -> int | None:
    return int(Decimal(gigabytes) * _GB) if gigabytes else None


def _gigabytes(count: int) -> str:
    """With all digits, so that the form does not change the value."""
    return f"{(Decimal(count) / _GB).normalize():f}"
