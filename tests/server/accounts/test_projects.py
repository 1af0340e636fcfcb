"""GET, POST and PATCH /v1/platform/projects, and `/{project_id}/v1/...`."""

from typing import Any

import httpx
import pytest

from answers import ANONYMOUS, message, problem
from conftest import Tenant, client_of
from factories import make_model
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio
NOT_FOUND = (404, "not_found_error", "project_not_found")


async def test_a_new_project_and_its_first_key(app: Application, operator: httpx.AsyncClient) -> None:
    answer = await operator.post("/v1/platform/projects", json={"name": "Acme Labs", "slug": "acme-labs"})
    assert answer.status_code == 201
    project = answer.json()
    assert project["id"].startswith("proj_")
    assert len(project["id"]) == len("proj_") + 12
    assert project["api_key"].startswith("ms_acme-labs_")
    async with client_of(app, project["api_key"]) as http:
        assert (await http.get(f"/{project['id']}/v1/models")).json()["data"] == []
    listed = (await operator.get("/v1/platform/projects")).json()["data"]
    assert [(entry["id"], entry["slug"]) for entry in listed] == [(project["id"], "acme-labs")]
    assert "api_key" not in listed[0]


async def test_a_taken_slug(operator: httpx.AsyncClient, owner: Tenant) -> None:
    answer = await operator.post("/v1/platform/projects", json={"name": "Again", "slug": "acme"})
    assert problem(answer) == (409, "conflict_error", "slug_taken")


async def test_bad_input(operator: httpx.AsyncClient) -> None:
    sound = {"name": "x", "slug": "x"}
    for field, value in (
        ("name", ""),
        ("slug", "No"),
        ("slug", "a--b"),
        ("slug", "-a"),
        ("slug", "a\n"),
        ("slug", "a" * 41),
        ("quota_bytes", -1),
        ("quota_bytes", 2**70),
        ("owner", "me"),
    ):
        answer = await operator.post("/v1/platform/projects", json={**sound, field: value})
        assert problem(answer) == (400, "invalid_request_error", None)
        assert f"`{field}`" in message(answer)
    assert (await operator.get("/v1/platform/projects")).json()["data"] == []


async def test_a_quota_holds_from_the_next_push_on(operator: httpx.AsyncClient, owner: Tenant) -> None:
    path = f"/v1/platform/projects/{owner.project.id}"
    push = {"name": "big", "files": [{"path": "model.gguf", "size": 2000}]}
    changed = await operator.patch(path, json={"quota_bytes": 1000})
    assert (changed.status_code, changed.json()["quota_bytes"]) == (200, 1000)
    assert (await operator.get("/v1/platform/projects")).json()["data"] == [changed.json()]
    refused = await owner.http.post("/v1/uploads", json=push)
    assert problem(refused) == (403, "permission_error", "quota_exceeded")
    assert (await operator.patch(path, json={})).json()["quota_bytes"] == 1000, "what is not sent stays"
    assert (await operator.patch(path, json={"quota_bytes": None})).json()["quota_bytes"] is None
    assert (await owner.http.post("/v1/uploads", json=push)).status_code == 201


async def test_a_changed_quota_is_in_the_projects_log(operator: httpx.AsyncClient, owner: Tenant) -> None:
    path = f"/v1/platform/projects/{owner.project.id}"
    for quota in (5, 5, None):
        await operator.patch(path, json={"quota_bytes": quota})
    log = (await owner.http.get("/v1/audit?action=project.change_quota")).json()["data"]
    assert [(each["details"]["quota_before"], each["details"]["quota"]) for each in log] == [(5, None), (None, 5)]
    assert {each["target"] for each in log} == {f"project:{owner.project.id}"}


@pytest.mark.parametrize("body", [{"quota_bytes": -1}, {"quota_bytes": 2**70}, {"quota_bytes": "x"}, {"slug": "new"}])
async def test_a_quota_that_is_none(operator: httpx.AsyncClient, owner: Tenant, body: dict[str, Any]) -> None:
    answer = await operator.patch(f"/v1/platform/projects/{owner.project.id}", json=body)
    assert problem(answer) == (400, "invalid_request_error", None)
    assert f"`{next(iter(body))}`" in message(answer)


async def test_a_project_that_is_none_has_no_quota(operator: httpx.AsyncClient) -> None:
    for project in ("proj_000000000000", "acme"):
        answer = await operator.patch(f"/v1/platform/projects/{project}", json={"quota_bytes": 1})
        assert problem(answer) == NOT_FOUND


async def test_pages(operator: httpx.AsyncClient, owner: Tenant, deployer: Tenant) -> None:
    first = (await operator.get("/v1/platform/projects?limit=1")).json()
    second = (await operator.get(f"/v1/platform/projects?limit=1&after={first['next_cursor']}")).json()
    found = {entry["slug"] for page in (first, second) for entry in page["data"]}
    assert (found, first["has_more"], second["has_more"]) == ({"acme", "borg"}, True, False)
    assert problem(await operator.get("/v1/platform/projects?after=WyJ4IiwgMV0")) == (
        400,
        "invalid_request_error",
        None,
    )


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/platform/projects", None),
        ("POST", "/v1/platform/projects", {"name": "x", "slug": "x"}),
        ("PATCH", "/v1/platform/projects/proj_000000000000", {"quota_bytes": 1}),
        ("GET", "/v1/platform/agents", None),
        ("GET", "/v1/platform/join-keys", None),
        ("POST", "/v1/platform/catalog/018f0000-0000-7000-8000-000000000000/feature", {"featured": True}),
    ],
)
async def test_platform_routes_need_a_platform_key(
    owner: Tenant, anonymous: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None
) -> None:
    refused = await owner.http.request(method, path, json=body)
    assert problem(refused) == (403, "permission_error", None)
    assert "`platform`" in message(refused)
    assert problem(await anonymous.request(method, path, json=body)) == ANONYMOUS


async def test_the_path_may_name_the_keys_own_project(owner: Tenant, deployer: Tenant) -> None:
    assert (await owner.http.get(f"/{owner.project.id}/v1/models")).status_code == 200
    foreign = await owner.http.get(f"/{deployer.project.id}/v1/models")
    for project in ("proj_000000000000", "proj_ACME", "proj_nothing"):
        absent = await owner.http.get(f"/{project}/v1/models")
        assert problem(absent) == problem(foreign) == NOT_FOUND
        assert message(absent) == message(foreign)


async def test_a_platform_key_acts_in_the_project_that_the_path_names(
    app: Application, operator: httpx.AsyncClient, owner: Tenant
) -> None:
    model = await make_model(app, owner.project.id)
    listed = (await operator.get(f"/{owner.project.id}/v1/models")).json()["data"]
    assert [entry["id"] for entry in listed] == [str(model)]
    body = {"slug": "made-by-us", "model": str(model), "tier": "free"}
    assert (await operator.post(f"/{owner.project.id}/v1/endpoints", json=body)).status_code == 201
    assert (await owner.http.get("/v1/endpoints/made-by-us")).status_code == 200
    assert problem(await operator.get("/proj_000000000000/v1/models")) == NOT_FOUND


async def test_without_a_key_the_projects_existence_is_not_told(anonymous: httpx.AsyncClient, owner: Tenant) -> None:
    for project in (owner.project.id, "proj_000000000000"):
        assert problem(await anonymous.get(f"/{project}/v1/models")) == ANONYMOUS
