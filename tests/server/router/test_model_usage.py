"""`GET /v1/models/{id}/usage`: an owner sees how much a model is used, and nothing of the requests."""

import uuid

import httpx
import pytest

from answers import ANONYMOUS, problem
from conftest import Tenant, client_of
from factories import make_model
from modelshare.server.app import Application
from server.router.test_export import use

pytestmark = pytest.mark.anyio


async def test_days_projects_tiers_and_versions(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    secret = {"endpoint_slug": "secret-slug", "model_id": model, "tier": "free"}
    await use(app, deployer.project.id, day="2026-01-02", **secret, version="1.0.0", cost_micros=7)
    await use(app, deployer.project.id, day="2026-01-02", **secret, version="1.0.0", estimated=1)
    await use(app, deployer.project.id, day="2026-01-03", **secret)
    await use(app, owner.project.id, day="2026-01-03", model_id=model, tier="self_hosted", version="1.1.0")
    await use(app, deployer.project.id, day="2026-01-03", model_id=uuid.uuid4())
    days = {"from": "2026-01-01", "to": "2026-01-31"}
    path = f"/v1/models/{model}/usage"
    answered = await owner.http.get(path, params=days)
    rows = answered.json()["data"]
    assert [(row["day"], row["project"], row["tier"], row["version"], row["requests"]) for row in rows] == [
        ("2026-01-03", "Acme", "self_hosted", "1.1.0", 3),
        ("2026-01-03", "Borg", "free", None, 3),
        ("2026-01-02", "Borg", "free", "1.0.0", 6),
    ]
    assert rows[2] == {
        "object": "model.usage",
        "day": "2026-01-02",
        "project": "Borg",
        "tier": "free",
        "version": "1.0.0",
        "requests": 6,
        "errors": 2,
        "prompt_tokens": 20,
        "completion_tokens": 40,
        "estimated": True,
        "estimated_requests": 1,
    }
    assert "secret-slug" not in answered.text
    (row,) = (await owner.http.get(path, params={**days, "group_by": "tier", "to": "2026-01-02"})).json()["data"]
    assert (row["tier"], row["project"], row["completion_tokens"]) == ("free", None, 40)
    first = (await owner.http.get(path, params={**days, "limit": 2})).json()
    rest = (await owner.http.get(path, params={**days, "after": first["next_cursor"]})).json()
    assert [*first["data"], *rest["data"]] == rows
    named = await owner.http.get("/v1/models/acme/tiny/usage", params=days)
    assert named.json()["data"] == rows


async def test_projects_of_the_same_name_are_not_added_up(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    for project in (deployer.project.id, "proj_gone"):
        await use(app, project, model_id=model)
    await use(app, "proj_gone_too", model_id=model)
    rows = (await owner.http.get(f"/v1/models/{model}/usage", params={"group_by": "project"})).json()["data"]
    assert sorted(str(row["project"]) for row in rows) == ["Borg", "None", "None"]


async def test_only_the_owner_sees_it(
    app: Application, owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200
    path = f"/v1/models/{model}/usage"
    assert (await owner.http.get(path)).json()["data"] == []
    assert (await deployer.http.get(path)).status_code == 404
    assert problem(await anonymous.get(path)) == ANONYMOUS
    lesser = (await owner.http.post("/v1/keys", json={"name": "e", "scopes": ["endpoints"]})).json()
    async with client_of(app, lesser["key"]) as http:
        assert (await http.get(path)).status_code == 403
    for params in ({"group_by": "endpoint"}, {"group_by": "key"}, {"from": "x"}, {"after": "x"}):
        assert (await owner.http.get(path, params=params)).status_code == 400
