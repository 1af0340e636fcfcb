"""Pages of a project's endpoints: the list and each one, live; create, change, switch off and on, delete."""

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.endpoints import presenters, service, version_choice
from modelshare.server.endpoints.tables import EndpointRow
from modelshare.server.errors import NotFoundError
from modelshare.server.fleet import service as fleet
from modelshare.server.http import BaseUrl, Caller, Paging, PlatformDep, ReadSession, WriteSession
from modelshare.server.registry import file_selection
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.server.web.dependencies import LiveDep, TermsDep
from modelshare.server.web.live_parts import watched
from modelshare.server.web.page_auth import EndpointsCaller, ProjectDep
from modelshare.server.web.pages import PageRoute, fragment, parse_form, redirect_after_form, render
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.endpoints import Endpoint, EndpointCreate, EndpointPatch
from modelshare.wire.keys import Project, Scope
from modelshare.wire.tiers import SELF_HOSTED

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Text = Annotated[str, Form(max_length=200)]
_OWN_FILE: Final = "-"
"""In a form: the version's own model. No weights have that name, and an empty field is one that was left out."""
Asked = Annotated[str, Query(max_length=200)]
Cursor = Annotated[str | None, Query(max_length=200)]
_LIST: Final = "/dashboard/{project}/endpoints"
_ONE: Final = _LIST + "/{slug}"
_PER_PAGE: Final = 50
_SLUG_LENGTH: Final = 63


@router.get(_LIST)
async def list_page(
    request: Request,
    caller: EndpointsCaller,
    project: ProjectDep,
    session: ReadSession,
    base_url: BaseUrl,
    after: Cursor = None,
) -> Response:
    listed = await _listed(session, caller, project, base_url, after)
    return render(request, "dashboard/endpoints/list.html", after=after, **listed)


@router.get(_LIST + "/-/events")
async def list_events(
    request: Request,
    viewer: EndpointsCaller,
    project: ProjectDep,
    platform: PlatformDep,
    live: LiveDep,
    base_url: BaseUrl,
    after: Cursor = None,
) -> Response:
    async def table(session: AsyncSession, caller: Caller) -> str:
        listed = await _listed(session, caller, project, base_url, after)
        return fragment("dashboard/endpoints/list_part.html", now=platform.now(), **listed)

    return live.stream(viewer.id, watched(request, project, Scope.ENDPOINTS, table))


@router.get(_LIST + "/new")
async def new_page(
    request: Request,
    caller: EndpointsCaller,
    session: ReadSession,
    terms: TermsDep,
    base_url: BaseUrl,
    model: Asked = "",
    tier: Asked = SELF_HOSTED,
    slug: Asked = "",
    version: Asked = "latest",
) -> Response:
    named, spec = await _spec(session, caller, model, tier, slug, version)
    own, _ = await sharing.page(session, caller, Paging(PAGE_LIMIT_MAX, None))
    return render(
        request,
        "dashboard/endpoints/new.html",
        model=named,
        tier=tier,
        slug=slug,
        version=version,
        spec=spec,
        explanation=await service.explain(session, caller, spec, terms) if spec else None,
        own=[presenters.served_name(each.model) for each in own],
        tiers=_options(terms.tiers),
        recalled=await _recalled(session, caller, base_url),
    )


@router.get(_LIST + "/-/explain")
async def explain(
    request: Request,
    caller: EndpointsCaller,
    session: ReadSession,
    terms: TermsDep,
    model: Asked = "",
    tier: Asked = SELF_HOSTED,
    slug: Asked = "",
    version: Asked = "latest",
) -> Response:
    """The part of the page that says whether the choice is possible."""
    _, spec = await _spec(session, caller, model, tier, slug, version)
    explanation = await service.explain(session, caller, spec, terms) if spec else None
    return render(request, "dashboard/endpoints/explanation.html", spec=spec, explanation=explanation)


@router.post(_LIST + "/new")
async def create(
    request: Request,
    caller: EndpointsCaller,
    project: ProjectDep,
    session: WriteSession,
    platform: PlatformDep,
    terms: TermsDep,
    model: Text,
    tier: Text,
    slug: Text = "",
    version: Text = "latest",
) -> Response:
    _, spec = await _spec(session, caller, model, tier, slug, version)
    if spec is None:
        raise NotFoundError("Enter a model: the name of one of yours, or `owner/name` from the catalog.")
    row = await service.create(session, caller, spec, terms, now=platform.now())
    return redirect_after_form(request, page_of(project.slug, row.slug), f"Endpoint {row.slug} created.")


@router.get(_ONE)
@router.get(_LIST + "/-/{slug}")
async def endpoint_page(
    request: Request,
    caller: EndpointsCaller,
    project: ProjectDep,
    session: ReadSession,
    terms: TermsDep,
    base_url: BaseUrl,
    slug: str,
) -> Response:
    row = await service.get(session, caller, slug)
    again = await service.explain(session, caller, _again(row, row.tier), terms, again=True) if row.model else None
    return render(
        request,
        "dashboard/endpoints/endpoint.html",
        again=again,
        tiers=_options(terms.tiers),
        versions=[(version, version) for version in _versions(row)],
        files=_files(row),
        task=_task(row),
        **await _shown(session, caller, project, row, base_url),
    )


@router.get(_ONE + "/events")
async def endpoint_events(
    request: Request,
    viewer: EndpointsCaller,
    project: ProjectDep,
    platform: PlatformDep,
    live: LiveDep,
    base_url: BaseUrl,
    slug: str,
) -> Response:
    async def standing(session: AsyncSession, caller: Caller) -> str:
        try:
            row = await service.get(session, caller, slug)
        except NotFoundError:
            return fragment("dashboard/endpoints/gone.html", slug=slug)
        shown = await _shown(session, caller, project, row, base_url)
        return fragment("dashboard/endpoints/endpoint_part.html", now=platform.now(), **shown)

    return live.stream(viewer.id, watched(request, project, Scope.ENDPOINTS, standing))


@router.get(_ONE + "/explain")
async def explain_move(
    request: Request, caller: EndpointsCaller, session: ReadSession, terms: TermsDep, slug: str, tier: Asked
) -> Response:
    """What moving the endpoint to this tier would come to."""
    row = await service.get(session, caller, slug)
    spec = _again(row, tier) if row.model and tier != row.tier else None
    explanation = await service.explain(session, caller, spec, terms, again=True) if spec else None
    return render(request, "dashboard/endpoints/explanation.html", spec=None, explanation=explanation)


@router.post(_ONE + "/change")
async def change(
    request: Request,
    caller: EndpointsCaller,
    project: ProjectDep,
    session: WriteSession,
    platform: PlatformDep,
    terms: TermsDep,
    slug: str,
    tier: Text,
    version: Text,
    file: Annotated[str, Form(max_length=1024)] = "",
) -> Response:
    row = await service.get(session, caller, slug)
    patch = parse_form(
        EndpointPatch,
        tier=tier if tier != row.tier else None,
        version=version if version != (row.version or "latest") else None,
        file=file if file not in {row.file, _OWN_FILE} else None,
    )
    if file == _OWN_FILE and row.file is not None:
        patch = EndpointPatch(**patch.model_dump(exclude_unset=True), file=None)
    await service.change(session, caller, slug, patch, terms, now=platform.now())
    return redirect_after_form(request, page_of(project.slug, slug), "Saved.")


@router.get(_ONE + "/off")
async def switch_off_page(
    request: Request, caller: EndpointsCaller, session: ReadSession, terms: TermsDep, slug: str
) -> Response:
    """Shows the effects of deactivating, and whether it could be activated again."""
    row = await service.get(session, caller, slug)
    again = await service.explain(session, caller, _again(row, row.tier), terms, again=True) if row.model else None
    return render(request, "dashboard/endpoints/off.html", slug=slug, again=again)


@router.post(_ONE + "/off")
async def switch_off(
    request: Request,
    caller: EndpointsCaller,
    project: ProjectDep,
    session: WriteSession,
    platform: PlatformDep,
    terms: TermsDep,
    slug: str,
) -> Response:
    await service.change(session, caller, slug, EndpointPatch(is_active=False), terms, now=platform.now())
    return redirect_after_form(request, page_of(project.slug, slug), "Endpoint deactivated.")


@router.post(_ONE + "/on")
async def switch_on(
    request: Request,
    caller: EndpointsCaller,
    project: ProjectDep,
    session: WriteSession,
    platform: PlatformDep,
    terms: TermsDep,
    slug: str,
) -> Response:
    await service.change(session, caller, slug, EndpointPatch(is_active=True), terms, now=platform.now())
    return redirect_after_form(request, page_of(project.slug, slug), "Endpoint activated.")


@router.get(_ONE + "/delete")
async def delete_page(request: Request, caller: EndpointsCaller, session: ReadSession, slug: str) -> Response:
    row = await service.get(session, caller, slug)
    return render(request, "dashboard/endpoints/delete.html", slug=slug, is_own_machine=row.tier == SELF_HOSTED)


@router.post(_ONE + "/delete")
async def delete(
    request: Request,
    caller: EndpointsCaller,
    project: ProjectDep,
    session: WriteSession,
    platform: PlatformDep,
    terms: TermsDep,
    slug: str,
) -> Response:
    await service.delete(session, caller, slug, terms, now=platform.now())
    return redirect_after_form(request, f"/dashboard/{project.slug}/endpoints", f"Endpoint {slug} deleted.")


async def _spec(
    session: AsyncSession, caller: Caller, model: str, tier: str, slug: str, version: str
) -> tuple[str, EndpointCreate | None]:
    """The model as `owner/name`, and what is wished; None while no model is named. Without a slug, the model's name."""
    if not model.strip():
        return "", None
    found = await sharing.find_visible(session, caller, model)
    named = presenters.served_name(found) if found else model
    spec = parse_form(
        EndpointCreate,
        model=str(found.id) if found else "unknown",
        tier=tier,
        slug=slug.strip() or _slug_for(named),
        version=version.strip(),
    )
    return named, spec


def _slug_for(model: str) -> str:
    """A slug made of a model's name."""
    name = model.rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9]+", "-", name)[:_SLUG_LENGTH].strip("-") or "endpoint"


def _again(row: EndpointRow, tier: str) -> EndpointCreate:
    """The endpoint as a wish, for asking whether it could be made anew on this tier."""
    tier = parse_form(EndpointPatch, tier=tier).tier or row.tier
    version = row.version or "latest"  # not checked anew, as it is there already
    return EndpointCreate.model_construct(
        slug=row.slug, model=str(row.model_id), tier=tier, version=version, file=row.file
    )


async def _listed(
    session: AsyncSession, caller: Caller, project: Project, base_url: str, after: str | None
) -> dict[str, Any]:
    rows, cursor = await service.page(session, caller, Paging(_PER_PAGE, after))
    return {
        "endpoints": [presenters.view(row, base_url) for row in rows],
        "recalled": await _recalled(session, caller, base_url),
        "cursor": cursor,
        "root": f"/dashboard/{project.slug}",
    }


async def _recalled(session: AsyncSession, caller: Caller, base_url: str) -> list[Endpoint]:
    return [presenters.view(row, base_url) for row in await service.under_recall(session, caller)]


async def _shown(
    session: AsyncSession, caller: Caller, project: Project, row: EndpointRow, base_url: str
) -> dict[str, Any]:
    endpoint = presenters.view(row, base_url)
    holding = row.model_id is not None and row.tier == SELF_HOSTED
    return {
        "endpoint": endpoint,
        "recalled": [endpoint] if endpoint.recall else [],
        "agents": await fleet.agents_holding(session, caller, row.model_id) if holding and row.model_id else [],
        "root": f"/dashboard/{project.slug}",
    }


def _versions(row: EndpointRow) -> list[str]:
    """What the endpoint may be set to: the newest first, and what it is set to now."""
    offered = [version.version for version in reversed(version_choice.choosable(row))]
    return list(dict.fromkeys(("latest", *offered, row.version or "latest")))


def _files(row: EndpointRow) -> list[tuple[str, str]]:
    """What the endpoint may serve of its version, and what it serves now; none where there is no choice."""
    version = presenters.resolved(row)
    choices = file_selection.choices(version) if version else []
    if not choices and row.file is None:
        return []
    files = {choice["file"]: f"{choice['file']} ({choice['quantization'] or choice['format']})" for choice in choices}
    now = {row.file: row.file} if row.file else {}
    return [(_OWN_FILE, "the version's default"), *(now | files).items()]


def _task(row: EndpointRow) -> str | None:
    """What the model is for: of the version that is served."""
    model = presenters.serves(row)
    return model.task if model else None


def _options(tiers: TierRegistry) -> list[tuple[str, str]]:
    return [(tier.slug, f"{tier.name} ({tier.slug})") for tier in tiers]


def page_of(project: str | None, slug: str) -> str:
    """Where an endpoint of the project (its slug) is shown: `…/new` is where they are made, and a good slug too."""
    return f"/dashboard/{project}/endpoints/{'-/' if slug == 'new' else ''}{slug}"
