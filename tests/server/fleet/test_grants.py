"""`POST /v1/agent/deployments/{id}/grant`: who may fetch whose weights, and for how long."""

import hashlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from conftest import Tenant
from factories import make_model
from link_agent import LinkAgent, enroll, linked
from modelshare.server.app import Application
from served import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


@dataclass(frozen=True)
class Machine:
    """The deployer's agent with its one deployment."""

    http: httpx.AsyncClient
    link: LinkAgent
    agent_id: str
    deployment_id: str
    model_id: uuid.UUID

    async def ask(self, deployment_id: str | None = None) -> httpx.Response:
        return await self.http.post(f"/v1/agent/deployments/{deployment_id or self.deployment_id}/grant")


@pytest.fixture
async def machine(app: Application, url: str, owner: Tenant, deployer: Tenant) -> AsyncIterator[Machine]:
    model_id = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model_id}/share")
    agent_id, token = await enroll(deployer.http)
    async with (
        linked(url, token) as link,
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}) as http,
    ):
        spec = {"slug": "chat", "model": str(model_id), "tier": "self_hosted"}
        assert (await deployer.http.post("/v1/endpoints", json=spec)).status_code == 201
        (wanted,) = await link.wanted(1)
        yield Machine(http, link, agent_id, wanted.deployment_id, model_id)


async def test_a_link_for_every_file_for_a_few_minutes(app: Application, machine: Machine) -> None:
    answer = await machine.ask()
    assert answer.status_code == 200
    grant = answer.json()
    digest = hashlib.sha256(f"{machine.model_id}".encode()).hexdigest()
    (file,) = grant["files"]
    assert (file["path"], file["size"], file["sha256"]) == ("model.gguf", 1000, digest)
    assert file["url"].startswith(str(machine.http.base_url).rstrip("/"))
    assert grant["manifest_digest"] == f"sha256:{digest}"
    assert 0 < grant["expires_at"] - app.platform.now() <= app.settings.grants_seconds


async def test_every_grant_is_in_the_owners_and_the_deployers_log(
    machine: Machine, owner: Tenant, deployer: Tenant
) -> None:
    await machine.ask()
    for tenant in (owner, deployer):
        (entry, *_) = (await tenant.http.get("/v1/audit")).json()["data"]
        assert (entry["action"], entry["actor"]) == ("grant.issue", f"agent:{machine.agent_id}")
        assert entry["details"]["model"] == str(machine.model_id)


async def test_unsharing_leaves_the_endpoints_agents_their_right(machine: Machine, owner: Tenant) -> None:
    assert (await owner.http.post(f"/v1/models/{machine.model_id}/unshare")).status_code == 200
    assert (await machine.ask()).status_code == 200


async def test_only_the_agent_itself(url: str, machine: Machine, owner: Tenant, deployer: Tenant) -> None:
    path = f"/v1/agent/deployments/{machine.deployment_id}/grant"
    async with httpx.AsyncClient(base_url=url) as nobody:
        assert (await nobody.post(path)).status_code == 401
        for key in (owner.project.api_key, deployer.project.api_key, "msa_nonsense"):
            answer = await nobody.post(path, headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 401
        for tenant in (owner, deployer):
            _, token = await enroll(tenant.http, name="other")
            async with linked(url, token) as other:
                await other.wanted(1 if tenant is deployer else 0)
                answer = await nobody.post(path, headers={"Authorization": f"Bearer {token}"})
                assert answer.status_code == 404
                assert answer.json()["error"]["type"] == "not_found_error"


async def test_no_such_deployment(machine: Machine) -> None:
    assert (await machine.ask(str(uuid.uuid4()))).status_code == 404
    assert (await machine.ask("nonsense")).status_code == 404


async def test_nothing_once_the_endpoint_is_switched_off(machine: Machine, deployer: Tenant) -> None:
    assert (await deployer.http.patch("/v1/endpoints/chat", json={"is_active": False})).status_code == 200
    assert (await machine.ask()).status_code == 404


async def test_nothing_for_a_suspended_or_removed_agent(machine: Machine, deployer: Tenant) -> None:
    await deployer.http.patch(f"/v1/agents/{machine.agent_id}", json={"suspended": True})
    assert (await machine.ask()).status_code == 404
    await deployer.http.delete(f"/v1/agents/{machine.agent_id}")
    assert (await machine.ask()).status_code == 401


async def test_nothing_without_a_link(machine: Machine, deployer: Tenant) -> None:
    await machine.link.socket.close()

    async def gone() -> bool:
        return bool((await deployer.http.get(f"/v1/agents/{machine.agent_id}")).json()["state"] == "disconnected")

    await wait_until(gone)
    assert (await machine.ask()).status_code == 404


async def test_a_link_never_leads_where_a_request_says(machine: Machine) -> None:
    """Who writes another name into `Host` gets links to the platform all the same."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "203.0.113.9:8000"):
        path = f"/v1/agent/deployments/{machine.deployment_id}/grant"
        answer = await machine.http.post(path, headers={"Host": host})
        (file,) = answer.json()["files"]
        assert file["url"].startswith(f"{str(machine.http.base_url).rstrip('/')}/blobs/")
