"""POST /v1/endpoints/explain: the same words as create's refusal, whatever the circumstances."""

import itertools
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from answers import message
from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.endpoints import service
from modelshare.server.endpoints.service import Terms
from modelshare.server.errors import ApiError
from modelshare.server.http import Caller
from modelshare.server.sharing import rules
from modelshare.server.sharing.rules import ModelFacts, Relation
from modelshare.server.sharing.tables import ShareRow
from modelshare.wire.endpoints import EndpointCreate, Reason
from modelshare.wire.models import CatalogRole, ModelStatus
from modelshare.wire.sharing import Audience
from modelshare.wire.tiers import Tier

pytestmark = pytest.mark.anyio
SMALL, LARGE, HUGE = 1_000, 60_000_000_000, 600_000_000_000
"""Fits everywhere; not on `free`; not on `self_hosted` either."""


@dataclass(frozen=True)
class Circumstance:
    """A model as the rules see it, and its row."""

    facts: ModelFacts
    model: uuid.UUID


@pytest.fixture
async def circumstances(app: Application, owner: Tenant) -> list[Circumstance]:
    """Every status and role with a small model, every role with larger ones."""
    statuses = [ModelStatus.UPLOADING, ModelStatus.PROCESSING, ModelStatus.READY, ModelStatus.FAILED]
    wanted = [*itertools.product(statuses, [SMALL]), (ModelStatus.READY, LARGE), (ModelStatus.READY, HUGE)]
    made = []
    for (status, size), role in itertools.product(wanted, [None, *CatalogRole]):
        name = f"{status}-{size}-{role}"
        model = await make_model(app, owner.project.id, name=name, status=status, size=size)
        if role is not None:
            async with app.database.write() as session:
                row = ShareRow(model_id=model, role=role, shared_at=0, deployment_count=1, shared_tier_endpoints=1)
                session.add(row)
        made.append(Circumstance(ModelFacts(status, role, size, Audience.PUBLIC if role else None), model))
    return made


def callers(owner: Tenant, deployer: Tenant) -> dict[Relation, Caller]:
    def caller(tenant: Tenant, *, is_platform: bool = False) -> Caller:
        project = tenant.project
        return Caller(uuid.uuid4(), project.id, project.slug, frozenset(), is_platform=is_platform)

    return {
        Relation.OWNER: caller(owner),
        Relation.DEPLOYER: caller(deployer),
        Relation.PLATFORM: caller(deployer, is_platform=True),
    }


@asynccontextmanager
async def undone(session: AsyncSession) -> AsyncIterator[None]:
    """What happens inside did not happen."""
    nested = await session.begin_nested()
    try:
        yield
    finally:
        await nested.rollback()
        session.expire_all()


@pytest.mark.parametrize("promotion", [True, False])
async def test_every_circumstance(
    app: Application, owner: Tenant, deployer: Tenant, circumstances: list[Circumstance], promotion: bool
) -> None:
    terms = replace(app.platform.parts[Terms], promotion=promotion)
    seen: set[str] = set()
    async with app.database.write() as session:
        for (relation, caller), tier, circumstance in itertools.product(
            callers(owner, deployer).items(), terms.tiers, circumstances
        ):
            wish = EndpointCreate(slug="new", model=str(circumstance.model), tier=tier.slug)
            reasons = rules.selection_reasons(relation, circumstance.facts, tier)
            seen |= {reason.rule for reason in reasons}
            explanation = await service.explain(session, caller, wish, terms)
            assert (explanation.possible, explanation.reasons) == (not reasons, reasons)
            assert bool(explanation.notes) == explanation.possible
            if reasons and not promotion:
                continue  # what is refused is refused with promotion on as well
            async with undone(session):
                await creates_as_explained(session, caller, wish, terms, reasons, circumstance.facts, tier)
    assert seen == {"visibility", "role", "status", "size"}


async def creates_as_explained(
    session: AsyncSession,
    caller: Caller,
    wish: EndpointCreate,
    terms: Terms,
    reasons: list[Reason],
    facts: ModelFacts,
    tier: Tier,
) -> None:
    if reasons:
        with pytest.raises(ApiError) as refused:
            await service.create(session, caller, wish, terms, now=0)
        assert refused.value.message == f"{reasons[0].message} {reasons[0].fix}"
        return
    row = await service.create(session, caller, wish, terms, now=0)
    share = await session.get(ShareRow, row.model_id)
    assert (share is None) == (facts.role is None)
    if share is not None:
        shared = rules.is_shared_tier(tier.slug)
        expected = rules.role_after_change(
            facts.role, shared_tier_endpoints=int(shared), came_to_shared_tier=shared, promotion=terms.promotion
        )
        assert (share.role, share.deployment_count) == (expected, 1)


@pytest.mark.parametrize("breaks", ["visibility", "role", "size", "status", "tier", "version", "slug"])
async def test_over_the_wire(app: Application, owner: Tenant, deployer: Tenant, breaks: str) -> None:
    """Explain's first reason is what create says, to the letter."""
    status = "processing" if breaks == "status" else "ready"
    model = await make_model(app, owner.project.id, size=LARGE if breaks == "size" else SMALL, status=status)
    if breaks in {"role", "slug"}:
        await owner.http.post(f"/v1/models/{model}/share")
    wish = {"slug": "chat", "model": str(model), "tier": "self_hosted"}
    changed: dict[str, dict[str, str]] = {
        "role": {"tier": "free"},
        "size": {"tier": "free"},
        "tier": {"tier": "tpu"},
        "version": {"version": "2.0.0"},
    }
    wish |= changed.get(breaks, {})
    caller = deployer if breaks in {"visibility", "role", "slug"} else owner
    if breaks == "slug":
        assert (await caller.http.post("/v1/endpoints", json=wish)).status_code == 201
    explained = (await caller.http.post("/v1/endpoints/explain", json=wish)).json()
    assert (explained["object"], explained["possible"]) == ("endpoint.explanation", False)
    (reason,) = explained["reasons"]
    assert reason["rule"] == breaks
    refused = await caller.http.post("/v1/endpoints", json=wish)
    assert message(refused) == f"{reason['message']} {reason['fix']}"


async def test_explain_changes_nothing(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    wish = {"slug": "chat", "model": str(model), "tier": "free"}
    audit = (await owner.http.get("/v1/audit")).json()
    for _ in range(2):
        explained = (await owner.http.post("/v1/endpoints/explain", json=wish)).json()
        assert (explained["possible"], explained["reasons"]) == (True, [])
    assert "may evict" in explained["notes"][0]
    assert (await owner.http.get("/v1/endpoints")).json()["data"] == []
    assert (await owner.http.get("/v1/audit")).json() == audit


async def test_all_that_stands_in_the_way_is_named(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await make_model(app, owner.project.id, size=LARGE)
    await owner.http.post(f"/v1/models/{model}/share")
    body = {"slug": "chat", "model": str(model), "tier": "free"}
    explained = (await deployer.http.post("/v1/endpoints/explain", json=body)).json()
    assert [reason["rule"] for reason in explained["reasons"]] == ["role", "size"]
    assert all(reason["fix"] for reason in explained["reasons"])
