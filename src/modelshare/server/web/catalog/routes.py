"""Pages of the public catalog: the list, a model, and making an endpoint of it."""

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.endpoints import service as endpoints
from modelshare.server.endpoints.service import EndpointPolicy
from modelshare.server.errors import NotFoundError
from modelshare.server.fleet import service as fleet
from modelshare.server.http import (
    BaseUrl,
    Caller,
    ModelId,
    Paging,
    PlatformDep,
    ReadSession,
    WriteSession,
    public_rate_limit,
)
from modelshare.server.web import markdown, memory_estimate
from modelshare.server.web.catalog import source
from modelshare.server.web.catalog.query import FACETS, PATH, ROLES, SORTS, CatalogQuery, words_of
from modelshare.server.web.catalog.samples import samples
from modelshare.server.web.catalog.viewer import OnlookerDep, PageViewer
from modelshare.server.web.dependencies import TermsDep, TiersDep
from modelshare.server.web.endpoints import page_of
from modelshare.server.web.memory_estimate import Fit, MemoryNeed
from modelshare.server.web.page_auth import SignedIn, SignInNeededError, VisitorDep, member, sign_in_url
from modelshare.server.web.pages import PageRoute, is_htmx, parse_form, redirect_after_form, render
from modelshare.wire.agents import Agent
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.endpoints import EndpointCreate
from modelshare.wire.keys import Scope
from modelshare.wire.models import CatalogModelDetail
from modelshare.wire.tiers import SELF_HOSTED

router = APIRouter(route_class=PageRoute, include_in_schema=False, dependencies=[Depends(public_rate_limit)])
SHOWN_FILES: Final = 10
MAX_FILES: Final = 500
"""Of a manifest are listed; the API has all."""
Text = Annotated[str, Form(max_length=4096)]
Choice = Annotated[str, Query(max_length=200)]


@router.get(PATH)
async def listing(
    request: Request,
    session: ReadSession,
    onlooker: OnlookerDep,
    tiers: TiersDep,
    base_url: BaseUrl,
    query: Annotated[CatalogQuery, Query()],
) -> Response:
    """The list; only what changes of it where a script asks."""
    in_place = is_htmx(request) and "hx-history-restore-request" not in request.headers
    more = in_place and bool(query.after)
    shelf = await source.shelf(session, onlooker.viewer, tiers, query, facets=not more)
    template = "catalog/more.html" if more else "catalog/results.html" if in_place else "catalog/list.html"
    response = render(
        request,
        template,
        query=query,
        shelf=shelf,
        featured=await source.featured(session, tiers) if query.is_start else [],
        onlooker=onlooker,
        canonical=base_url + query.url,
        in_place=in_place,
        **_WORDS,
    )
    if in_place and not more:
        response.headers["HX-Push-Url"] = query.url
    return response


@router.get(PATH + "/{model_id}")
async def model_page(
    request: Request,
    session: ReadSession,
    onlooker: OnlookerDep,
    visitor: VisitorDep,
    tiers: TiersDep,
    terms: TermsDep,
    base_url: BaseUrl,
    model_id: ModelId,
    tier: Choice = SELF_HOSTED,
    slug: Choice = "",
    version: Choice = "latest",
) -> Response:
    """One model; with what stands in the way of deploying it as it is chosen in the URL."""
    try:
        model = await source.model(session, onlooker.viewer, tiers, model_id)
    except NotFoundError:
        if visitor.person is None and "as" in request.query_params:
            raise SignInNeededError from None  # it may be shared with a project of theirs
        raise
    slug = slug or slug_of(model.name)
    needed = _need(model)
    caller = onlooker.caller or await _first_project(request, onlooker)
    answer = await _answer(session, caller, model, needed, terms, tier=tier, slug=slug, version=version)
    if model.card:
        await markdown.prepare(model.card)
    files = model.manifest.get("files", [])
    return render(
        request,
        "catalog/model.html",
        model=model,
        needed=needed,
        files=files[:MAX_FILES],
        file_count=len(files),
        shown_files=SHOWN_FILES,
        tiers=list(tiers),
        onlooker=onlooker,
        deploying=caller,
        owned_as=model.owner if model.owner in dict(onlooker.projects) else None,
        chosen={"tier": tier, "slug": slug, "version": version},
        samples=samples(model, base_url=base_url, slug=slug, project_id=caller.project_id if caller else None),
        sign_in=sign_in_url(request),
        canonical=f"{base_url}{PATH}/{model.id}",
        **answer,
        **_WORDS,
    )


@router.get(PATH + "/{model_id}/explain")
async def explain(
    request: Request,
    session: ReadSession,
    onlooker: OnlookerDep,
    _: SignedIn,
    tiers: TiersDep,
    terms: TermsDep,
    model_id: ModelId,
    tier: Choice = SELF_HOSTED,
    slug: Choice = "",
    version: Choice = "latest",
) -> Response:
    """Whether the project could deploy it so, for a part of the model's page."""
    model = await source.model(session, onlooker.viewer, tiers, model_id)
    answer = await _answer(
        session,
        onlooker.caller,
        model,
        _need(model),
        terms,
        tier=tier,
        slug=slug or slug_of(model.name),
        version=version,
    )
    return render(request, "catalog/explanation.html", model=model, **answer)


@router.post(PATH + "/{model_id}/deploy")
async def deploy(
    request: Request,
    _: SignedIn,
    session: WriteSession,
    platform: PlatformDep,
    terms: TermsDep,
    model_id: ModelId,
    project: Annotated[str, Form(alias="as", max_length=100)],
    tier: Text,
    slug: Text,
    version: Text = "latest",
) -> Response:
    """Makes the endpoint, or says why not."""
    caller = await member(request, project)
    request.state.caller = caller
    caller.check(Scope.ENDPOINTS)
    spec = parse_form(EndpointCreate, slug=slug, model=str(model_id), tier=tier, version=version)
    row = await endpoints.create(session, caller, spec, terms, now=platform.now())
    return redirect_after_form(request, page_of(caller.project_slug, row.slug), f"Endpoint {row.slug} created.")


def slug_of(name: str) -> str:
    """A slug to begin with."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-") or "endpoint"


_WORDS: Final[dict[str, Any]] = {
    "words_of": words_of,
    "headings": FACETS,
    "roles": ROLES,
    "sorts": SORTS,
    "self_hosted": SELF_HOSTED,
}


async def _first_project(request: Request, onlooker: PageViewer) -> Caller | None:
    """The project that the form begins with."""
    return await member(request, onlooker.projects[0][0]) if onlooker.projects else None


async def _answer(
    session: AsyncSession,
    caller: Caller | None,
    model: CatalogModelDetail,
    needed: MemoryNeed,
    terms: EndpointPolicy,
    *,
    tier: str,
    slug: str,
    version: str,
) -> dict[str, Any]:
    """What the explanation is made of; nothing is explained to nobody."""
    if caller is None or not caller.allows(Scope.ENDPOINTS):
        return {"explanation": None, "machines": []}
    spec = parse_form(EndpointCreate, slug=slug, model=model.id, tier=tier, version=version)
    explanation = await endpoints.explain(session, caller, spec, terms)
    own = tier == SELF_HOSTED and caller.allows(Scope.AGENTS)
    return {"explanation": explanation, "machines": await _machines(session, caller, model, needed) if own else []}


async def _machines(
    session: AsyncSession, caller: Caller, model: CatalogModelDetail, needed: MemoryNeed
) -> list[tuple[Agent, Fit]]:
    """The project's agents, and how the model would do on each."""
    agents = (await fleet.list_agents(session, caller, Paging(PAGE_LIMIT_MAX, None))).data
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
