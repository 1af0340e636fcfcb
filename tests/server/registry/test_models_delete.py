"""DELETE /v1/models/{id}."""

import uuid

import httpx
import pytest

from answers import message, problem
from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio


async def shared_model(app: Application, owner: Tenant) -> uuid.UUID:
    model = await make_model(app, owner.project.id)
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200
    return model


async def deploy(tenant: Tenant, model: uuid.UUID, slug: str, tier: str = "self_hosted") -> None:
    body = {"slug": slug, "model": str(model), "tier": tier}
    assert (await tenant.http.post("/v1/endpoints", json=body)).status_code == 201


async def test_a_deleted_model_is_gone_from_everywhere(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient
) -> None:
    model = await shared_model(app, owner)
    assert (await owner.http.delete(f"/v1/models/{model}")).status_code == 204
    assert problem(await owner.http.get(f"/v1/models/{model}")) == (404, "not_found_error", "model_not_found")
    assert problem(await owner.http.delete(f"/v1/models/{model}")) == (404, "not_found_error", "model_not_found")
    assert (await owner.http.get("/v1/models")).json()["data"] == []
    assert (await anonymous.get(f"/v1/catalog/models/{model}")).status_code == 404
    assert (await anonymous.get("/v1/catalog/models")).json()["data"] == []
    entry = (await owner.http.get("/v1/audit")).json()["data"][0]
    assert (entry["action"], entry["target"], entry["details"]["name"]) == ("model.delete", f"model:{model}", "tiny")


async def test_not_while_others_use_it(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await shared_model(app, owner)
    await deploy(deployer, model, "one")
    await deploy(deployer, model, "two")
    await deploy(owner, model, "own")
    refused = await owner.http.delete(f"/v1/models/{model}")
    assert problem(refused) == (409, "conflict_error", "model_in_use")
    assert message(refused).startswith("2 active endpoints"), "the owner's own does not count"
    entry = (await owner.http.get("/v1/audit")).json()["data"][0]
    assert (entry["action"], entry["outcome"], entry["reason"]) == ("model.delete", "refused", message(refused))

    await owner.http.post(f"/v1/models/{model}/unshare")
    assert problem(await owner.http.delete(f"/v1/models/{model}"))[2] == "model_in_use", "unshared, they serve on"
    await deployer.http.delete("/v1/endpoints/one")
    assert message(await owner.http.delete(f"/v1/models/{model}")).startswith("1 active endpoint ")
    await deployer.http.patch("/v1/endpoints/two", json={"is_active": False})
    assert (await owner.http.delete(f"/v1/models/{model}")).status_code == 204, "what is switched off does not count"


async def test_endpoints_left_over_say_what_happened(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await shared_model(app, owner)
    await deploy(owner, model, "own")
    await deploy(deployer, model, "off")
    await deployer.http.patch("/v1/endpoints/off", json={"is_active": False})
    assert (await owner.http.delete(f"/v1/models/{model}")).status_code == 204
    for tenant, slug in ((owner, "own"), (deployer, "off")):
        left = (await tenant.http.get(f"/v1/endpoints/{slug}")).json()
        assert (left["model"], left["model_name"], left["resolved_version"]) == (None, None, None)
        assert left["status"] == "failed"
        assert "deleted by its owner" in left["status_reason"]
        assert [entry["status"] for entry in (await tenant.http.get("/v1/endpoints")).json()["data"]] == ["failed"]
    called = await owner.http.post(f"/{owner.project.id}/own/v1/chat/completions", json={})
    assert problem(called)[0] == 503
    again = await deployer.http.patch("/v1/endpoints/off", json={"is_active": True})
    assert problem(again) == (404, "not_found_error", "model_not_found")
    assert (await owner.http.patch("/v1/endpoints/own", json={"is_active": False})).status_code == 200
    assert (await owner.http.delete("/v1/endpoints/own")).status_code == 204


async def test_the_name_is_free_again(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.delete(f"/v1/models/{model}")
    other = await make_model(app, owner.project.id, name="other")
    assert (await owner.http.patch(f"/v1/models/{other}", json={"name": "tiny"})).status_code == 200
