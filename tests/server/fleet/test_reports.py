"""What agents report, while what they hold changes."""

import asyncio
import uuid

import pytest
from sqlalchemy import select, text

from conftest import Tenant
from factories import add_version, make_model
from link_agent import enroll, linked
from modelshare.server.app import Application
from modelshare.server.fleet import presence
from modelshare.server.fleet.tables import DeploymentRow
from modelshare.wire.agents import Phase
from modelshare.wire.link import Report
from served import wait_until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("lend", ["postgres"], indirect=True)
async def test_a_deployment_that_goes_keeps_no_other_report(app: Application, url: str, owner: Tenant) -> None:
    """On SQLite there is one writer, and nothing can go while reports are written."""
    model = await make_model(app, owner.project.id)
    await add_version(app, model, "1.1.0")
    agent_id, token = await enroll(owner.http)
    agent = uuid.UUID(agent_id)
    for version in ("1.0.0", "1.1.0"):
        wish = {"slug": f"v{version[2]}", "model": str(model), "tier": "self_hosted", "version": version}
        assert (await owner.http.post("/v1/endpoints", json=wish)).status_code == 201
    async with linked(url, token) as link:
        await link.wanted(2)
    async with app.database.read() as session:
        goes, stays = await session.scalars(select(DeploymentRow).order_by(DeploymentRow.id))
    reports = {
        (agent, str(goes.id)): Report(str(goes.id), Phase.LOADING, 0, 0),
        (agent, str(stays.id)): Report(str(stays.id), Phase.READY, 0, 0, routes=["completions"]),
    }

    async def write() -> None:
        async with app.database.write() as session:
            await presence.apply(session, reports)

    async def waits() -> bool:
        waiting = text(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database() AND query LIKE 'UPDATE deployments%'"
        )
        async with app.database.read() as session:
            return bool(await session.scalar(waiting))

    async with app.database.write() as session:
        await session.delete(await session.get_one(DeploymentRow, goes.id))
        await session.flush()
        writing = asyncio.ensure_future(write())
        await wait_until(waits)
    await writing
    async with app.database.read() as session:
        assert (await session.get_one(DeploymentRow, stays.id)).phase == Phase.READY
