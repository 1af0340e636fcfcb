"""What a grant says of other agents and of the owner's machine, and what is recorded of wrong bytes."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from conftest import Tenant
from factories import make_model
from link_agent import LinkAgent, enroll, linked
from modelshare.server.app import Application
from modelshare.wire import direct
from modelshare.wire.agents import Phase
from modelshare.wire.link import PROTOCOL, Direct, Hello
from served import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
NETWORK = ["10.0.0.0/24"]


def where(host: str, networks: list[str] = NETWORK) -> Direct:
    return Direct(f"{host}:7433", "ab" * 32, networks)


@dataclass(frozen=True)
class Machine:
    """An agent with its one deployment."""

    link: LinkAgent
    agent_id: str
    deployment_id: str
    http: httpx.AsyncClient

    async def grant(self) -> dict[str, Any]:
        answer = await self.http.post(f"/v1/agent/deployments/{self.deployment_id}/grant")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def sources(self) -> list[str]:
        return [each["agent_id"] for each in (await self.grant())["sources"]]


class Site:
    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self.stack = stack

    async def machine(self, tenant: Tenant, there: Direct | None) -> Machine:
        agent_id, token = await enroll(tenant.http)
        hello = Hello(PROTOCOL, "0.1.0", ["llamacpp"], "cpu", 1 << 34, 1 << 40, direct=there)
        link = await self.stack.enter_async_context(linked(self.url, token, hello=hello))
        headers = {"Authorization": f"Bearer {token}"}
        http = await self.stack.enter_async_context(httpx.AsyncClient(base_url=self.url, headers=headers))
        (wanted,) = await link.wanted(1)
        return Machine(link, agent_id, wanted.deployment_id, http)


@asynccontextmanager
async def _site(url: str) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        yield Site(url, stack)


@pytest.fixture
async def site(app: Application, url: str, owner: Tenant, deployer: Tenant) -> AsyncIterator[Site]:
    """With an endpoint of a shared model for each of the two tenants."""
    model_id = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model_id}/share")
    for tenant in (owner, deployer):
        spec = {"slug": "chat", "model": str(model_id), "tier": "self_hosted"}
        assert (await tenant.http.post("/v1/endpoints", json=spec)).status_code == 201
    async with _site(url) as site:
        yield site


async def test_agents_of_a_project_fetch_from_each_other(app: Application, site: Site, deployer: Tenant) -> None:
    first = await site.machine(deployer, where("10.0.0.1"))
    second = await site.machine(deployer, where("10.0.0.2"))
    assert await first.sources() == []
    grant = await second.grant()
    [source] = grant["sources"]
    assert (source["agent_id"], source["address"], source["is_owner"]) == (first.agent_id, "10.0.0.1:7433", False)
    [file], [signature] = grant["files"], source["signatures"]
    expected = direct.sign(
        app.platform.verdicts.key_of(first.agent_id),
        sha256=file["sha256"],
        reader=second.agent_id,
        expires_at=grant["expires_at"],
    )
    assert signature == expected
    await second.link.report(second.deployment_id, Phase.READY, bytes_done=1000, bytes_total=1000)

    async def is_told() -> bool:
        return await first.sources() == [second.agent_id]

    await wait_until(is_told)
    [shown, *_] = (await deployer.http.get("/v1/agents")).json()["data"]
    assert shown["capabilities"]["direct_address"] == "10.0.0.2:7433"


async def test_who_is_no_source(site: Site, owner: Tenant, deployer: Tenant) -> None:
    """Another project's, one elsewhere, one that does not share, one that failed, one that is away."""
    await site.machine(owner, where("10.0.0.9"))
    await site.machine(deployer, where("10.9.0.1"))
    await site.machine(deployer, where("box.example"))
    await site.machine(deployer, None)
    failed = await site.machine(deployer, where("10.0.0.3"))
    await failed.link.report(failed.deployment_id, Phase.FAILED, bytes_done=500, bytes_total=1000)
    away = await site.machine(deployer, where("10.0.0.4"))
    await away.link.socket.close()
    asking = await site.machine(deployer, where("10.0.0.5"))

    async def has_none() -> bool:
        return await asking.sources() == []

    await wait_until(has_none)
    not_sharing = await site.machine(deployer, None)
    assert await not_sharing.sources() == [], "who gives nothing gets nothing"


async def test_wrong_bytes_are_in_the_projects_audit_log(site: Site, owner: Tenant, deployer: Tenant) -> None:
    first = await site.machine(deployer, where("10.0.0.1"))
    second = await site.machine(deployer, where("10.0.0.2"))
    foreign = await site.machine(owner, where("10.0.0.3"))
    agents = [first.agent_id, foreign.agent_id, str(uuid.uuid4()), "nonsense"]
    report = {"sha256": "ab" * 32, "agents": agents}
    path = f"/v1/agent/deployments/{second.deployment_id}/grant"
    assert (await second.http.post(path, json={"wrong_bytes": [report]})).status_code == 200
    entries = (await deployer.http.get("/v1/audit", params={"action": "agent.report_wrong_bytes"})).json()["data"]
    assert [(each["actor"], each["target"]) for each in entries] == [
        (f"agent:{second.agent_id}", f"agent:{first.agent_id}")
    ]
    assert (await owner.http.get("/v1/audit", params={"action": "agent.report_wrong_bytes"})).json()["data"] == []
    for bad in ({}, {"sha256": "x", "agents": agents}, {**report, "agents": []}, {**report, "agents": ["a"] * 17}):
        assert (await second.http.post(path, json={"wrong_bytes": [bad]})).status_code == 400
