"""The page that it all started from, sentence by sentence."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from conftest import Tenant, client_of
from factories import make_model
from link_agent import LinkAgent, answer, enroll, linked
from modelshare.server.app import Application
from modelshare.server.settings import Settings
from modelshare.wire.link import Request
from served import serving, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
SHARED_TIERS = (
    "free", "cpu_amd_optimized", "cpu_intel_optimized", "gpu_nvidia_shared", "gpu_amd_shared", "gpu_intel_shared",
)  # fmt: skip


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    off = "promotion_off" in request.fixturenames
    return settings.model_copy(update={"catalog_promotion": False}) if off else settings


@pytest.fixture
def promotion_off() -> None:
    """The platform of the page's "today"."""


@pytest.fixture
async def model(app: Application, owner: Tenant) -> str:
    return str(await make_model(app, owner.project.id))


async def share(tenant: Tenant, model: str, action: str = "share") -> dict[str, Any]:
    response = await tenant.http.post(f"/v1/models/{model}/{action}")
    assert response.status_code == 200, response.text
    return dict(response.json())


async def deploy(tenant: Tenant, model: str, tier: str = "self_hosted", slug: str = "e") -> int:
    response = await tenant.http.post("/v1/endpoints", json={"slug": slug, "model": model, "tier": tier})
    return response.status_code


async def role(tenant: Tenant, model: str) -> str | None:
    found: str | None = (await tenant.http.get(f"/v1/models/{model}")).json()["catalog_role"]
    return found


async def error(http: httpx.AsyncClient, path: str) -> tuple[int, str]:
    response = await http.post(path)
    return response.status_code, response.json()["error"]["message"]


async def test_sharing_exposes_the_manifest_only_storage_stays_yours(
    owner: Tenant, anonymous: httpx.AsyncClient, model: str
) -> None:
    await share(owner, model)
    entry = await anonymous.get(f"/v1/catalog/models/{model}")
    assert set(entry.json()["manifest"]["files"][0]) == {"path", "size", "sha256"}
    for secret in ("http", "url", f"{owner.project.id}/x"):  # the last is where the bytes lie
        assert secret not in entry.text


async def test_the_model_becomes_visible_in_the_public_catalog(
    owner: Tenant, anonymous: httpx.AsyncClient, model: str
) -> None:
    assert (await anonymous.get("/v1/catalog/models")).json()["data"] == []
    await share(owner, model)
    assert [entry["id"] for entry in (await anonymous.get("/v1/catalog/models")).json()["data"]] == [model]


async def test_others_discover_it_and_create_endpoints_against_it(owner: Tenant, deployer: Tenant, model: str) -> None:
    assert await deploy(deployer, model) == 404
    await share(owner, model)
    assert await deploy(deployer, model) == 201


async def test_you_retain_ownership_and_can_unshare_at_any_time(
    owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient, model: str
) -> None:
    await share(owner, model)
    await deploy(deployer, model)
    assert (await deployer.http.get(f"/v1/models/{model}")).status_code == 404
    assert (await share(owner, model, "unshare"))["is_shared"] is False
    assert (await anonymous.get(f"/v1/catalog/models/{model}")).status_code == 404


@pytest.fixture
async def machine(app: Application, deployer: Tenant) -> AsyncIterator[tuple[str, LinkAgent]]:
    """The deployer's own hardware, and the platform's URL."""

    async def serve(link: LinkAgent, request: Request, _: bytes) -> None:
        await link.send(answer(request, b'{"choices": []}'))

    async with serving(app) as url:
        _, token = await enroll(deployer.http)
        async with linked(url, token, handler=serve) as link:
            yield url, link


async def test_already_provisioned_endpoints_keep_serving_traffic_after_you_unshare(
    owner: Tenant, deployer: Tenant, model: str, machine: tuple[str, LinkAgent]
) -> None:
    url, link = machine
    await share(owner, model)
    assert await deploy(deployer, model) == 201
    await link.make_ready()
    headers = {"Authorization": f"Bearer {deployer.project.api_key}"}
    async with httpx.AsyncClient(base_url=f"{url}/{deployer.project.id}/e/v1", headers=headers) as http:

        async def answers() -> bool:
            return (await http.post("/chat/completions", content=b"{}")).status_code == 200

        await wait_until(answers)
        await share(owner, model, "unshare")
        for _ in range(5):
            assert await answers()


async def test_the_catalog_footprint_is_removed(
    owner: Tenant, deployer: Tenant, operator: httpx.AsyncClient, model: str
) -> None:
    await share(owner, model)
    await deploy(deployer, model)
    assert await deploy(owner, model, "free") == 201
    await operator.post(f"/v1/platform/catalog/{model}/feature", json={"featured": True})
    footprint = ("deployment_count", "featured", "catalog_role")
    before = (await owner.http.get(f"/v1/models/{model}")).json()
    assert tuple(before[name] for name in footprint) == (2, True, "shared")
    after = await share(owner, model, "unshare")
    assert tuple(after[name] for name in footprint) == (0, False, None)


@pytest.mark.parametrize("tier", [*SHARED_TIERS, "self_hosted"])
async def test_new_endpoints_can_no_longer_select_the_model(
    owner: Tenant, deployer: Tenant, model: str, tier: str
) -> None:
    await share(owner, model)
    await deploy(owner, model, "free")
    assert await deploy(deployer, model, tier) == 201
    await share(owner, model, "unshare")
    assert await deploy(deployer, model, tier, "another") == 404


@pytest.mark.parametrize("tier", SHARED_TIERS)
async def test_deployable_is_selectable_only_from_the_self_hosted_tier_and_shared_from_all(
    owner: Tenant, deployer: Tenant, model: str, tier: str
) -> None:
    assert (await share(owner, model))["catalog_role"] == "deployable"
    assert await deploy(deployer, model, tier) == 403
    assert await deploy(deployer, model, "self_hosted") == 201
    assert await deploy(owner, model, "free") == 201
    assert await role(owner, model) == "shared", "promotion, which the page plans"
    assert await deploy(deployer, model, tier, "another") == 201


async def test_a_freshly_shared_model_always_starts_at_deployable(owner: Tenant, model: str) -> None:
    await share(owner, model)
    await deploy(owner, model, "free")
    assert await role(owner, model) == "shared"
    await share(owner, model, "unshare")
    assert (await share(owner, model))["catalog_role"] == "deployable"


@pytest.mark.parametrize("how", ["delete", "deactivate", "move"])
async def test_demotion_is_automatic_when_the_last_endpoint_on_a_shared_tier_ends(
    owner: Tenant, deployer: Tenant, model: str, how: str
) -> None:
    await share(owner, model)
    await deploy(owner, model, "free")
    await deploy(deployer, model, "gpu_amd_shared")
    await owner.http.delete("/v1/endpoints/e")
    assert await role(owner, model) == "shared", "another one is there"
    patch = {"deactivate": {"is_active": False}, "move": {"tier": "self_hosted"}}
    if how == "delete":
        await deployer.http.delete("/v1/endpoints/e")
    else:
        assert (await deployer.http.patch("/v1/endpoints/e", json=patch[how])).status_code == 200
    assert await role(owner, model) == "deployable"


@pytest.mark.usefixtures("promotion_off")
async def test_today_no_code_path_assigns_shared(owner: Tenant, deployer: Tenant, model: str) -> None:
    await share(owner, model)
    assert await deploy(owner, model, "free") == 201
    assert await role(owner, model) == "deployable"
    assert await deploy(deployer, model, "free") == 403


async def test_the_error_table(app: Application, owner: Tenant, deployer: Tenant, model: str) -> None:
    async with client_of(app) as nobody:
        for action in ("share", "unshare"):
            assert await error(nobody, f"/v1/models/{model}/{action}") == (401, "Authentication required")
            assert await error(owner.http, f"/v1/models/42/{action}") == (400, "Invalid model ID")
            foreign = await error(deployer.http, f"/v1/models/{model}/{action}")
            absent = await error(owner.http, f"/v1/models/{uuid.uuid4()}/{action}")
            assert foreign == absent
            assert foreign[0] == {"share": 400, "unshare": 404}[action]
    assert await error(owner.http, f"/v1/models/{model}/unshare") == (404, "Model not found or not shared")
    processing = await make_model(app, owner.project.id, name="unready", status="processing")
    status, message = await error(owner.http, f"/v1/models/{processing}/share")
    assert (status, "still processing" in message) == (400, True)
