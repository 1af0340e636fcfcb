"""All projects of the platform."""

from typing import Annotated, Final

from fastapi import APIRouter, Form, Request, Response

from modelshare.server.accounts import service as accounts
from modelshare.server.http import BaseUrl, PagingDep, PlatformDep, ReadSession, WriteSession
from modelshare.server.web.pages import PageRoute, once, parsed, render
from modelshare.server.web.visitor import AdminCaller
from modelshare.wire.keys import ProjectCreate

router = APIRouter(prefix="/projects", route_class=PageRoute)
Text = Annotated[str, Form(max_length=4096)]
_GB: Final = 1_000_000_000


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
    quota_gb: Annotated[str, Form(pattern=r"^\d{0,9}$", max_length=9)] = "",
) -> Response:
    """As with the API, its first key is what its owner begins with."""
    quota = int(quota_gb) * _GB if quota_gb else None
    wish = parsed(ProjectCreate, name=name.strip(), slug=slug.strip(), quota_bytes=quota)
    project = await accounts.create_project(session, wish, now=platform.now(), actor=caller.actor)
    return once(request, "platform/project_shown.html", made=project, base_url=base_url)
