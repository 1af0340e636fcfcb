"""What a project's webhooks hear of its endpoints and agents."""

from typing import Any

import httpx
import pytest

from conftest import Tenant
from factories import make_model
from link_agent import enroll, linked
from modelshare.server.app import Application
from served import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def hook_of(tenant: Tenant) -> str:
    """Its address is of nobody (RFC 6761): what matters is what is to be delivered."""
    made = await tenant.http.post("/v1/webhooks", json={"url": "https://hooks.invalid/"})
    return str(made.json()["id"])


async def told(tenant: Tenant, hook: str, type_: str, count: int = 1) -> list[dict[str, Any]]:
    """Data of the events of this type, oldest first, as soon as there are so many."""

    async def check() -> list[str] | None:
        page = (await tenant.http.get(f"/v1/webhooks/{hook}/deliveries?limit=200")).json()["data"]
        ids = [item["id"] for item in page if item["type"] == type_][::-1]
        return ids if len(ids) >= count else None

    ids = await wait_until(check)
    bodies = [(await tenant.http.get(f"/v1/webhooks/{hook}/deliveries/{id_}")).json()["body"] for id_ in ids]
    return [dict(httpx.Response(200, text=body).json()["data"]) for body in bodies]


async def test_an_endpoint_changes_and_its_status_follows(app: Application, url: str, owner: Tenant) -> None:
    hook = await hook_of(owner)
    model = str(await make_model(app, owner.project.id))
    agent_id, token = await enroll(owner.http)
    made = (await owner.http.post("/v1/endpoints", json={"slug": "chat", "model": model, "tier": "self_hosted"})).json()
    (created,) = await told(owner, hook, "endpoint.created")
    assert created == {"endpoint": made["id"], "slug": "chat", "tier": "self_hosted", "model": model}
    async with linked(url, token) as agent:
        await agent.make_ready()
        ready = (await told(owner, hook, "endpoint.status_changed"))[0]
        assert ready == {"endpoint": made["id"], "slug": "chat", "status": "active", "before": "provisioning"}
        (connected,) = await told(owner, hook, "agent.connected")
        assert connected == {"agent": agent_id, "name": "box"}
    (disconnected,) = await told(owner, hook, "agent.disconnected")
    assert disconnected == connected
    after = (await told(owner, hook, "endpoint.status_changed", 2))[1]
    assert (after["status"], after["before"], after["slug"]) == ("degraded", "active", "chat")
    assert after["reason"]
    await owner.http.patch("/v1/endpoints/chat", json={"is_active": False})
    (changed,) = await told(owner, hook, "endpoint.changed")
    assert (changed["slug"], changed["is_active"]) == ("chat", False)
    await owner.http.delete("/v1/endpoints/chat")
    (deleted,) = await told(owner, hook, "endpoint.deleted")
    assert deleted == {"endpoint": made["id"], "slug": "chat"}


async def test_a_newer_link_of_a_connected_agent_is_no_news(url: str, owner: Tenant) -> None:
    hook = await hook_of(owner)
    _, token = await enroll(owner.http)
    async with linked(url, token), linked(url, token) as newer:
        await newer.wanted(0)
    await told(owner, hook, "agent.disconnected")
    assert len(await told(owner, hook, "agent.connected")) == 1


async def test_shared_agents_are_the_platforms(url: str, owner: Tenant, operator: httpx.AsyncClient) -> None:
    hook = await hook_of(owner)
    _, shared = await enroll(operator, tiers=["free"])
    _, own = await enroll(owner.http)
    async with linked(url, shared):
        pass
    async with linked(url, own):
        pass
    await told(owner, hook, "agent.disconnected")
    assert len(await told(owner, hook, "agent.connected")) == 1
