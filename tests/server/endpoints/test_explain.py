"""POST /v1/endpoints/explain: the same words as create's refusal, whatever the circumstances."""

import pytest

from answers import message
from conftest import Tenant
from factories import add_version, make_model
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio
SMALL, LARGE, HUGE = 1_000, 60_000_000_000, 600_000_000_000
"""Fits everywhere; not on `free`; not on `self_hosted` either."""


@pytest.mark.parametrize("breaks", ["visibility", "role", "size", "status", "tier", "version", "slug"])
async def test_over_the_wire(app: Application, owner: Tenant, deployer: Tenant, breaks: str) -> None:
    """Explain's first reason is what create says, to the letter."""
    status = "processing" if breaks == "status" else "ready"
    model = await make_model(app, owner.project.id, size=LARGE if breaks == "size" else SMALL, status=status)
    if breaks in {"role", "slug"}:
        await owner.http.post(f"/v1/models/{model}/share")
    spec = {"slug": "chat", "model": str(model), "tier": "self_hosted"}
    changed: dict[str, dict[str, str]] = {
        "role": {"tier": "free"},
        "size": {"tier": "free"},
        "tier": {"tier": "tpu"},
        "version": {"version": "2.0.0"},
    }
    spec |= changed.get(breaks, {})
    caller = deployer if breaks in {"visibility", "role", "slug"} else owner
    if breaks == "slug":
        assert (await caller.http.post("/v1/endpoints", json=spec)).status_code == 201
    explained = (await caller.http.post("/v1/endpoints/explain", json=spec)).json()
    assert (explained["object"], explained["possible"]) == ("endpoint.explanation", False)
    (reason,) = explained["reasons"]
    assert reason["rule"] == breaks
    refused = await caller.http.post("/v1/endpoints", json=spec)
    assert message(refused) == f"{reason['message']} {reason['fix']}"


async def test_without_a_latest_version_a_pinned_one_that_is_ready_is_possible(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id, status="failed")
    await add_version(app, model, "1.1.0")
    spec = {"slug": "chat", "model": str(model), "tier": "self_hosted", "version": "latest"}
    (reason,) = (await owner.http.post("/v1/endpoints/explain", json=spec)).json()["reasons"]
    assert (reason["rule"], reason["fix"]) == ("version", "Choose one of: 1.1.0.")
    await add_version(app, model, "2.0.0", "failed")
    (reason,) = (await owner.http.post("/v1/endpoints/explain", json=spec)).json()["reasons"]
    assert reason["message"] == "The model is not ready: its status is `failed`."
    spec["version"] = "1.1.0"
    assert (await owner.http.post("/v1/endpoints/explain", json=spec)).json()["possible"] is True
    assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201


async def test_explain_changes_nothing(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    spec = {"slug": "chat", "model": str(model), "tier": "free"}
    audit = (await owner.http.get("/v1/audit")).json()
    for _ in range(2):
        explained = (await owner.http.post("/v1/endpoints/explain", json=spec)).json()
        assert (explained["possible"], explained["reasons"]) == (True, [])
    assert "may evict" in explained["notes"][0]
    assert (await owner.http.get("/v1/endpoints")).json()["data"] == []
    assert (await owner.http.get("/v1/audit")).json() == audit


async def test_all_that_stands_in_the_way_is_named(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await make_model(app, owner.project.id, size=LARGE)
    await owner.http.post(f"/v1/models/{model}/share")
    body = {"slug": "chat", "model": str(model), "tier": "free"}
    explained = (await deployer.http.post("/v1/endpoints/explain", json=body)).json()
    assert [reason["rule"] for reason in explained["reasons"]] == ["role", "size"]
    assert all(reason["fix"] for reason in explained["reasons"])
