"""Versions: list, promote, roll back."""

import uuid

import httpx
import pytest

from answers import message, problem
from conftest import Tenant
from factories import add_version, make_model
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio


async def latest(owner: Tenant, model: uuid.UUID) -> str:
    versions = (await owner.http.get(f"/v1/models/{model}/versions")).json()["data"]
    (one,) = [entry["version"] for entry in versions if entry["is_latest"]]
    return str(one)


async def test_the_list_is_newest_first(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    await add_version(app, model, "1.0.1")
    await add_version(app, model, "1.1.0", "processing")
    listed = (await owner.http.get(f"/v1/models/{model}/versions")).json()["data"]
    assert [(entry["version"], entry["status"], entry["is_latest"]) for entry in listed] == [
        ("1.1.0", "processing", False),
        ("1.0.1", "ready", False),
        ("1.0.0", "ready", True),
    ]


async def test_promote(app: Application, owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id)
    await add_version(app, model, "2.0.0")
    await owner.http.post(f"/v1/models/{model}/share")
    body = {"slug": "follows", "model": str(model), "tier": "self_hosted"}
    await owner.http.post("/v1/endpoints", json=body)
    await owner.http.post("/v1/endpoints", json={**body, "slug": "stays", "version": "1.0.0"})
    promoted = await owner.http.post(f"/v1/models/{model}/versions/2.0.0/promote")
    assert (promoted.status_code, promoted.json()["version"]) == (200, "2.0.0")
    assert await latest(owner, model) == "2.0.0"
    assert (await anonymous.get(f"/v1/catalog/models/{model}")).json()["version"] == "2.0.0"
    resolved = {e["slug"]: e["resolved_version"] for e in (await owner.http.get("/v1/endpoints")).json()["data"]}
    assert resolved == {"follows": "2.0.0", "stays": "1.0.0"}
    entry = (await owner.http.get("/v1/audit")).json()["data"][0]
    assert entry["action"] == "model.promote"
    assert entry["details"] == {"name": "tiny", "version": "2.0.0", "before": "1.0.0"}
    again = await owner.http.post(f"/v1/models/{model}/versions/2.0.0/promote")
    assert (again.status_code, await latest(owner, model)) == (200, "2.0.0")


@pytest.mark.parametrize("version", ["3.0.0", "2.0.0", "latest", "rubbish"])
async def test_only_a_ready_version_is_promoted(app: Application, owner: Tenant, version: str) -> None:
    model = await make_model(app, owner.project.id)
    await add_version(app, model, "2.0.0", "failed")
    answer = await owner.http.post(f"/v1/models/{model}/versions/{version}/promote")
    assert problem(answer) == (404, "not_found_error", None)
    assert "1.0.0" in message(answer), "it names those that are ready"
    assert await latest(owner, model) == "1.0.0"


async def test_roll_back_goes_back_to_the_version_that_is_named(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    await add_version(app, model, "1.0.1", "failed")
    await add_version(app, model, "1.1.0")
    await add_version(app, model, "2.0.0")
    await owner.http.post(f"/v1/models/{model}/versions/2.0.0/promote")
    back = await owner.http.post(f"/v1/models/{model}/versions/1.0.0/rollback")
    assert (back.status_code, back.json()["version"]) == (200, "1.0.0")
    entry = (await owner.http.get("/v1/audit")).json()["data"][0]
    assert (entry["action"], entry["details"]) == (
        "model.rollback",
        {"name": "tiny", "version": "1.0.0", "before": "2.0.0"},
    )
    twice = await owner.http.post(f"/v1/models/{model}/versions/1.0.0/rollback")
    assert problem(twice) == (409, "conflict_error", None)
    assert message(twice) == "1.0.0 is already the latest version. Choose the version to go back to: 1.1.0, 2.0.0."
    failed = await owner.http.post(f"/v1/models/{model}/versions/1.0.1/rollback")
    assert problem(failed) == (404, "not_found_error", None)
    assert "Ready: 1.0.0, 1.1.0, 2.0.0." in message(failed)
    assert await latest(owner, model) == "1.0.0"


async def test_with_one_version_there_is_nowhere_to_go_back_to(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    answer = await owner.http.post(f"/v1/models/{model}/versions/1.0.0/rollback")
    assert problem(answer) == (409, "conflict_error", None)
    assert "There is no other ready version" in message(answer)


async def test_where_none_is_the_latest_one_can_be_gone_back_to(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id, status="failed")
    await add_version(app, model, "1.1.0")
    answer = await owner.http.post(f"/v1/models/{model}/versions/1.1.0/rollback")
    assert (answer.status_code, answer.json()["version"]) == (200, "1.1.0")


@pytest.mark.parametrize("action", ["promote", "rollback"])
async def test_anothers_versions_look_absent(app: Application, owner: Tenant, deployer: Tenant, action: str) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    answer = await deployer.http.post(f"/v1/models/{model}/versions/1.0.0/{action}")
    assert problem(answer) == (404, "not_found_error", "model_not_found")
    listed = await deployer.http.get(f"/v1/models/{model}/versions")
    assert problem(listed) == (404, "not_found_error", "model_not_found")


async def test_the_size_of_the_version_that_is_wanted_decides(app: Application, owner: Tenant) -> None:
    """`free` takes 48 GB: a small latest version opens no way for a large old one."""
    model = await make_model(app, owner.project.id, size=60_000_000_000)
    await add_version(app, model, "1.1.0")
    await owner.http.post(f"/v1/models/{model}/versions/1.1.0/promote")
    body = {"slug": "small", "model": str(model), "tier": "free"}
    assert (await owner.http.post("/v1/endpoints", json=body)).status_code == 201
    large = await owner.http.post("/v1/endpoints", json={**body, "slug": "large", "version": "1.0.0"})
    assert problem(large) == (403, "permission_error", "tier_not_allowed")
    moved = await owner.http.patch("/v1/endpoints/small", json={"version": "1.0.0"})
    assert problem(moved) == (403, "permission_error", "tier_not_allowed")
    assert (await owner.http.patch("/v1/endpoints/small", json={"version": "1.1.0"})).status_code == 200
