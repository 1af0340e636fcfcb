"""GET /v1/endpoints, GET and DELETE /v1/endpoints/{slug}."""

import httpx
import pytest

from answers import ANONYMOUS, message, problem
from conftest import Tenant, client_of
from factories import make_model
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio
ABSENT = (404, "not_found_error", "endpoint_not_found")


async def deploy(app: Application, tenant: Tenant, *slugs: str) -> None:
    model = await make_model(app, tenant.project.id, name=f"for-{slugs[0]}")
    for slug in slugs:
        body = {"slug": slug, "model": str(model), "tier": "self_hosted"}
        assert (await tenant.http.post("/v1/endpoints", json=body)).status_code == 201


async def test_pages_hold_every_endpoint_once_newest_first(app: Application, owner: Tenant, deployer: Tenant) -> None:
    await deploy(app, owner, "one", "two", "three")
    await deploy(app, deployer, "other")
    first = (await owner.http.get("/v1/endpoints?limit=2")).json()
    second = (await owner.http.get(f"/v1/endpoints?limit=2&after={first['next_cursor']}")).json()
    assert [entry["slug"] for page in (first, second) for entry in page["data"]] == ["three", "two", "one"]
    assert (first["has_more"], second["has_more"], second["next_cursor"]) == (True, False, None)
    (listed,) = second["data"]
    single = (await owner.http.get("/v1/endpoints/one")).json()
    assert {**single, "status_reason": None} == {**listed, "status_reason": None}, "list and single view agree"


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "after=x", "after=WyJ4Il0"])
async def test_bad_input(owner: Tenant, query: str) -> None:
    assert problem(await owner.http.get(f"/v1/endpoints?{query}")) == (400, "invalid_request_error", None)


async def test_a_deleted_endpoint_is_gone(app: Application, owner: Tenant) -> None:
    await deploy(app, owner, "short", "long")
    assert (await owner.http.delete("/v1/endpoints/short")).status_code == 204
    for method in ("GET", "DELETE"):
        assert problem(await owner.http.request(method, "/v1/endpoints/short")) == ABSENT
    assert [entry["slug"] for entry in (await owner.http.get("/v1/endpoints")).json()["data"]] == ["long"]
    entry = (await owner.http.get("/v1/audit")).json()["data"][0]
    assert (entry["action"], entry["outcome"], entry["details"]["slug"]) == ("endpoint.delete", "done", "short")


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_anothers_endpoint_looks_absent(app: Application, owner: Tenant, deployer: Tenant, method: str) -> None:
    await deploy(app, owner, "mine")
    body = {"is_active": False} if method == "PATCH" else None
    foreign = await deployer.http.request(method, "/v1/endpoints/mine", json=body)
    absent = await deployer.http.request(method, "/v1/endpoints/nothing", json=body)
    assert problem(foreign) == problem(absent) == ABSENT
    assert message(foreign) == message(absent)
    assert (await owner.http.get("/v1/endpoints/mine")).json()["is_active"] is True


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/mine"), ("PATCH", "/mine"), ("DELETE", "/mine")])
async def test_without_a_key_or_scope(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient, method: str, path: str
) -> None:
    await deploy(app, owner, "mine")
    body = {"is_active": False} if method == "PATCH" else None
    assert problem(await anonymous.request(method, f"/v1/endpoints{path}", json=body)) == ANONYMOUS
    lesser = (await owner.http.post("/v1/keys", json={"name": "m", "scopes": ["models"]})).json()
    async with client_of(app, lesser["key"]) as http:
        assert problem(await http.request(method, f"/v1/endpoints{path}", json=body)) == (403, "permission_error", None)
    assert (await owner.http.get("/v1/endpoints/mine")).json()["is_active"] is True
