"""A row that nobody can work with, in one tenant's data: the others' work goes on."""

import pytest
from sqlalchemy import text, update

from conftest import Tenant
from factories import make_model
from hooks import emit, new_hook, outbox_is_empty
from link_agent import enroll, linked
from modelshare.server.app import Application
from modelshare.server.audit.webhooks.tables import WebhookRow
from modelshare.server.endpoints.tables import EndpointRow
from served import serving, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def test_events_that_cannot_be_moved_hold_up_no_others(app: Application, owner: Tenant, deployer: Tenant) -> None:
    await new_hook(owner, "https://hooks.invalid/", "model.*")
    good = await new_hook(deployer, "https://hooks.invalid/", "model.*")
    async with app.database.write() as session:
        damaged = update(WebhookRow).where(WebhookRow.project_id == owner.project.id)
        await session.execute(damaged.values(events=text("'5'")))
    for _ in range(2):
        await emit(app, owner, "lost")
        await emit(app, deployer, "kept")
    await wait_until(lambda: outbox_is_empty(app))
    assert len(await good.deliveries()) == 2


async def test_an_endpoint_whose_state_cannot_be_read_holds_up_no_other(app: Application, owner: Tenant) -> None:
    model_id = await make_model(app, owner.project.id)
    async with serving(app) as url:
        _, token = await enroll(owner.http)
        for slug in ("bad", "good"):
            spec = {"slug": slug, "model": str(model_id), "tier": "self_hosted"}
            assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201
        async with app.database.write() as session:
            damaged = update(EndpointRow).where(EndpointRow.slug == "bad")
            await session.execute(damaged.values(progress={"nonsense": True}))
        listed = (await owner.http.get("/v1/endpoints")).json()["data"]
        assert {endpoint["slug"]: endpoint["progress"] for endpoint in listed}["bad"] is None
        async with linked(url, token) as agent:
            await agent.make_ready()

            async def active() -> bool:
                found = (await owner.http.get("/v1/endpoints")).json()["data"]
                return [endpoint["status"] for endpoint in found] == ["active"] * 2

            await wait_until(active)
