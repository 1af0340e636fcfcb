"""Pages of the public catalog: the list, a model, and creating an endpoint of it."""

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.endpoints import service as endpoints
from modelshare.server.errors import NotFoundError
from modelshare.server.fleet import service as fleet
from modelshare.server.http import Caller, ModelId, public_rate_limit
from modelshare.server.paging import Paging
from modelshare.server.registry import licenses
from modelshare.server.sharing import service as sharing
from modelshare.server.web import markdown, memory_estimate
from modelshare.server.web.catalog import source
from modelshare.server.web.catalog.query import FACETS, PATH, ROLES, SORTS, CatalogQuery, words_of
from modelshare.server.web.catalog.samples import samples
from modelshare.server.web.catalog.viewer import CatalogViewer, ViewerDep
from modelshare.server.web.context import AnyPage, PageContext, PersonPage, Text
from modelshare.server.web.endpoints import page_of
from modelshare.server.web.memory_estimate import Fit, MemoryNeed
from modelshare.server.web.page_auth import SignInNeededError, member, sign_in_url
from modelshare.server.web.pages import PageRoute, parse_form
from modelshare.wire.agents import Agent
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.endpoints import EndpointCreate
from modelshare.wire.keys import Scope
from modelshare.wire.models import CatalogModelDetail
from modelshare.wire.tiers import SELF_HOSTED

router = APIRouter(route_class=PageRoute, include_in_schema=False, dependencies=[Depends(public_rate_limit)])
SHOWN_FILES: Final = 10
MAX_FILES: Final = 500
"""Files listed on a page; the API returns all."""
Choice = Annotated[str, Query(max_length=200)]


@router.get(PATH)
async def listing(page: AnyPage, viewer: ViewerDep, query: Annotated[CatalogQuery, Query()]) -> Response:
    """The list, or only its changing part for a script."""
    in_place = page.is_htmx and "hx-history-restore-request" not in page.request.headers
    more = in_place and bool(query.after)
    shelf = await source.shelf(page.session, viewer.sees, page.platform.tiers, query, facets=not more)
    template = "catalog/more.html" if more else "catalog/results.html" if in_place else "catalog/list.html"
    response = page.render(
        template,
        query=query,
        shelf=shelf,
        featured=await source.featured(page.session, page.platform.tiers) if query.is_start else [],
        viewer=viewer,
        canonical=page.base_url + query.url,
        in_place=in_place,
        **_WORDS,
    )
    if in_place and not more:
        response.headers["HX-Push-Url"] = query.url
    return response


@router.get(PATH + "/{model_id}")
async def model_page(
    page: AnyPage,
    viewer: ViewerDep,
    model_id: ModelId,
    tier: Choice = SELF_HOSTED,
    slug: Choice = "",
    version: Choice = "latest",
) -> Response:
    """A model, with the obstacles to deploying it as selected in the URL."""
    caller = viewer.caller or await _first_project(page.request, viewer)  # before the page's session is opened
    try:
        model = await sharing.catalog_model(page.session, viewer.sees, model_id, page.platform.tiers)
    except NotFoundError:
        if page.visitor.person is None and "as" in page.request.query_params:
            raise SignInNeededError from None  # it may be shared with one of the user's projects
        raise
    slug = slug or slug_of(model.name)
    answer = await _answer(page, caller, model, tier=tier, slug=slug, version=version)
    if model.card:
        await markdown.prepare(model.card)
    files = model.manifest.get("files", [])
    license_ = licenses.describe(model.license)
    return page.render(
        "catalog/model.html",
        model=model,
        license_url=license_.url if license_ else None,
        needed=_need(model),
        files=files[:MAX_FILES],
        file_count=len(files),
        shown_files=SHOWN_FILES,
        tiers=list(page.platform.tiers),
        viewer=viewer,
        deploying=caller,
        owned_as=model.owner if model.owner in dict(viewer.projects) else None,
        chosen={"tier": tier, "slug": slug, "version": version},
        promotion=page.policy.promotion,
        samples=samples(model, base_url=page.base_url, slug=slug, project_id=caller.project_id if caller else None),
        sign_in=sign_in_url(page.request),
        canonical=f"{page.base_url}{PATH}/{model.id}",
        **answer,
        **_WORDS,
    )


@router.get(PATH + "/{model_id}/explain")
async def explain(
    page: PersonPage,
    viewer: ViewerDep,
    model_id: ModelId,
    tier: Choice = SELF_HOSTED,
    slug: Choice = "",
    version: Choice = "latest",
) -> Response:
    """The part of the model's page that says whether the project could deploy it like this."""
    model = await sharing.catalog_model(page.session, viewer.sees, model_id, page.platform.tiers)
    slug = slug or slug_of(model.name)
    answer = await _answer(page, viewer.caller, model, tier=tier, slug=slug, version=version)
    return page.render("catalog/explanation.html", model=model, **answer)


@router.post(PATH + "/{model_id}/deploy")
async def deploy(
    page: PersonPage,
    model_id: ModelId,
    project: Annotated[str, Form(alias="as", max_length=100)],
    tier: Text,
    slug: Text,
    version: Text = "latest",
) -> Response:
    """Creates the endpoint, or shows why that is not possible."""
    caller = await page.act_in(project, Scope.ENDPOINTS)
    spec = parse_form(EndpointCreate, slug=slug, model=str(model_id), tier=tier, version=version)
    row = await endpoints.create(page.session, caller, spec, page.policy, now=page.now)
    return page.redirect(page_of(caller.project_slug, row.slug), f"Endpoint {row.slug} created.")


def slug_of(name: str) -> str:
    """The default slug."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-") or "endpoint"


_WORDS: Final[dict[str, Any]] = {
    "words_of": words_of,
    "headings": FACETS,
    "roles": ROLES,
    "sorts": SORTS,
    "self_hosted": SELF_HOSTED,
}


async def _first_project(request: Request, viewer: CatalogViewer) -> Caller | None:
    """The project that is preselected in the form."""
    return await member(request, viewer.projects[0][0]) if viewer.projects else None


async def _answer(
    page: PageContext, caller: Caller | None, model: CatalogModelDetail, *, tier: str, slug: str, version: str
) -> dict[str, Any]:
    """The template's context for the explanation; none without a caller."""
    if caller is None or not caller.allows(Scope.ENDPOINTS):
        return {"explanation": None, "machines": []}
    spec = parse_form(EndpointCreate, slug=slug, model=model.id, tier=tier, version=version)
    explanation = await endpoints.explain(page.session, caller, spec, page.policy)
    own = tier == SELF_HOSTED and caller.allows(Scope.AGENTS)
    return {"explanation": explanation, "machines": await _machines(page.session, caller, model) if own else []}


async def _machines(session: AsyncSession, caller: Caller, model: CatalogModelDetail) -> list[tuple[Agent, Fit]]:
    """The project's agents, and whether the model fits on each."""
    needed = _need(model)
    agents = (await fleet.list_agents(session, caller, Paging(PAGE_LIMIT_MAX))).data
    return [
        (agent, memory_estimate.fit(needed, agent.capabilities.memory_bytes, agent.capabilities.engines, model.format))
        for agent in agents
    ]


def _need(model: CatalogModelDetail) -> MemoryNeed:
    return memory_estimate.need(
        weight_bytes=memory_estimate.weight_bytes(model.manifest, model.size_bytes),
        parameters=model.parameters,
        context_length=model.context_length,
        task=model.task,
    )
