"""`/v1/agents`: rename, suspend, resume, remove; and what that does to links."""

import aiohttp
import httpx
import pytest

from conftest import Tenant
from holding import enrolled_holder
from link_agent import enroll, linked
from modelshare.wire.link import CloseCode
from served import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def state(tenant: Tenant, agent_id: str, expected: str) -> dict[str, object]:
    async def check() -> dict[str, object] | None:
        agent: dict[str, object] = (await tenant.http.get(f"/v1/agents/{agent_id}")).json()
        return agent if agent["state"] == expected else None

    found = await wait_until(check)
    assert found is not None
    return found


async def test_rename(deployer: Tenant) -> None:
    agent_id, _ = await enroll(deployer.http)
    renamed = await deployer.http.patch(f"/v1/agents/{agent_id}", json={"name": "rack 7"})
    assert (renamed.status_code, renamed.json()["name"]) == (200, "rack 7")
    (entry, *_) = (await deployer.http.get("/v1/audit")).json()["data"]
    assert (entry["action"], entry["details"]) == ("agent.rename", {"before": "box"})


async def test_another_projects_agent_is_absent(deployer: Tenant, owner: Tenant, operator: httpx.AsyncClient) -> None:
    agent_id, _ = await enroll(deployer.http)
    for http, path in ((owner.http, "/v1/agents"), (operator, "/v1/platform/agents")):
        assert (await http.get(f"{path}/{agent_id}")).status_code == 404
        assert (await http.patch(f"{path}/{agent_id}", json={"suspended": True})).status_code == 404
        assert (await http.delete(f"{path}/{agent_id}")).status_code == 404


async def test_suspending_closes_the_link_until_it_is_resumed(url: str, deployer: Tenant) -> None:
    agent_id, token = await enroll(deployer.http)
    async with linked(url, token) as agent:
        await state(deployer, agent_id, "active")
        answer = await deployer.http.patch(f"/v1/agents/{agent_id}", json={"suspended": True})
        assert answer.json()["state"] == "suspended"
        code, reason = await agent.end()
        assert code == CloseCode.SUSPENDED
        assert "suspended" in reason
    async with linked(url, token) as agent:
        assert (await agent.end())[0] == CloseCode.SUSPENDED
    answer = await deployer.http.patch(f"/v1/agents/{agent_id}", json={"suspended": False})
    assert answer.json()["state"] == "disconnected"
    async with linked(url, token):
        await state(deployer, agent_id, "active")
    actions = [entry["action"] for entry in (await deployer.http.get("/v1/audit")).json()["data"]]
    assert actions[:2] == ["agent.resume", "agent.suspend"]


async def test_removing_ends_link_and_token(url: str, deployer: Tenant) -> None:
    agent_id, token = await enroll(deployer.http)
    async with linked(url, token) as agent:
        await state(deployer, agent_id, "active")
        assert (await deployer.http.delete(f"/v1/agents/{agent_id}")).status_code == 204
        assert (await agent.end())[0] == CloseCode.REMOVED
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with linked(url, token):
            pass
    assert refused.value.status == 403
    assert (await deployer.http.get(f"/v1/agents/{agent_id}")).status_code == 404
    assert (await deployer.http.get("/v1/agents")).json()["data"] == []
    assert (await deployer.http.delete(f"/v1/agents/{agent_id}")).status_code == 404


async def test_a_removed_holder_is_told_what_to_run(url: str, deployer: Tenant) -> None:
    agent_id, token = await enrolled_holder(deployer)
    async with linked(url, token) as agent:
        await state(deployer, agent_id, "active")
        assert (await deployer.http.delete(f"/v1/agents/{agent_id}")).status_code == 204
        assert "`modelshare hold`" in (await agent.end())[1]


async def test_the_platform_manages_shared_agents(operator: httpx.AsyncClient) -> None:
    agent_id, _ = await enroll(operator, tiers=["free"])
    path = f"/v1/platform/agents/{agent_id}"
    assert (await operator.patch(path, json={"suspended": True})).json()["state"] == "suspended"
    assert (await operator.patch(path, json={"suspended": False})).json()["state"] == "pending"
    assert (await operator.get(path)).json()["tiers"] == ["free"]
    assert (await operator.delete(path)).status_code == 204
    assert (await operator.get(path)).status_code == 404
