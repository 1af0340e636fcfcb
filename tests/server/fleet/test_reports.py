"""What agents report, while what they hold changes."""

import uuid

import pytest
from sqlalchemy import delete, select

from conftest import Tenant
from factories import make_model
from link_agent import enroll, linked
from modelshare.server.app import Application
from modelshare.server.fleet import presence, releases
from modelshare.server.fleet.tables import DeploymentRow, ReleaseRow
from modelshare.server.registry.tables import ModelRow
from modelshare.wire.agents import Phase
from modelshare.wire.link import Report

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("lend", ["postgres"], indirect=True)
async def test_a_deployment_that_goes_with_its_model_keeps_no_other_report(
    app: Application, url: str, owner: Tenant
) -> None:
    """On SQLite there is one writer, and nothing can go while reports are written."""
    going, staying = [await make_model(app, owner.project.id, name=name) for name in ("going", "staying")]
    agent_id, token = await enroll(owner.http)
    agent = uuid.UUID(agent_id)
    for slug, model in (("going", going), ("staying", staying)):
        wish = {"slug": slug, "model": str(model), "tier": "self_hosted"}
        assert (await owner.http.post("/v1/endpoints", json=wish)).status_code == 201
    async with linked(url, token) as link:
        held = {wanted.served_name: wanted.deployment_id for wanted in await link.wanted(2)}
    goes, stays = held["acme/going"], held["acme/staying"]
    reports = {
        (agent, goes): Report(goes, Phase.LOADING, 0, 0),
        (agent, stays): Report(stays, Phase.READY, 0, 0, routes=["completions"]),
    }
    async with app.database.write() as deleting:
        await deleting.execute(delete(ModelRow).where(ModelRow.id == going))
        async with app.database.write() as session:  # while that is not committed, and without waiting for it
            await presence.apply(session, reports)
    async with app.database.read() as session:
        phases = {str(row.id): row.phase for row in await session.scalars(select(DeploymentRow))}
    assert phases == {stays: Phase.READY}


@pytest.mark.parametrize("lend", ["postgres"], indirect=True)
async def test_what_one_agent_says_keeps_no_other_from_being_heard(app: Application, url: str, owner: Tenant) -> None:
    """SQLite takes any text and any number of ids."""
    model = await make_model(app, owner.project.id)
    wish = {"slug": "e", "model": str(model), "tier": "self_hosted"}
    assert (await owner.http.post("/v1/endpoints", json=wish)).status_code == 201
    agent_id, token = await enroll(owner.http)
    async with linked(url, token) as link:
        (held,) = await link.wanted()
    agent, released = uuid.UUID(agent_id), uuid.UUID(held.deployment_id)
    report = Report(held.deployment_id, Phase.FAILED, 0, 0, reason="no \0 room")
    async with app.database.write() as session:
        await presence.apply(session, {(agent, held.deployment_id): report})
    assert (await owner.http.get(f"/v1/agents/{agent_id}")).json()["deployments"][0]["reason"] == "no  room"
    assert (await owner.http.patch(f"/v1/agents/{agent_id}", json={"suspended": True})).status_code == 200
    nonsense = {(agent, uuid.uuid4()) for _ in range(40_000)}
    async with app.database.write() as session:
        await releases.confirm(session, {*nonsense, (agent, released)}, now=1)
    async with app.database.read() as session:
        assert [row.confirmed_at for row in await session.scalars(select(ReleaseRow))] == [1]
