"""POST /v1/endpoints."""

import uuid
from typing import Any

import httpx
import pytest

from answers import ANONYMOUS, message, problem
from conftest import Tenant, client_of
from factories import make_model
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio


def spec(model: object, tier: str = "self_hosted", slug: str = "chat", **more: str) -> dict[str, str]:
    return {"slug": slug, "model": str(model), "tier": tier, **more}


async def test_a_new_endpoint(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    made = await owner.http.post("/v1/endpoints", json=spec(model))
    assert made.status_code == 201
    body = made.json()
    assert (body["slug"], body["model"], body["tier"]) == ("chat", str(model), "self_hosted")
    assert (body["model_name"], body["version"], body["resolved_version"]) == ("acme/tiny", "latest", "1.0.0")
    assert (body["status"], body["is_active"]) == ("provisioning", True)
    assert body["base_url"] == f"http://modelshare.test/{owner.project.id}/chat/v1"
    assert (await owner.http.get("/v1/endpoints/chat")).json()["id"] == body["id"]
    assert (await owner.http.get(f"/v1/models/{model}")).json()["status"] == "active"


async def test_a_fixed_version(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    made = (await owner.http.post("/v1/endpoints", json=spec(model, version="1.0.0"))).json()
    assert (made["version"], made["resolved_version"]) == ("1.0.0", "1.0.0")
    unknown = await owner.http.post("/v1/endpoints", json=spec(model, slug="two", version="9.9.9"))
    assert problem(unknown) == (400, "invalid_request_error", None)
    assert unknown.json()["error"]["param"] == "version"
    assert "`9.9.9`" in message(unknown)
    assert "1.0.0" in message(unknown), "it says which there are"


async def test_slugs(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    for slug in ("a", "0", "a-b", "a-0-b", "x" * 63):
        assert (await owner.http.post("/v1/endpoints", json=spec(model, slug=slug))).status_code == 201
    for slug in ("", "A", "-a", "a-", "a--b", "a_b", "a.b", "a b", "ä", "a\n", "x" * 64):
        answer = await owner.http.post("/v1/endpoints", json=spec(model, slug=slug))
        assert problem(answer) == (400, "invalid_request_error", None)
        assert answer.json()["error"]["param"] == "slug"
    taken = await owner.http.post("/v1/endpoints", json=spec(model, slug="a"))
    assert problem(taken) == (409, "conflict_error", "slug_taken")
    await owner.http.post(f"/v1/models/{model}/share")
    assert (await deployer.http.post("/v1/endpoints", json=spec(model, slug="a"))).status_code == 201


async def test_an_unknown_tier(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    answer = await owner.http.post("/v1/endpoints", json=spec(model, tier="tpu"))
    assert problem(answer) == (400, "invalid_request_error", None)
    assert answer.json()["error"]["param"] == "tier"
    for tier in ("tpu", "self_hosted", "gpu_nvidia_shared"):
        assert f"`{tier}`" in message(answer) or tier in message(answer)


async def test_too_large_for_the_tier(app: Application, owner: Tenant) -> None:
    """`free` takes 48 GB, `self_hosted` 512 GB."""
    model = await make_model(app, owner.project.id, size=48_000_000_001)
    answer = await owner.http.post("/v1/endpoints", json=spec(model, tier="free"))
    assert problem(answer) == (403, "permission_error", "tier_not_allowed")
    assert "48.0 GB" in message(answer)
    assert (await owner.http.post("/v1/endpoints", json=spec(model, tier="self_hosted"))).status_code == 201
    exact = await make_model(app, owner.project.id, name="exact", size=48_000_000_000)
    assert (await owner.http.post("/v1/endpoints", json=spec(exact, tier="free", slug="f"))).status_code == 201


@pytest.mark.parametrize("status", ["uploading", "processing", "failed"])
async def test_a_model_that_is_not_ready(app: Application, owner: Tenant, status: str) -> None:
    model = await make_model(app, owner.project.id, status=status)
    answer = await owner.http.post("/v1/endpoints", json=spec(model))
    assert problem(answer) == (409, "conflict_error", None)
    assert f"`{status}`" in message(answer)


async def test_a_deployable_model_on_a_shared_tier(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    answer = await deployer.http.post("/v1/endpoints", json=spec(model, tier="free"))
    assert problem(answer) == (403, "permission_error", "tier_not_allowed")
    assert "`self_hosted`" in message(answer), "it says what would be possible"
    entry = (await deployer.http.get("/v1/audit")).json()["data"][0]
    assert (entry["action"], entry["outcome"], entry["target"]) == ("endpoint.create", "refused", f"model:{model}")
    assert entry["reason"] == message(answer)


async def test_anothers_model_looks_absent(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    hidden = await deployer.http.post("/v1/endpoints", json=spec(model))
    assert problem(hidden) == (404, "not_found_error", "model_not_found")
    for target in (uuid.uuid4(), "no-uuid"):
        absent = await deployer.http.post("/v1/endpoints", json=spec(target))
        assert (problem(absent), message(absent)) == (problem(hidden), message(hidden))


async def test_bad_input(app: Application, owner: Tenant) -> None:
    sound = spec(await make_model(app, owner.project.id))
    cases: list[tuple[str, Any]] = [
        ("version", "newest"),
        ("version", "1.0"),
        ("version", "1.0.0\n"),
        ("model", 7),
        ("model", "x" * 101),
        ("tier", None),
        ("replicas", 2),
    ]
    for field, value in cases:
        answer = await owner.http.post("/v1/endpoints", json={**sound, field: value})
        assert problem(answer) == (400, "invalid_request_error", None)
        assert f"`{field}`" in message(answer)
    for field in ("slug", "model", "tier"):
        answer = await owner.http.post("/v1/endpoints", json={key: sound[key] for key in sound if key != field})
        assert answer.json()["error"]["param"] == field
    assert (await owner.http.get("/v1/endpoints")).json()["data"] == []


@pytest.mark.parametrize("path", ["/v1/endpoints", "/v1/endpoints/explain"])
async def test_without_a_key_or_scope(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient, operator: httpx.AsyncClient, path: str
) -> None:
    body = spec(await make_model(app, owner.project.id))
    assert problem(await anonymous.post(path, json=body)) == ANONYMOUS
    assert problem(await operator.post(path, json=body)) == ANONYMOUS
    lesser = (await owner.http.post("/v1/keys", json={"name": "m", "scopes": ["models", "inference"]})).json()
    async with client_of(app, lesser["key"]) as http:
        refused = await http.post(path, json=body)
        assert problem(refused) == (403, "permission_error", None)
        assert "`endpoints`" in message(refused)
