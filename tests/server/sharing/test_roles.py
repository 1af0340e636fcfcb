"""Promotion and demotion: the role follows the endpoints on shared tiers, in the same transaction."""

import uuid
from collections.abc import AsyncIterator

import pytest

from conftest import Tenant, new_tenant, running
from factories import make_model
from modelshare.server.app import Application, create_app
from modelshare.server.settings import Settings

pytestmark = pytest.mark.anyio


async def shared_model(app: Application, owner: Tenant) -> uuid.UUID:
    model = await make_model(app, owner.project.id)
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200
    return model


async def deploy(tenant: Tenant, model: uuid.UUID, tier: str, slug: str = "e") -> int:
    body = {"slug": slug, "model": str(model), "tier": tier}
    return (await tenant.http.post("/v1/endpoints", json=body)).status_code


async def role(owner: Tenant, model: uuid.UUID) -> tuple[str | None, int]:
    body = (await owner.http.get(f"/v1/models/{model}")).json()
    return body["catalog_role"], body["deployment_count"]


async def test_the_owners_first_endpoint_on_a_shared_tier_promotes(
    app: Application, owner: Tenant, deployer: Tenant
) -> None:
    model = await shared_model(app, owner)
    assert await deploy(deployer, model, "free") == 403
    assert await deploy(owner, model, "self_hosted", "own") == 201
    assert await role(owner, model) == ("deployable", 1)
    assert await deploy(owner, model, "gpu_nvidia_shared") == 201
    assert await role(owner, model) == ("shared", 2)
    assert await deploy(deployer, model, "free") == 201
    assert await role(owner, model) == ("shared", 3)


@pytest.mark.parametrize("end", ["delete", "deactivate", "move"])
async def test_the_last_one_leaving_demotes(app: Application, owner: Tenant, deployer: Tenant, end: str) -> None:
    model = await shared_model(app, owner)
    await deploy(owner, model, "free", "one")
    await deploy(deployer, model, "free", "two")
    await owner.http.delete("/v1/endpoints/one")
    assert (await role(owner, model))[0] == "shared", "one is left"
    if end == "delete":
        await deployer.http.delete("/v1/endpoints/two")
    elif end == "deactivate":
        await deployer.http.patch("/v1/endpoints/two", json={"is_active": False})
    else:
        moved = await deployer.http.patch("/v1/endpoints/two", json={"tier": "self_hosted"})
        assert moved.status_code == 200
    assert await role(owner, model) == ("deployable", 1 if end == "move" else 0)
    actions = [entry["action"] for entry in (await owner.http.get("/v1/audit")).json()["data"]]
    assert actions.count("model.change_role") == 2


async def test_a_move_to_a_shared_tier_promotes(app: Application, owner: Tenant) -> None:
    model = await shared_model(app, owner)
    await deploy(owner, model, "self_hosted")
    await owner.http.patch("/v1/endpoints/e", json={"tier": "free"})
    assert await role(owner, model) == ("shared", 1)


async def test_a_deployer_cannot_move_or_switch_on_after_unshare(
    app: Application, owner: Tenant, deployer: Tenant
) -> None:
    model = await shared_model(app, owner)
    await deploy(deployer, model, "self_hosted")
    await owner.http.post(f"/v1/models/{model}/unshare")
    assert (await deployer.http.patch("/v1/endpoints/e", json={"tier": "free"})).status_code == 404
    off = await deployer.http.patch("/v1/endpoints/e", json={"is_active": False})
    assert (off.status_code, off.json()["status"]) == (200, "inactive")
    refused = await deployer.http.patch("/v1/endpoints/e", json={"is_active": True})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_fresh_share_starts_at_deployable_though_endpoints_run_on_shared_tiers(
    app: Application, owner: Tenant, deployer: Tenant
) -> None:
    model = await shared_model(app, owner)
    await deploy(owner, model, "free", "own")
    await deploy(deployer, model, "free")
    await owner.http.post(f"/v1/models/{model}/unshare")
    assert await role(owner, model) == (None, 0)
    await owner.http.post(f"/v1/models/{model}/share")
    assert await role(owner, model) == ("deployable", 2)
    assert await deploy(deployer, model, "free", "more") == 403


@pytest.fixture
async def without_promotion(settings: Settings) -> AsyncIterator[Application]:
    app = create_app(settings.model_copy(update={"catalog_promotion": False}))
    async with running(app):
        yield app


async def test_with_promotion_off_nothing_assigns_shared(without_promotion: Application) -> None:
    owner = await new_tenant(without_promotion, "solo")
    async with owner.http:
        model = await shared_model(without_promotion, owner)
        assert await deploy(owner, model, "free") == 201
        assert await role(owner, model) == ("deployable", 1)
        async with (await new_tenant(without_promotion, "other")).http as other:
            assert (await other.get(f"/v1/models/{model}")).status_code == 404
            asked = {"model": str(model), "tier": "free", "slug": "e"}
            refused = (await other.post("/v1/endpoints", json=asked)).json()["error"]["message"]
            assert "no model gets the role `shared`" in refused
            page = (await other.get(f"/models/catalog/{model}", headers={"Accept": "text/html"})).text
            assert "Its role is" in page
            assert "deploys it on a shared tier" not in page
