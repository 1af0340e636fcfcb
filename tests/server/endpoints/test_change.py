"""PATCH /v1/endpoints/{slug}."""

from typing import Any

import pytest

from answers import message, problem
from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio


async def deploy(app: Application, owner: Tenant, deployer: Tenant) -> str:
    """The deployer's endpoint `chat` on `self_hosted` with a shared model; the model's id."""
    model = await make_model(app, owner.project.id)
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200
    body = {"slug": "chat", "model": str(model), "tier": "self_hosted"}
    assert (await deployer.http.post("/v1/endpoints", json=body)).status_code == 201
    return str(model)


async def change(tenant: Tenant, **fields: object) -> tuple[int, dict[str, Any]]:
    answer = await tenant.http.patch("/v1/endpoints/chat", json=fields)
    return answer.status_code, answer.json()


async def test_switching_off_and_on(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await deploy(app, owner, deployer)
    status, off = await change(deployer, is_active=False)
    assert (status, off["status"], off["is_active"]) == (200, "inactive", False)
    assert (await owner.http.get(f"/v1/models/{model}")).json()["deployment_count"] == 0
    called = await deployer.http.post(f"/{deployer.project.id}/chat/v1/chat/completions", json={})
    assert problem(called) == (503, "server_error", "endpoint_inactive")
    status, on = await change(deployer, is_active=True)
    assert (status, on["status"], on["is_active"]) == (200, "provisioning", True)
    assert (await owner.http.get(f"/v1/models/{model}")).json()["deployment_count"] == 1


async def test_what_stays_as_it_is_needs_no_leave(app: Application, owner: Tenant, deployer: Tenant) -> None:
    """After unshare, whatever does not count as new goes on."""
    model = await deploy(app, owner, deployer)
    await owner.http.post(f"/v1/models/{model}/unshare")
    for fields in ({}, {"is_active": True}, {"tier": "self_hosted"}, {"version": "1.0.0"}, {"version": "latest"}):
        status, body = await change(deployer, **fields)
        assert (status, body["is_active"]) == (200, True), fields
    assert (await change(deployer, version="9.9.9"))[0] == 400
    assert (await change(deployer, is_active=False))[0] == 200
    status, refused = await change(deployer, is_active=True)
    assert (status, refused["error"]["code"]) == (404, "model_not_found"), "switching on again counts as new"


async def test_a_move_is_refused_as_a_new_endpoint_would_be(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await deploy(app, owner, deployer)
    created = await deployer.http.post("/v1/endpoints", json={"slug": "new", "model": model, "tier": "free"})
    status, moved = await change(deployer, tier="free")
    assert (status, moved) == (403, created.json())
    assert (await change(deployer, tier="tpu"))[0] == 400
    kept = (await deployer.http.get("/v1/endpoints/chat")).json()
    assert (kept["tier"], kept["is_active"]) == ("self_hosted", True)
    entry = (await deployer.http.get("/v1/audit")).json()["data"][1]
    assert (entry["action"], entry["outcome"]) == ("endpoint.change", "refused")


async def test_a_change_is_in_the_audit_log(app: Application, owner: Tenant, deployer: Tenant) -> None:
    await deploy(app, owner, deployer)
    await change(deployer, version="1.0.0", is_active=False)
    entry = (await deployer.http.get("/v1/audit")).json()["data"][0]
    assert entry["action"] == "endpoint.change"
    assert entry["details"] == {"slug": "chat", "version": "1.0.0", "is_active": False}


async def test_bad_input(app: Application, owner: Tenant, deployer: Tenant) -> None:
    await deploy(app, owner, deployer)
    cases: list[tuple[str, Any]] = [
        ("is_active", "perhaps"),
        ("version", "1"),
        ("tier", ["free"]),
        ("slug", "other"),
        ("model", "other"),
        ("status", "active"),
    ]
    for field, value in cases:
        answer = await deployer.http.patch("/v1/endpoints/chat", json={field: value})
        assert problem(answer) == (400, "invalid_request_error", None)
        assert f"`{field}`" in message(answer)
    kept = (await deployer.http.get("/v1/endpoints/chat")).json()
    assert (kept["tier"], kept["version"], kept["is_active"]) == ("self_hosted", "latest", True)
