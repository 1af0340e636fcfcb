"""`POST /v1/enroll`."""

import httpx
import pytest
from sqlalchemy import select, update

from conftest import Tenant
from link_agent import enroll
from modelshare.server.app import Application
from modelshare.server.fleet.tables import AgentRow, JoinKeyRow

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
