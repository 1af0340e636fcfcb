"""`POST /v1/enroll`."""

import asyncio

import httpx
import pytest
from sqlalchemy import select, update

from conftest import Tenant, client_of, new_tenant
from link_agent import enroll
from modelshare.server.app import Application, create_app
from modelshare.server.fleet.tables import AgentRow, JoinKeyRow
from modelshare.server.settings import Settings

pytestmark = pytest.mark.anyio


async def test_a_join_key_makes_a_private_agent(
    app: Application, deployer: Tenant, owner: Tenant, anonymous: httpx.AsyncClient
) -> None:
    key = (await deployer.http.post("/v1/join-keys", json={"name": "boxes"})).json()["key"]
    capabilities = {"engines": ["llamacpp"], "memory_bytes": 1 << 40}
    made = await anonymous.post("/v1/enroll", json={"join_key": key, "name": "box", "capabilities": capabilities})
    assert made.status_code == 201
    token = made.json()["token"]
    assert token.startswith("msa_")
    (agent,) = (await deployer.http.get("/v1/agents")).json()["data"]
    assert (agent["id"], agent["state"], agent["tiers"]) == (made.json()["agent_id"], "pending", None)
    assert agent["capabilities"]["engines"] == ["llamacpp"]
    assert (await owner.http.get("/v1/agents")).json()["data"] == []
    async with app.database.read() as session:
        row = await session.scalar(select(AgentRow))
    assert row is not None
    assert token not in str(vars(row))


async def test_a_platform_key_makes_a_shared_agent(operator: httpx.AsyncClient, deployer: Tenant) -> None:
    agent_id, _ = await enroll(operator, tiers=["free", "gpu_amd_shared"])
    (agent,) = (await operator.get("/v1/platform/agents")).json()["data"]
    assert (agent["id"], agent["tiers"]) == (agent_id, ["free", "gpu_amd_shared"])
    assert (await deployer.http.get("/v1/agents")).json()["data"] == []


async def test_a_revoked_key_keeps_its_agents(deployer: Tenant, anonymous: httpx.AsyncClient) -> None:
    key = (await deployer.http.post("/v1/join-keys", json={"name": "boxes"})).json()
    await anonymous.post("/v1/enroll", json={"join_key": key["key"], "name": "box"})
    await deployer.http.delete(f"/v1/join-keys/{key['id']}")
    refused = await anonymous.post("/v1/enroll", json={"join_key": key["key"], "name": "late"})
    assert refused.status_code == 401
    assert "was revoked" in refused.json()["error"]["message"]
    assert [agent["name"] for agent in (await deployer.http.get("/v1/agents")).json()["data"]] == ["box"]


async def test_keys_that_do_not_enrol(app: Application, deployer: Tenant, anonymous: httpx.AsyncClient) -> None:
    refused = await anonymous.post("/v1/enroll", json={"join_key": "msj_nonsense", "name": "box"})
    assert refused.status_code == 401
    assert "unknown" in refused.json()["error"]["message"]
    key = (await deployer.http.post("/v1/join-keys", json={"name": "boxes", "expires_in": 1})).json()["key"]
    async with app.database.write() as session:
        await session.execute(update(JoinKeyRow).values(expires_at=app.platform.now() - 1))
    refused = await anonymous.post("/v1/enroll", json={"join_key": key, "name": "box"})
    assert refused.status_code == 401
    assert "has expired" in refused.json()["error"]["message"]


async def enrolled(http: httpx.AsyncClient, key: str, names: str) -> list[int]:
    answers = await asyncio.gather(*(http.post("/v1/enroll", json={"join_key": key, "name": name}) for name in names))
    return sorted(answer.status_code for answer in answers)


async def new_key(http: httpx.AsyncClient, path: str = "/v1/join-keys", **fields: object) -> str:
    return str((await http.post(path, json={"name": "boxes", **fields})).json()["key"])


async def test_a_join_key_brings_so_many_agents_and_no_more(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"agents_per_join_key": 3}))
    async with app.running(), client_of(app) as anybody:
        tenant = await new_tenant(app, "acme")
        key = await new_key(tenant.http)
        assert await enrolled(anybody, key, "abcde") == [201, 201, 201, 409, 409]
        refused = await anybody.post("/v1/enroll", json={"join_key": key, "name": "f"})
        assert "3 agents have enrolled with this key" in refused.json()["error"]["message"]
        assert await enrolled(anybody, await new_key(tenant.http), "g") == [201], "another key brings more"
        first = (await tenant.http.get("/v1/agents")).json()["data"][-1]["id"]
        assert (await tenant.http.delete(f"/v1/agents/{first}")).status_code == 204
        assert await enrolled(anybody, key, "hi") == [201, 409], "a removed one makes room"


async def test_a_project_has_so_many_agents_and_no_more(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"agents_per_project": 2}))
    async with app.running(), client_of(app) as anybody:
        tenant, other = await new_tenant(app, "acme"), await new_tenant(app, "borg")
        assert await enrolled(anybody, await new_key(tenant.http), "ab") == [201, 201]
        assert await enrolled(anybody, await new_key(tenant.http), "c") == [409]
        assert await enrolled(anybody, await new_key(other.http), "d") == [201], "another project has its own"


@pytest.mark.parametrize(
    "odd",
    [
        {"engines": ["a\u202e"]},
        {"engines": ["x"] * 51},
        {"accelerator": "x" * 201},
        {"platform": "a\nb"},
        {"memory_bytes": -1},
        {"disk_free_bytes": 2**64 - 1},
    ],
)
async def test_what_no_machine_is_like_is_refused(
    deployer: Tenant, anonymous: httpx.AsyncClient, odd: dict[str, object]
) -> None:
    key = (await deployer.http.post("/v1/join-keys", json={"name": "boxes"})).json()["key"]
    made = await anonymous.post("/v1/enroll", json={"join_key": key, "name": "box", "capabilities": odd})
    assert made.status_code == 400
    assert (await deployer.http.get("/v1/agents")).json()["data"] == []


async def test_what_an_earlier_version_let_in_keeps_nobody_from_seeing_the_agents(
    app: Application, deployer: Tenant
) -> None:
    await enroll(deployer.http)
    async with app.database.write() as session:
        await session.execute(update(AgentRow).values(capabilities={"engines": ["\x1b" * 300], "memory_bytes": -5}))
    (agent,) = (await deployer.http.get("/v1/agents")).json()["data"]
    assert agent["capabilities"]["memory_bytes"] == -5
