"""Pages of a project's endpoints: the list and each one, live; create, change, switch off and on, delete."""

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, Query, Response

from modelshare.server.endpoints import presenters, service, version_choice
from modelshare.server.endpoints.tables import EndpointRow
from modelshare.server.errors import NotFoundError
from modelshare.server.fleet import service as fleet
from modelshare.server.paging import Paging
from modelshare.server.registry import file_selection
from modelshare.server.router import remaining
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.server.web.context import EndpointsPage, ProjectContext
from modelshare.server.web.pages import PageRoute, parse_form
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.endpoints import Endpoint, EndpointCreate, EndpointPatch, Explanation
from modelshare.wire.tiers import SELF_HOSTED

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Text = Annotated[str, Form(max_length=200)]
_OWN_FILE: Final = "-"
"""The value in a form for the version's own model. Not empty, since empty means unchanged; no file has this name."""
Asked = Annotated[str, Query(max_length=200)]
Cursor = Annotated[str | None, Query(max_length=200)]
_LIST: Final = "/dashboard/{project}/endpoints"
_ONE: Final = _LIST + "/{slug}"
_PER_PAGE: Final = 50
_SLUG_LENGTH: Final = 63


@router.get(_LIST)
async def list_page(page: EndpointsPage, after: Cursor = None) -> Response:
    listed = await _listed(page, after)
    budgets = await remaining.strained_budgets(page.session, page.platform, page.caller)
    return page.render("dashboard/endpoints/list.html", after=after, budgets=budgets, **listed)


@router.get(_LIST + "/-/events")
async def list_events(page: EndpointsPage, after: Cursor = None) -> Response:
    async def table(page: ProjectContext) -> str:
        return page.fragment("dashboard/endpoints/list_part.html", **await _listed(page, after))

    return page.live(table)


@router.get(_LIST + "/new")
async def new_page(
    page: EndpointsPage, model: Asked = "", tier: Asked = SELF_HOSTED, slug: Asked = "", version: Asked = "latest"
) -> Response:
    named, spec = await _spec(page, model, tier, slug, version)
    own, _ = await sharing.page(page.session, page.caller, Paging(PAGE_LIMIT_MAX))
    return page.render(
        "dashboard/endpoints/new.html",
        model=named,
        tier=tier,
        slug=slug,
        version=version,
        spec=spec,
        explanation=await _explained(page, spec),
        own=[presenters.served_name(each.model) for each in own],
        tiers=_options(page.platform.tiers),
        recalled=await _recalled(page),
    )


@router.get(_LIST + "/-/explain")
async def explain(
    page: EndpointsPage, model: Asked = "", tier: Asked = SELF_HOSTED, slug: Asked = "", version: Asked = "latest"
) -> Response:
    """The part of the page that says whether the choice is possible."""
    _, spec = await _spec(page, model, tier, slug, version)
    return page.render("dashboard/endpoints/explanation.html", spec=spec, explanation=await _explained(page, spec))


@router.post(_LIST + "/new")
async def create(page: EndpointsPage, model: Text, tier: Text, slug: Text = "", version: Text = "latest") -> Response:
    _, spec = await _spec(page, model, tier, slug, version)
    if spec is None:
        raise NotFoundError("Enter a model: the name of one of yours, or `owner/name` from the catalog.")
    row = await service.create(page.session, page.caller, spec, page.policy, now=page.now)
    return page.redirect(page_of(page.project.slug, row.slug), f"Endpoint {row.slug} created.")


@router.get(_ONE)
@router.get(_LIST + "/-/{slug}")
async def endpoint_page(page: EndpointsPage, slug: str) -> Response:
    row = await service.get(page.session, page.caller, slug)
    return page.render(
        "dashboard/endpoints/endpoint.html",
        again=await _explained_again(page, row, row.tier),
        tiers=_options(page.platform.tiers),
        versions=[(version, version) for version in _versions(row)],
        files=_files(row),
        task=_task(row),
        **await _shown(page, row),
    )


@router.get(_ONE + "/events")
async def endpoint_events(page: EndpointsPage, slug: str) -> Response:
    async def endpoint(page: ProjectContext) -> str:
        try:
            row = await service.get(page.session, page.caller, slug)
        except NotFoundError:
            return page.fragment("dashboard/endpoints/gone.html", slug=slug)
        return page.fragment("dashboard/endpoints/endpoint_part.html", **await _shown(page, row))

    return page.live(endpoint)


@router.get(_ONE + "/explain")
async def explain_move(page: EndpointsPage, slug: str, tier: Asked) -> Response:
    """The effects of moving the endpoint to this tier."""
    row = await service.get(page.session, page.caller, slug)
    explanation = await _explained_again(page, row, tier) if tier != row.tier else None
    return page.render("dashboard/endpoints/explanation.html", spec=None, explanation=explanation)


@router.post(_ONE + "/change")
async def change(
    page: EndpointsPage, slug: str, tier: Text, version: Text, file: Annotated[str, Form(max_length=1024)] = ""
) -> Response:
    row = await service.get(page.session, page.caller, slug)
    patch = parse_form(
        EndpointPatch,
        tier=tier if tier != row.tier else None,
        version=version if version != (row.version or "latest") else None,
        file=file if file not in {row.file, _OWN_FILE} else None,
    )
    if file == _OWN_FILE and row.file is not None:
        patch = EndpointPatch(**patch.model_dump(exclude_unset=True), file=None)
    await service.change(page.session, page.caller, slug, patch, page.policy, now=page.now)
    return page.redirect(page_of(page.project.slug, slug), "Saved.")


@router.get(_ONE + "/off")
async def switch_off_page(page: EndpointsPage, slug: str) -> Response:
    """Shows the effects of deactivating, and whether it could be activated again."""
    row = await service.get(page.session, page.caller, slug)
    return page.render("dashboard/endpoints/off.html", slug=slug, again=await _explained_again(page, row, row.tier))


@router.post(_ONE + "/off")
async def switch_off(page: EndpointsPage, slug: str) -> Response:
    await service.change(page.session, page.caller, slug, EndpointPatch(is_active=False), page.policy, now=page.now)
    return page.redirect(page_of(page.project.slug, slug), "Endpoint deactivated.")


@router.post(_ONE + "/on")
async def switch_on(page: EndpointsPage, slug: str) -> Response:
    await service.change(page.session, page.caller, slug, EndpointPatch(is_active=True), page.policy, now=page.now)
    return page.redirect(page_of(page.project.slug, slug), "Endpoint activated.")


@router.get(_ONE + "/delete")
async def delete_page(page: EndpointsPage, slug: str) -> Response:
    row = await service.get(page.session, page.caller, slug)
    return page.render("dashboard/endpoints/delete.html", slug=slug, is_own_machine=row.tier == SELF_HOSTED)


@router.post(_ONE + "/delete")
async def delete(page: EndpointsPage, slug: str) -> Response:
    await service.delete(page.session, page.caller, slug, page.policy, now=page.now)
    return page.redirect(f"{page.root}/endpoints", f"Endpoint {slug} deleted.")


async def _spec(
    page: ProjectContext, model: str, tier: str, slug: str, version: str
) -> tuple[str, EndpointCreate | None]:
    """The model as `owner/name`, and the requested endpoint; None without a model. The default slug is the model's
    name."""
    if not model.strip():
        return "", None
    found = await sharing.find_visible(page.session, page.caller, model)
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
    """The default slug for a model's name."""
    name = model.rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9]+", "-", name)[:_SLUG_LENGTH].strip("-") or "endpoint"


def _again(row: EndpointRow, tier: str) -> EndpointCreate:
    """A request for this endpoint on a tier, to check whether it could be created there."""
    tier = parse_form(EndpointPatch, tier=tier).tier or row.tier
    version = row.version or "latest"  # not validated again, since it exists
    return EndpointCreate.model_construct(
        slug=row.slug, model=str(row.model_id), tier=tier, version=version, file=row.file
    )


async def _explained(page: ProjectContext, spec: EndpointCreate | None) -> Explanation | None:
    return await service.explain(page.session, page.caller, spec, page.policy) if spec else None


async def _explained_again(page: ProjectContext, row: EndpointRow, tier: str) -> Explanation | None:
    """Whether the endpoint could be created on this tier; None if its model was deleted."""
    if row.model is None:
        return None
    return await service.explain(page.session, page.caller, _again(row, tier), page.policy, again=True)


async def _listed(page: ProjectContext, after: str | None) -> dict[str, Any]:
    rows, cursor = await service.page(page.session, page.caller, Paging(_PER_PAGE, after))
    return {
        "endpoints": [presenters.view(row, page.base_url) for row in rows],
        "recalled": await _recalled(page),
        "cursor": cursor,
    }


async def _recalled(page: ProjectContext) -> list[Endpoint]:
    return [presenters.view(row, page.base_url) for row in await service.under_recall(page.session, page.caller)]


async def _shown(page: ProjectContext, row: EndpointRow) -> dict[str, Any]:
    endpoint = presenters.view(row, page.base_url, page.policy.live(row.id, row.tier))
    holding = row.model_id is not None and row.tier == SELF_HOSTED
    return {
        "endpoint": endpoint,
        "recalled": [endpoint] if endpoint.recall else [],
        "agents": await fleet.agents_holding(page.session, page.caller, row.model_id)
        if holding and row.model_id
        else [],
    }


def _versions(row: EndpointRow) -> list[str]:
    """The versions that can be selected, newest first, including the present one."""
    offered = [version.version for version in reversed(version_choice.choosable(row))]
    return list(dict.fromkeys(("latest", *offered, row.version or "latest")))


def _files(row: EndpointRow) -> list[tuple[str, str]]:
    """The files that can be selected in its version, including the present one; empty without a choice."""
    version = presenters.resolved(row)
    choices = file_selection.choices(version) if version else []
    if not choices and row.file is None:
        return []
    files = {choice["file"]: f"{choice['file']} ({choice['quantization'] or choice['format']})" for choice in choices}
    now = {row.file: row.file} if row.file else {}
    return [(_OWN_FILE, "the version's default"), *(now | files).items()]


def _task(row: EndpointRow) -> str | None:
    """The task of the served version."""
    model = presenters.serves(row)
    return model.task if model else None


def _options(tiers: TierRegistry) -> list[tuple[str, str]]:
    return [(tier.slug, f"{tier.name} ({tier.slug})") for tier in tiers]


def page_of(project: str | None, slug: str) -> str:
    """The URL of an endpoint's page. `new` is a valid slug, but also the path for creating endpoints."""
    return f"/dashboard/{project}/endpoints/{'-/' if slug == 'new' else ''}{slug}"
