"""Share and unshare, to the letter of the error table."""

import uuid

import httpx
import pytest

from conftest import Tenant, client_of
from factories import make_model
from modelshare.server.app import Application
from modelshare.wire.models import ModelStatus

pytestmark = pytest.mark.anyio


def error(response: httpx.Response) -> tuple[int, str, str | None]:
    body = response.json()["error"]
    assert set(body) == {"message", "type", "code", "param"}
    return response.status_code, body["message"], body["code"]


@pytest.mark.parametrize("action", ["share", "unshare"])
async def test_without_a_key(app: Application, anonymous: httpx.AsyncClient, action: str) -> None:
    wanted = (401, "Authentication required", None)
    for target in (uuid.uuid4(), "not-a-uuid"):
        assert error(await anonymous.post(f"/v1/models/{target}/{action}")) == wanted
    async with client_of(app, "ms_acme_" + "x" * 43) as stranger:
        assert error(await stranger.post(f"/v1/models/{uuid.uuid4()}/{action}")) == wanted


@pytest.mark.parametrize("action", ["share", "unshare"])
async def test_with_a_key_of_no_project(operator: httpx.AsyncClient, action: str) -> None:
    assert error(await operator.post(f"/v1/models/{uuid.uuid4()}/{action}")) == (401, "Authentication required", None)


@pytest.mark.parametrize("action", ["share", "unshare"])
async def test_with_a_revoked_key(app: Application, owner: Tenant, action: str) -> None:
    model = await make_model(app, owner.project.id)
    created = (await owner.http.post("/v1/keys", json={"name": "short-lived"})).json()
    async with client_of(app, created["key"]) as http:
        assert (await http.get("/v1/models")).status_code == 200
        assert (await owner.http.delete(f"/v1/keys/{created['id']}")).status_code == 204
        assert error(await http.post(f"/v1/models/{model}/{action}")) == (401, "Authentication required", None)


@pytest.mark.parametrize("action", ["share", "unshare"])
@pytest.mark.parametrize(
    "target", ["not-a-uuid", "123", "018f0000-0000-7000-8000-00000000000g", "{" + str(uuid.UUID(int=7)) + "}"]
)
async def test_no_uuid(owner: Tenant, action: str, target: str) -> None:
    assert error(await owner.http.post(f"/v1/models/{target}/{action}")) == (400, "Invalid model ID", None)


async def test_share_of_nothing_and_of_anothers_model_are_worded_the_same(
    app: Application, owner: Tenant, deployer: Tenant
) -> None:
    model = await make_model(app, owner.project.id)
    foreign = error(await deployer.http.post(f"/v1/models/{model}/share"))
    absent = error(await deployer.http.post(f"/v1/models/{uuid.uuid4()}/share"))
    assert foreign == absent
    assert foreign[0] == 400
    assert foreign[2] is None
    assert "GET /v1/models" in foreign[1]


@pytest.mark.parametrize("status", ["uploading", "processing", "failed"])
async def test_share_of_what_is_not_ready(app: Application, owner: Tenant, status: str) -> None:
    model = await make_model(app, owner.project.id, status=status)
    code, message, slug = error(await owner.http.post(f"/v1/models/{model}/share"))
    assert (code, slug) == (400, None)
    assert status in message
    assert "once it is ready" in message or "push it again" in message, "the sentence says what to do"


async def test_unshare_of_nothing_of_anothers_and_of_the_unshared(
    app: Application, owner: Tenant, deployer: Tenant
) -> None:
    wanted = (404, "Model not found or not shared", None)
    model = await make_model(app, owner.project.id)
    assert error(await owner.http.post(f"/v1/models/{model}/unshare")) == wanted
    await owner.http.post(f"/v1/models/{model}/share")
    assert error(await deployer.http.post(f"/v1/models/{model}/unshare")) == wanted
    assert error(await owner.http.post(f"/v1/models/{uuid.uuid4()}/unshare")) == wanted
    assert error(await deployer.http.post(f"/v1/models/{model}/unshare?dry_run=true")) == wanted


async def test_share_shows_the_model_to_anybody_at_once(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    assert (await anonymous.get(f"/v1/catalog/models/{model}")).status_code == 404
    shared = (await owner.http.post(f"/v1/models/{model}/share")).json()
    assert shared["is_shared"] is True
    assert shared["catalog_role"] == "deployable"
    assert shared["shared_at"] == app.platform.now() or shared["shared_at"] == app.platform.now() - 1
    assert (shared["deployment_count"], shared["featured"]) == (0, False)
    page = (await anonymous.get(f"/v1/catalog/models/{model}")).json()
    assert page["allowed_tiers"] == ["self_hosted"]
    assert page["manifest_digest"].startswith("sha256:")
    assert [entry["id"] for entry in (await anonymous.get("/v1/catalog/models")).json()["data"]] == [str(model)]


async def test_the_catalog_tells_nothing_of_storage(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    for path in (f"/v1/catalog/models/{model}", "/v1/catalog/models?facets=true"):
        text = (await anonymous.get(path)).text
        assert owner.project.id not in text
        assert "blobs" not in text


async def test_share_is_idempotent(app: Application, owner: Tenant, operator: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id)
    first = (await owner.http.post(f"/v1/models/{model}/share")).json()
    assert (await operator.post(f"/v1/platform/catalog/{model}/feature", json={"featured": True})).status_code == 200
    body = {"slug": "one", "model": str(model), "tier": "free"}
    assert (await owner.http.post("/v1/endpoints", json=body)).status_code == 201
    again = (await owner.http.post(f"/v1/models/{model}/share")).json()
    assert again["shared_at"] == first["shared_at"]
    assert (again["catalog_role"], again["deployment_count"], again["featured"]) == ("shared", 1, True)
    assert again["status"] == ModelStatus.ACTIVE, "an active model can be shared too"
    audit = (await owner.http.get("/v1/audit")).json()["data"]
    assert [entry["action"] for entry in audit].count("model.share") == 1


async def test_unshare_removes_the_footprint_and_nothing_else(
    app: Application, owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient, operator: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    body = {"slug": "mine", "model": str(model), "tier": "self_hosted"}
    assert (await deployer.http.post("/v1/endpoints", json=body)).status_code == 201
    await operator.post(f"/v1/platform/catalog/{model}/feature", json={"featured": True})

    preview = (await owner.http.post(f"/v1/models/{model}/unshare?dry_run=true")).json()
    assert (preview["keeps_serving"], preview["keeps_serving_other_projects"]) == (1, 1)
    assert "follow `latest`" in preview["notes"][0]
    assert "featured flag" in preview["removed"]
    assert (await anonymous.get(f"/v1/catalog/models/{model}")).status_code == 200, "a preview changes nothing"

    gone = (await owner.http.post(f"/v1/models/{model}/unshare")).json()
    assert gone["is_shared"] is False
    assert (gone["catalog_role"], gone["shared_at"], gone["deployment_count"]) == (None, None, 0)
    assert gone["featured"] is False
    assert (await anonymous.get(f"/v1/catalog/models/{model}")).status_code == 404
    assert (await anonymous.get("/v1/catalog/models?facets=true")).json()["data"] == []

    kept = (await deployer.http.get("/v1/endpoints/mine")).json()
    assert kept["is_active"] is True
    for tier in ("self_hosted", "free"):
        body = {"slug": "new", "model": str(model), "tier": tier}
        refused = await deployer.http.post("/v1/endpoints", json=body)
        assert error(refused)[::2] == (404, "model_not_found")
    body = {"slug": "own", "model": str(model), "tier": "free"}
    assert (await owner.http.post("/v1/endpoints", json=body)).status_code == 201, "the owner still can"


async def test_a_refusal_is_in_the_audit_log(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id, status="failed")
    refused = await owner.http.post(f"/v1/models/{model}/share")
    entry = (await owner.http.get("/v1/audit")).json()["data"][0]
    assert (entry["action"], entry["outcome"], entry["target"]) == ("model.share", "refused", f"model:{model}")
    assert entry["reason"] == refused.json()["error"]["message"]
