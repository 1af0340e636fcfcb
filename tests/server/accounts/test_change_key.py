"""PATCH /v1/keys/{id}: limits of a key, and PATCH /v1/project: the project's budget."""

import uuid
from typing import Any

import pytest

from answers import message
from conftest import Tenant, client_of
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio
LIMITS = {"requests_per_minute": 60, "tokens_per_minute": 1000, "monthly_token_budget": 5_000_000}


async def made(tenant: Tenant, **fields: object) -> dict[str, Any]:
    answer = await tenant.http.post("/v1/keys", json={"name": "app", **fields})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def limits_of(key: dict[str, Any]) -> dict[str, Any]:
    return {name: key[name] for name in LIMITS}


async def test_limits_are_set_changed_and_taken_away(owner: Tenant) -> None:
    key = await made(owner, **LIMITS)
    assert limits_of(key) == LIMITS
    changed = await owner.http.patch(f"/v1/keys/{key['id']}", json={"requests_per_minute": None})
    assert changed.status_code == 200
    assert limits_of(changed.json()) == {**LIMITS, "requests_per_minute": None}, "what is not sent stays"
    assert "key" not in changed.json()
    shown = next(each for each in (await owner.http.get("/v1/keys")).json()["data"] if each["id"] == key["id"])
    assert limits_of(shown) == {**LIMITS, "requests_per_minute": None}
    log = (await owner.http.get("/v1/audit", params={"action": "key.change_limits"})).json()["data"]
    assert [entry["details"]["tokens_per_minute"] for entry in log] == [1000]


@pytest.mark.parametrize(
    "body",
    [
        *({"requests_per_minute": value} for value in (0, -1, 10**10, "x", 1.5)),
        *({"monthly_token_budget": value} for value in (0, 10**16)),
        {"name": "x"},
    ],
)
async def test_values_out_of_bounds(owner: Tenant, body: dict[str, Any]) -> None:
    key = await made(owner)
    assert (await owner.http.patch(f"/v1/keys/{key['id']}", json=body)).status_code == 400


async def test_keys_of_others_and_revoked_ones(app: Application, owner: Tenant, deployer: Tenant) -> None:
    key = await made(owner)
    path = f"/v1/keys/{key['id']}"
    assert (await deployer.http.patch(path, json=LIMITS)).status_code == 404
    assert (await owner.http.patch(f"/v1/keys/{uuid.uuid4()}", json=LIMITS)).status_code == 404
    async with client_of(app) as anonymous:
        assert (await anonymous.patch(path, json=LIMITS)).status_code == 401
    assert (await owner.http.delete(path)).status_code == 204
    assert (await owner.http.patch(path, json=LIMITS)).status_code == 409


async def test_a_key_cannot_allow_more_than_it_may_use(app: Application, owner: Tenant) -> None:
    own = await made(owner, scopes=["keys", "inference"], requests_per_minute=60)
    other = await made(owner, scopes=["inference"])
    async with client_of(app, own["key"]) as http:
        for key_id in (own["id"], other["id"]):
            refused = await http.patch(f"/v1/keys/{key_id}", json={"requests_per_minute": 61})
            assert refused.status_code == 403
            assert "at most 60" in message(refused)
        spec = {"name": "more", "scopes": ["inference"]}
        assert (await http.post("/v1/keys", json=spec)).status_code == 403
        assert (await http.post("/v1/keys", json={**spec, "requests_per_minute": 60})).status_code == 201
        assert (await http.post(f"/v1/keys/{other['id']}/rotate")).status_code == 403
    assert (await owner.http.patch(f"/v1/keys/{own['id']}", json={"requests_per_minute": None})).status_code == 200


async def test_a_projects_budget(owner: Tenant) -> None:
    assert (await owner.http.get("/v1/project")).json()["monthly_budget"] is None
    changed = await owner.http.patch("/v1/project", json={"monthly_budget": 12.5})
    assert changed.json()["monthly_budget"] == 12.5
    other = await owner.http.patch("/v1/project", json={"require_signature": False})
    assert other.json()["monthly_budget"] == 12.5, "what is not sent stays"
    assert (await owner.http.patch("/v1/project", json={"monthly_budget": None})).json()["monthly_budget"] is None
    for value in (-1, 1e10, "much"):
        assert (await owner.http.patch("/v1/project", json={"monthly_budget": value})).status_code == 400
