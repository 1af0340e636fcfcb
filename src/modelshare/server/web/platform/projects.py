"""All projects of the platform."""

import re
from decimal import Decimal
from typing import Annotated, Final

from fastapi import APIRouter, Form, Request, Response
from pydantic import AfterValidator

from modelshare.server.accounts import service as accounts
from modelshare.server.errors import NotFoundError
from modelshare.server.http import BaseUrl, PagingDep, PlatformDep, ReadSession, WriteSession
from modelshare.server.web.number_format import size
from modelshare.server.web.page_auth import AdminCaller
from modelshare.server.web.pages import PageRoute, parse_form, redirect_after_form, render, show_once
from modelshare.wire.keys import ProjectCreate, ProjectPatch

router = APIRouter(prefix="/projects", route_class=PageRoute)
Text = Annotated[str, Form(max_length=4096)]
_HERE: Final = "/dashboard/-/platform/projects"
_GB: Final = 1_000_000_000
_NUMBER: Final = re.compile(r"(\d{1,9}(\.\d{1,9})?)?", re.ASCII)


def _checked(text: str) -> str:
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError("Enter a number of gigabytes such as 80 or 1.5, or leave the field empty")
    return text.strip()


Gigabytes = Annotated[str, Form(max_length=100), AfterValidator(_checked)]
"""Empty takes the platform's default."""


@router.get("")
async def projects(
    request: Request, _: AdminCaller, session: ReadSession, platform: PlatformDep, paging: PagingDep
) -> Response:
    page = await accounts.list_projects(session, paging)
    quota = platform.settings.projects_quota_bytes
    return render(request, "platform/projects.html", projects=page, default_quota=quota)


@router.get("/new")
async def new_project_page(request: Request, _: AdminCaller, platform: PlatformDep) -> Response:
    quota = platform.settings.projects_quota_bytes
    return render(request, "platform/new_project.html", default_quota=quota)


@router.post("/new")
async def new_project(
    request: Request,
    caller: AdminCaller,
    session: WriteSession,
    platform: PlatformDep,
    base_url: BaseUrl,
    name: Text,
    slug: Text,
    quota_gb: Gigabytes = "",
) -> Response:
    """As with the API, its first key is what its owner begins with."""
    spec = parse_form(ProjectCreate, name=name.strip(), slug=slug.strip(), quota_bytes=_bytes(quota_gb))
    project = await accounts.create_project(session, spec, now=platform.now(), actor=caller.actor)
    return show_once(request, "platform/project_shown.html", made=project, base_url=base_url)


@router.get("/{project_id}/quota")
async def quota_page(
    request: Request, _: AdminCaller, session: ReadSession, platform: PlatformDep, project_id: str
) -> Response:
    found = await accounts.get_project(session, project_id)
    if found is None:
        raise NotFoundError("There is no such project.")
    given = "" if found.quota_bytes is None else _gigabytes(found.quota_bytes)
    default = platform.settings.projects_quota_bytes
    return render(request, "platform/quota.html", of=found, quota_gb=given, default_quota=default)


@router.post("/{project_id}/quota")
async def change_quota(
    request: Request,
    caller: AdminCaller,
    session: WriteSession,
    platform: PlatformDep,
    project_id: str,
    quota_gb: Gigabytes = "",
) -> Response:
    spec = ProjectPatch(quota_bytes=_bytes(quota_gb))
    changed = await accounts.change_project(session, project_id, spec, now=platform.now(), actor=caller.actor)
    default = platform.settings.projects_quota_bytes
    quota = f"the platform's default, {size(default)}" if changed.quota_bytes is None else size(changed.quota_bytes)
    return redirect_after_form(request, _HERE, f"{changed.name} may store {quota}.")


def _bytes(gigabytes: str) -> int | None:
    return int(Decimal(gigabytes) * _GB) if gigabytes else None


def _gigabytes(count: int) -> str:
    """All its digits, so that the form sends back what it was given."""
    return f"{(Decimal(count) / _GB).normalize():f}"
