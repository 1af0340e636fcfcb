"""`/v1/join-keys` and `/v1/platform/join-keys`."""

import httpx
import pytest

from conftest import Tenant

pytestmark = pytest.mark.anyio


async def test_create_shows_the_value_once(deployer: Tenant) -> None:
    made = await deployer.http.post("/v1/join-keys", json={"name": "box", "expires_in": 60})
    assert made.status_code == 201
    assert made.json()["key"].startswith("msj_")
    assert made.json()["expires_at"] == made.json()["created_at"] + 60
    (listed,) = (await deployer.http.get("/v1/join-keys")).json()["data"]
    assert listed["id"] == made.json()["id"]
    assert "key" not in listed


async def test_lists_page_newest_first(deployer: Tenant) -> None:
    for number in range(3):
        await deployer.http.post("/v1/join-keys", json={"name": f"box {number}"})
    first = (await deployer.http.get("/v1/join-keys", params={"limit": 2})).json()
    assert [key["name"] for key in first["data"]] == ["box 2", "box 1"]
    rest = (await deployer.http.get("/v1/join-keys", params={"after": first["next_cursor"]})).json()
    assert ([key["name"] for key in rest["data"]], rest["has_more"]) == (["box 0"], False)


async def test_revoke_is_the_owners_own(deployer: Tenant, owner: Tenant) -> None:
    made = (await deployer.http.post("/v1/join-keys", json={"name": "box"})).json()
    assert (await owner.http.delete(f"/v1/join-keys/{made['id']}")).status_code == 404
    assert (await deployer.http.delete("/v1/join-keys/nonsense")).status_code == 404
    assert (await deployer.http.delete(f"/v1/join-keys/{made['id']}")).status_code == 204
    (listed,) = (await deployer.http.get("/v1/join-keys")).json()["data"]
    assert listed["revoked_at"] is not None
    actions = [entry["action"] for entry in (await deployer.http.get("/v1/audit")).json()["data"]]
    assert actions[:2] == ["join_key.revoke", "join_key.create"]


async def test_a_projects_key_has_no_tiers(deployer: Tenant) -> None:
    refused = await deployer.http.post("/v1/join-keys", json={"name": "box", "tiers": ["free"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tiers")


async def test_the_platforms_key_names_shared_tiers(operator: httpx.AsyncClient) -> None:
    for tiers in (None, [], ["self_hosted"], ["free", "unknown"]):
        refused = await operator.post("/v1/platform/join-keys", json={"name": "box", "tiers": tiers})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tiers")
    made = await operator.post("/v1/platform/join-keys", json={"name": "box", "tiers": ["free"]})
    assert (made.status_code, made.json()["tiers"]) == (201, ["free"])
    (listed,) = (await operator.get("/v1/platform/join-keys")).json()["data"]
    assert listed["id"] == made.json()["id"]
    assert (await operator.delete(f"/v1/platform/join-keys/{listed['id']}")).status_code == 204


async def test_a_platform_key_in_a_project_makes_that_projects_join_keys(
    deployer: Tenant, operator: httpx.AsyncClient
) -> None:
    keys = f"/{deployer.project.id}/v1/join-keys"
    for tiers in ([], ["free"], ["self_hosted"]):
        refused = await operator.post(keys, json={"name": "box", "tiers": tiers})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tiers")
    made = await operator.post(keys, json={"name": "box"})
    assert (made.status_code, made.json()["tiers"]) == (201, None)
    assert [key["id"] for key in (await deployer.http.get("/v1/join-keys")).json()["data"]] == [made.json()["id"]]
    enrolled = await operator.post("/v1/enroll", json={"join_key": made.json()["key"], "name": "box"})
    assert enrolled.status_code == 201
    [agent] = (await deployer.http.get("/v1/agents")).json()["data"]
    assert (agent["id"], agent["tiers"]) == (enrolled.json()["agent_id"], None)


async def test_a_route_of_the_platform_is_about_the_platform_in_whatever_project(
    deployer: Tenant, operator: httpx.AsyncClient
) -> None:
    spec = {"name": "rack", "tiers": ["free"]}
    made = await operator.post(f"/{deployer.project.id}/v1/platform/join-keys", json=spec)
    assert (made.status_code, made.json()["tiers"]) == (201, ["free"])
    assert (await deployer.http.get("/v1/join-keys")).json()["data"] == []
    [listed] = (await operator.get("/v1/platform/join-keys")).json()["data"]
    assert listed["id"] == made.json()["id"]


async def test_who_may(deployer: Tenant, anonymous: httpx.AsyncClient, operator: httpx.AsyncClient) -> None:
    assert (await anonymous.post("/v1/join-keys", json={"name": "box"})).status_code == 401
    assert (await deployer.http.post("/v1/platform/join-keys", json={"name": "box"})).status_code == 403
    assert (await operator.post("/v1/join-keys", json={"name": "box"})).status_code == 401
    key = (await deployer.http.post("/v1/keys", json={"name": "narrow", "scopes": ["models"]})).json()["key"]
    refused = await anonymous.get("/v1/join-keys", headers={"Authorization": f"Bearer {key}"})
    assert refused.status_code == 403
    assert "`agents`" in refused.json()["error"]["message"]
