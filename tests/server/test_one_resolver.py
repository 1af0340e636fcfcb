"""What the catalog lists, `/v1/models` shows, explain says, create allows, the router serves and clients of other forms
read: the same rules.

Every combination of who asks, role, audience, tier, status, shared or not, and promotion on or off.
"""

import itertools
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from conftest import Tenant, new_tenant
from factories import make_model
from modelshare.server.app import Application, create_app
from modelshare.server.endpoints import service as endpoints
from modelshare.server.endpoints.policy import EndpointPolicy
from modelshare.server.errors import ApiError
from modelshare.server.fleet.tables import AgentRow, DeploymentRow
from modelshare.server.http import Caller
from modelshare.server.hub import access
from modelshare.server.paging import Paging
from modelshare.server.registry import service as registry
from modelshare.server.registry.tables import VersionRow
from modelshare.server.router import snapshots
from modelshare.server.settings import Settings
from modelshare.server.sharing import rules, search
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.presenters import facts_of
from modelshare.server.sharing.rules import ModelFacts, Relation
from modelshare.server.sharing.search import SearchQuery, Sort, Viewer
from modelshare.server.sharing.tables import ShareProjectRow, ShareRow
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.wire.agents import AgentState, Phase
from modelshare.wire.endpoints import EndpointCreate, EndpointPatch, Reason
from modelshare.wire.models import CatalogRole, ModelStatus
from modelshare.wire.sharing import Audience
from modelshare.wire.tiers import SELF_HOSTED, Tier

pytestmark = pytest.mark.anyio
SMALL, LARGE, HUGE = 1_000, 60_000_000_000, 600_000_000_000
"""Fits everywhere; not on `free`; not on `self_hosted` either."""
STATUSES = (ModelStatus.UPLOADING, ModelStatus.PROCESSING, ModelStatus.READY, ModelStatus.ACTIVE, ModelStatus.FAILED)
REASONS = {
    Relation.OWNER: {"status", "size"},
    Relation.INVITED: {"visibility", "role", "status", "size"},
    Relation.DEPLOYER: {"visibility", "role", "status", "size"},
    Relation.PLATFORM: {"visibility", "status", "size"},
    Relation.PLATFORM_INVITED: {"visibility", "status", "size"},
}
"""Which rules refuse something to somebody."""


@dataclass(frozen=True)
class Circumstance:
    """A model as the rules see it, and its row."""

    facts: ModelFacts
    model: uuid.UUID


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[Application]:
    """With nothing at work in the background: the machines below are rows, and nobody is to place anything on them."""
    application = create_app(settings)
    yield application
    await application.database.close()


Callers = dict[Relation, Caller]


@pytest.fixture
async def callers(app: Application, owner: Tenant, deployer: Tenant) -> AsyncIterator[Callers]:
    """One for everything that somebody can be to the owner's models."""
    invited = await new_tenant(app, "cyan")
    keys = {Relation.OWNER: owner, Relation.INVITED: invited, Relation.DEPLOYER: deployer}
    keys |= {Relation.PLATFORM: deployer, Relation.PLATFORM_INVITED: invited}
    yield {
        relation: Caller(
            uuid.uuid4(),
            tenant.project.id,
            tenant.project.slug,
            frozenset(),
            is_platform=relation in {Relation.PLATFORM, Relation.PLATFORM_INVITED},
        )
        for relation, tenant in keys.items()
    }
    await invited.http.aclose()


@pytest.fixture
async def circumstances(app: Application, callers: Callers) -> list[Circumstance]:
    """Every status and footprint with a small model, every footprint with larger ones."""
    wanted = [*itertools.product(STATUSES, [SMALL]), (ModelStatus.READY, LARGE), (ModelStatus.READY, HUGE)]
    footprints = [(None, None), *itertools.product(CatalogRole, Audience)]
    return [
        Circumstance(
            ModelFacts(status, role, size, audience), await _made(app, callers, f"{n}", status, size, role, audience)
        )
        for n, ((status, size), (role, audience)) in enumerate(itertools.product(wanted, footprints))
    ]


async def _made(
    app: Application,
    callers: Callers,
    name: str,
    status: ModelStatus,
    size: int,
    role: CatalogRole | None,
    audience: Audience | None,
) -> uuid.UUID:
    owner, invited = callers[Relation.OWNER], callers[Relation.INVITED]
    in_use = status is ModelStatus.ACTIVE
    model_id = await make_model(app, owner.project, name=name, status="ready" if in_use else status, size=size)
    async with app.database.write() as session:
        if in_use:
            spec = EndpointCreate(slug=f"uses-{name}", model=str(model_id), tier=SELF_HOSTED)
            await endpoints.create(session, owner, spec, app.platform.endpoint_policy, now=0)
        if role is not None:
            # As if an endpoint on a shared tier were there where the role says so: it is the role that is tried.
            session.add(
                ShareRow(
                    model_id=model_id,
                    role=role,
                    audience=audience,
                    shared_at=0,
                    deployment_count=1,
                    shared_tier_endpoints=1,
                )
            )
            await session.flush()
        if audience is Audience.TARGETED:
            session.add(ShareProjectRow(model_id=model_id, project_id=invited.project, added_at=0))
        await search.index(session, model_id)
    return model_id


@pytest.fixture
async def machines(app: Application, callers: Callers, circumstances: list[Circumstance]) -> None:
    """A machine of each project and a shared one of all tiers, linked, with every version ready."""
    tiers = [tier.slug for tier in app.platform.tiers if tier.slug != SELF_HOSTED]
    projects = {caller.project_id for caller in callers.values()}
    async with app.database.write() as session:
        agents = [
            AgentRow(
                project_id=project_id,
                name="box",
                token_hash=uuid.uuid4().hex,
                tiers=None if project_id else tiers,
                state=AgentState.ACTIVE,
                capabilities={},
                linked_to="elsewhere",
                created_at=0,
                last_seen_at=app.platform.now(),
            )
            for project_id in (*projects, None)
        ]
        session.add_all(agents)
        await session.flush()
        for version_id, agent in itertools.product(await session.scalars(select(VersionRow.id)), agents):
            session.add(
                DeploymentRow(
                    agent_id=agent.id,
                    version_id=version_id,
                    phase=Phase.READY,
                    routes=[],
                    max_concurrent=1,
                    created_at=0,
                )
            )


@asynccontextmanager
async def undone(session: AsyncSession) -> AsyncIterator[None]:
    """What happens inside did not happen."""
    nested = await session.begin_nested()
    try:
        yield
    finally:
        await nested.rollback()
        session.expire_all()


def viewer(caller: Caller) -> Viewer:
    return Viewer(caller.project_id, sees_all=caller.is_platform)


# Promotion changes no SQL statement, so without it one database will do.
@pytest.mark.parametrize(
    ("lend", "promotion"), [("sqlite", True), ("postgres", True), ("sqlite", False)], indirect=["lend"]
)
@pytest.mark.parametrize("relation", REASONS)
@pytest.mark.usefixtures("machines")
async def test_all_six_agree(
    app: Application, callers: Callers, circumstances: list[Circumstance], relation: Relation, promotion: bool
) -> None:
    terms, caller = replace(app.platform.endpoint_policy, promotion=promotion), callers[relation]
    seen: set[str] = set()
    async with app.database.write() as session:
        await lists_as_the_rules_say(session, relation, caller, circumstances, terms.tiers)
        for tier, circumstance in itertools.product(terms.tiers, circumstances):
            spec = EndpointCreate(slug="new", model=str(circumstance.model), tier=tier.slug)
            reasons = rules.selection_reasons(relation, circumstance.facts, tier, promotion=promotion)
            seen |= {reason.rule for reason in reasons}
            explanation = await endpoints.explain(session, caller, spec, terms)
            assert (explanation.possible, explanation.reasons) == (not reasons, reasons)
            assert bool(explanation.notes) == explanation.possible
            if reasons and not promotion:
                continue  # what is refused is refused with promotion on as well
            async with undone(session):
                if reasons:
                    await create_refuses(session, caller, spec, terms, reasons)
                else:
                    await create_makes_what_the_router_serves(session, caller, spec, terms, circumstance.facts, tier)
                    if tier.slug in {SELF_HOSTED, "free"}:
                        await what_runs_goes_on_unshared(session, callers, caller, spec, terms, relation)
    assert seen == REASONS[relation]


async def test_oci_clients_get_the_same(
    app: Application, owner: Tenant, deployer: Tenant, circumstances: list[Circumstance]
) -> None:
    """A repository is there for its owner, with the versions that are ready, and for nobody else."""
    for tenant, (number, each) in itertools.product((owner, deployer), enumerate(circumstances)):
        answer = await tenant.http.get(f"/v2/acme/{number}/manifests/latest")
        is_ready = each.facts.status in {ModelStatus.READY, ModelStatus.ACTIVE}
        if tenant is owner and is_ready:
            assert answer.status_code == 200
        else:
            code = "MANIFEST_UNKNOWN" if tenant is owner else "NAME_UNKNOWN"
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, code)


async def lists_as_the_rules_say(
    session: AsyncSession, relation: Relation, caller: Caller, circumstances: list[Circumstance], tiers: TierRegistry
) -> None:
    """The catalog lists what is shared and may be seen, with a version to show; `/v1/models` what is one's own."""
    found = await search.find(session, viewer(caller), SearchQuery(sort=Sort.RECENT, limit=200))
    shows = {card.id for card in found.cards}
    assert shows == {
        each.model
        for each in circumstances
        if each.facts.in_catalog and rules.is_visible(relation, each.facts) and each.facts.status in rules.SHAREABLE
    }
    for card in found.cards:
        if relation in {Relation.INVITED, Relation.DEPLOYER}:  # the others are not bound by the role
            allowed = set(rules.allowed_tiers(CatalogRole(card.role), tiers))
            said = next(each.facts for each in circumstances if each.model == card.id)
            by_role = {tier.slug for tier in tiers if "role" not in rules_broken(relation, said, tier)}
            assert allowed == by_role
    readable = await access.readable_models(session, caller, limit=200, now=0)
    ready = {each.model for each in circumstances if each.facts.status in {ModelStatus.READY, ModelStatus.ACTIVE}}
    assert {each.model.id for each in readable} == (ready if relation is Relation.OWNER else set())
    own, _ = await sharing.page(session, caller, Paging(200, None))
    facts = {each.model: each.facts for each in circumstances}
    assert {each.model.id for each in own} == (facts.keys() if relation is Relation.OWNER else set())
    for each in own:
        shown = facts[each.model.id]
        assert (each.share.role if each.share else None) == shown.role
        assert facts_of(each).status == shown.status


def rules_broken(relation: Relation, facts: ModelFacts, tier: Tier) -> set[str]:
    return {reason.rule for reason in rules.selection_reasons(relation, facts, tier)}


async def create_refuses(
    session: AsyncSession, caller: Caller, spec: EndpointCreate, terms: EndpointPolicy, reasons: list[Reason]
) -> None:
    with pytest.raises(ApiError) as refused:
        await endpoints.create(session, caller, spec, terms, now=0)
    assert refused.value.message == f"{reasons[0].message} {reasons[0].fix}"
    assert await snapshots.load_snapshot(session, terms.tiers, caller.project, spec.slug) is None


async def create_makes_what_the_router_serves(
    session: AsyncSession, caller: Caller, spec: EndpointCreate, terms: EndpointPolicy, facts: ModelFacts, tier: Tier
) -> None:
    row = await endpoints.create(session, caller, spec, terms, now=0)
    share = await session.get(ShareRow, row.model_id)
    assert (share is None) == (facts.role is None)
    if share is not None:
        shared = rules.is_shared_tier(tier.slug)
        expected = rules.role_after_change(
            facts.role, shared_tier_endpoints=int(shared), came_to_shared_tier=shared, promotion=terms.promotion
        )
        assert share.role == expected
    assert await is_served(session, caller, spec, terms)


async def what_runs_goes_on_unshared(
    session: AsyncSession,
    callers: Callers,
    caller: Caller,
    spec: EndpointCreate,
    terms: EndpointPolicy,
    relation: Relation,
) -> None:
    """The router serves an endpoint whatever becomes of the share; switched off it does not, and on it comes as new."""
    owner, model_id = callers[Relation.OWNER], uuid.UUID(spec.model)
    if (await sharing.get(session, owner, model_id)).share is not None:
        await sharing.unshare(session, owner, model_id, now=0)
    assert await is_served(session, caller, spec, terms)
    await endpoints.change(session, caller, spec.slug, EndpointPatch(is_active=False), terms, now=0)
    assert not await is_served(session, caller, spec, terms)
    on = EndpointPatch(is_active=True)
    if relation is Relation.OWNER:
        await endpoints.change(session, caller, spec.slug, on, terms, now=0)
        assert await is_served(session, caller, spec, terms)
    else:
        with pytest.raises(
            ApiError, match=r"There is no such model in your project or the catalog|only its owner can select it"
        ):
            await endpoints.change(session, caller, spec.slug, on, terms, now=0)
        assert not await is_served(session, caller, spec, terms)


async def is_served(session: AsyncSession, caller: Caller, spec: EndpointCreate, terms: EndpointPolicy) -> bool:
    seen = await snapshots.load_snapshot(session, terms.tiers, caller.project, spec.slug)
    served = seen is not None and bool(seen.targets)
    assert await is_readable(session, caller, spec) == (served and spec.tier == SELF_HOSTED)
    return served


async def is_readable(session: AsyncSession, caller: Caller, spec: EndpointCreate) -> bool:
    """Whether the endpoint's token reads the model by the forms of other clients. It never reads another one."""
    endpoint, model = (
        await endpoints.get(session, caller, spec.slug),
        await registry.find_any(session, uuid.UUID(spec.model)),
    )
    assert model is not None
    reader = access.EndpointReader(endpoint.id, endpoint.slug, caller.project, caller.project_slug or "")
    found = await access.find(session, reader, model.project.slug, model.name, now=0)
    listed = await access.readable_models(session, reader, limit=200, now=0)
    assert [each.model.id for each in listed] == ([model.id] if found else [])
    return found is not None and found.version.model_id == model.id
