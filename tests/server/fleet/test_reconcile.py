"""Desired state over time: versions that follow each other, shared agents that come and go, two processes at once."""

import asyncio
import uuid
from contextlib import AsyncExitStack

import httpx
import pytest
from sqlalchemy import func, select, update

from conftest import Tenant
from factories import make_model
from link_agent import LinkAgent, enroll, linked
from modelshare.server.app import Application
from modelshare.server.db import notify
from modelshare.server.fleet.jobs import Reconciler
from modelshare.server.fleet.rules import GRACE_SECONDS
from modelshare.server.fleet.tables import AgentRow, DeploymentRow
from modelshare.server.registry.service import MODELS_TOPIC
from modelshare.server.registry.tables import VersionRow
from modelshare.wire.agents import AgentState, Phase
from served import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def new_version(app: Application, model_id: uuid.UUID, version: str) -> None:
    """As processing leaves it: a copy of the latest version under another number, and the latest now."""
    async with app.database.write() as session:
        old = await session.scalar(select(VersionRow).where(VersionRow.model_id == model_id, VersionRow.is_latest))
        assert old is not None
        same = {name: getattr(old, name) for name in ("manifest", "manifest_digest", "format", "task", "size_bytes")}
        old.is_latest = False
        await session.flush()
        row = VersionRow(model_id=model_id, version=version, status="ready", is_latest=True, created_at=0, **same)
        session.add(row)
        notify(session, MODELS_TOPIC, str(model_id))


async def status(tenant: Tenant, expected: str, slug: str = "chat") -> None:
    async def check() -> bool:
        return bool((await tenant.http.get(f"/v1/endpoints/{slug}")).json()["status"] == expected)

    await wait_until(check)


async def test_a_new_version_replaces_the_old_one_once_it_is_ready(app: Application, url: str, owner: Tenant) -> None:
    model_id = await make_model(app, owner.project.id)
    _, token = await enroll(owner.http)
    spec = {"slug": "chat", "model": str(model_id), "tier": "self_hosted"}
    await owner.http.post("/v1/endpoints", json=spec)
    async with linked(url, token) as agent:
        await agent.make_ready()
        await status(owner, "active")
        await new_version(app, model_id, "1.0.1")
        both = await agent.wanted(2)
        assert sorted(one.version for one in both) == ["1.0.0", "1.0.1"]
        assert (await owner.http.get("/v1/endpoints/chat")).json()["status"] == "active"
        (new,) = [one for one in both if one.version == "1.0.1"]
        await agent.report(new.deployment_id, Phase.READY)
        (left,) = await agent.wanted(1)
        assert left.version == "1.0.1"
        await status(owner, "active")


async def test_a_new_version_that_fails_leaves_the_old_one(app: Application, url: str, owner: Tenant) -> None:
    model_id = await make_model(app, owner.project.id)
    _, token = await enroll(owner.http)
    await owner.http.post("/v1/endpoints", json={"slug": "chat", "model": str(model_id), "tier": "self_hosted"})
    async with linked(url, token) as agent:
        await agent.make_ready()
        await status(owner, "active")
        await new_version(app, model_id, "1.0.1")
        (new,) = [one for one in await agent.wanted(2) if one.version == "1.0.1"]
        await agent.report(new.deployment_id, Phase.FAILED, reason="It needs 80 GB.")

        async def told() -> bool:
            endpoint = (await owner.http.get("/v1/endpoints/chat")).json()
            return endpoint["status"] == "active" and "It needs 80 GB." in (endpoint["status_reason"] or "")

        await wait_until(told)
        await agent.wanted(2)


async def test_a_failure_is_the_endpoints_reason(app: Application, url: str, owner: Tenant) -> None:
    model_id = await make_model(app, owner.project.id)
    _, token = await enroll(owner.http)
    await owner.http.post("/v1/endpoints", json={"slug": "chat", "model": str(model_id), "tier": "self_hosted"})
    async with linked(url, token) as agent:
        (wanted,) = await agent.wanted(1)
        await agent.report(wanted.deployment_id, Phase.FAILED, reason="The architecture is not known.")
        await status(owner, "failed")
        endpoint = (await owner.http.get("/v1/endpoints/chat")).json()
        assert endpoint["status_reason"] == "The architecture is not known."


async def test_a_shared_tier_moves_on_when_its_agent_stays_away(
    app: Application, url: str, owner: Tenant, operator: httpx.AsyncClient
) -> None:
    model_id = await make_model(app, owner.project.id)
    async with AsyncExitStack() as stack:
        agents: dict[str, LinkAgent] = {}
        for name in ("one", "two"):
            agent_id, token = await enroll(operator, name=name, tiers=["free"])
            agents[agent_id] = await stack.enter_async_context(linked(url, token))
            await agents[agent_id].wanted(0)
        spec = {"slug": "chat", "model": str(model_id), "tier": "free"}
        assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201

        async def somebody() -> str | None:
            holding = [id_ for id_, agent in agents.items() if agent.desired and agent.desired.deployments]
            return holding[0] if holding else None

        first = await wait_until(somebody)
        assert first is not None
        (other,) = agents.keys() - {first}
        await agents[first].make_ready()
        await status(owner, "active")
        await agents[first].socket.close()
        await status(owner, "degraded")
        await agents[other].wanted(0)
        async with app.database.write() as session:
            long_ago = app.platform.now() - GRACE_SECONDS - 1
            await session.execute(update(AgentRow).where(AgentRow.id == uuid.UUID(first)).values(last_seen_at=long_ago))
            notify(session, "agents", first)
        await agents[other].make_ready()
        await status(owner, "active")


async def test_explain_says_that_nobody_is_there(app: Application, url: str, owner: Tenant) -> None:
    model_id = await make_model(app, owner.project.id)
    spec = {"slug": "chat", "model": str(model_id), "tier": "self_hosted"}
    notes = (await owner.http.post("/v1/endpoints/explain", json=spec)).json()["notes"]
    assert any("modelshare agent" in note for note in notes)
    _, token = await enroll(owner.http)
    async with linked(url, token) as agent:
        await agent.wanted(0)
        notes = (await owner.http.post("/v1/endpoints/explain", json=spec)).json()["notes"]
        assert not any("modelshare agent" in note for note in notes)


async def test_two_processes_place_once(app: Application, url: str, owner: Tenant) -> None:
    for number in range(3):
        await enroll(owner.http, name=f"box {number}")
    async with app.database.write() as session:
        await session.execute(update(AgentRow).values(state=AgentState.DISCONNECTED, last_seen_at=app.platform.now()))
    for number in range(3):
        model_id = await make_model(app, owner.project.id, name=f"tiny-{number}")
        spec = {"slug": f"chat-{number}", "model": str(model_id), "tier": "self_hosted"}
        await owner.http.post("/v1/endpoints", json=spec)
    book = app.platform.tiers
    others = [Reconciler(app.database, book, app.platform.clock) for _ in range(4)]
    await asyncio.gather(*(other.reconcile() for other in others))
    async with app.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(DeploymentRow)) == 9


async def test_an_agent_whose_process_died_is_disconnected(app: Application, owner: Tenant) -> None:
    agent_id, _ = await enroll(owner.http)
    async with app.database.write() as session:
        values = {"state": AgentState.ACTIVE, "linked_to": "http://10.0.0.9:8000", "link_token": uuid.uuid4()}
        await session.execute(update(AgentRow).values(last_seen_at=app.platform.now() - 46, **values))
        notify(session, "agents", agent_id)

    async def gone() -> bool:
        return bool((await owner.http.get(f"/v1/agents/{agent_id}")).json()["state"] == "disconnected")

    await wait_until(gone)
