"""What agents report, while what they hold changes."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import delete, select, text

from conftest import Tenant
from factories import make_model
from link_agent import enroll, linked
from modelshare.server.app import Application
from modelshare.server.db import Database
from modelshare.server.fleet import presence
from modelshare.server.fleet.reports import Reports
from modelshare.server.fleet.tables import DeploymentRow, WeightDeletionRow
from modelshare.server.fleet.weight_deletions import service as weight_deletions
from modelshare.server.registry.tables import ModelRow
from modelshare.wire.agents import Phase
from modelshare.wire.link import CloseCode, Released, Report
from transactions import as_another_request

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


@pytest.mark.parametrize("lend", ["postgres"], indirect=True)
async def test_a_deployment_that_goes_with_its_model_keeps_no_other_report(
    app: Application, url: str, owner: Tenant
) -> None:
    """On SQLite there is one writer, and nothing can go while reports are written."""
    going, staying = [await make_model(app, owner.project.id, name=name) for name in ("going", "staying")]
    agent_id, token = await enroll(owner.http)
    agent = uuid.UUID(agent_id)
    for slug, model in (("going", going), ("staying", staying)):
        spec = {"slug": slug, "model": str(model), "tier": "self_hosted"}
        assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201
    async with linked(url, token) as link:
        held = {wanted.served_name: wanted.deployment_id for wanted in await link.wanted(2)}
    goes, stays = held["acme/going"], held["acme/staying"]
    reports = {
        (agent, goes): Report(goes, Phase.LOADING, 0, 0),
        (agent, stays): Report(stays, Phase.READY, 0, 0, routes=["completions"]),
    }

    async def report() -> None:
        async with app.database.write() as session:
            await presence.apply(session, reports)

    async with app.database.write() as deleting:
        await deleting.execute(delete(ModelRow).where(ModelRow.id == going))
        await as_another_request(report())  # while that is not committed, and without waiting for it
    async with app.database.read() as session:
        phases = {str(row.id): row.phase for row in await session.scalars(select(DeploymentRow))}
    assert phases == {stays: Phase.READY}


@pytest.mark.parametrize("lend", ["postgres"], indirect=True)
async def test_what_one_agent_says_keeps_no_other_from_being_heard(app: Application, url: str, owner: Tenant) -> None:
    """SQLite takes any number of ids."""
    model = await make_model(app, owner.project.id)
    spec = {"slug": "e", "model": str(model), "tier": "self_hosted"}
    assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201
    agent_id, token = await enroll(owner.http)
    async with linked(url, token) as link:
        (held,) = await link.wanted()
    agent, released = uuid.UUID(agent_id), uuid.UUID(held.deployment_id)
    assert (await owner.http.patch(f"/v1/agents/{agent_id}", json={"suspended": True})).status_code == 200
    nonsense = {(agent, uuid.uuid4()) for _ in range(40_000)}
    async with app.database.write() as session:
        await weight_deletions.confirm(session, {*nonsense, (agent, released)}, now=1)
    async with app.database.read() as session:
        assert [row.confirmed_at for row in await session.scalars(select(WeightDeletionRow))] == [1]


async def deployment(app: Application, tenant: Tenant, url: str, *names: str) -> tuple[uuid.UUID, list[str]]:
    """The tenant's agent, which is no longer linked, and the ids of what it was to hold."""
    for name in names:
        model = await make_model(app, tenant.project.id, name=name)
        spec = {"slug": name, "model": str(model), "tier": "self_hosted"}
        assert (await tenant.http.post("/v1/endpoints", json=spec)).status_code == 201
    agent_id, token = await enroll(tenant.http)
    async with linked(url, token) as link:
        held = {wanted.served_name: wanted.deployment_id for wanted in await link.wanted(len(names))}
    return uuid.UUID(agent_id), [held[f"{tenant.project.slug}/{name}"] for name in names]


async def phases(app: Application) -> dict[str, str]:
    async with app.database.read() as session:
        return {str(row.id): row.phase for row in await session.scalars(select(DeploymentRow))}


async def test_a_report_of_another_agent_displaces_none(
    app: Application, url: str, owner: Tenant, deployer: Tenant
) -> None:
    agent, (held,) = await deployment(app, owner, url, "one")
    other, _ = await enroll(deployer.http)
    for first, second in ((agent, uuid.UUID(other)), (uuid.UUID(other), agent)):
        ready, failed = Report(held, Phase.READY, 0, 0), Report(held, Phase.FAILED, 0, 0, "Not mine.")
        said = {(one, held): ready if one == agent else failed for one in (first, second)}
        async with app.database.write() as session:
            await presence.apply(session, said)
        assert await phases(app) == {held: Phase.READY}


async def test_what_an_agent_says_of_what_is_not_its_own_is_not_kept(
    app: Application, url: str, owner: Tenant, deployer: Tenant
) -> None:
    _, (held,) = await deployment(app, owner, url, "one")
    _, token = await enroll(deployer.http)
    async with linked(url, token) as stranger:
        await stranger.wanted(0)
        for number in range(500):
            await stranger.report(held if number % 2 else str(uuid.uuid4()), Phase.READY)
            await stranger.send(Released(str(uuid.uuid4())))
        await stranger.report("nonsense", Phase.READY)
        await stranger.socket.send_bytes(b"")  # no frame: the link ends once all the others are read
        assert (await stranger.end())[0] == CloseCode.PROTOCOL
    assert (app.links._reports._reports, app.links._reports._released) == ({}, {})
    assert await phases(app) == {held: Phase.WAITING}


@asynccontextmanager
async def refusing(app: Application, deployment_id: str) -> AsyncIterator[None]:
    """Within the block the database takes nothing on this deployment."""
    async with app.database.write() as session:
        if app.database.is_sqlite:
            name = uuid.UUID(deployment_id).hex
            check = f"BEFORE UPDATE ON deployments WHEN NEW.id = '{name}' BEGIN SELECT RAISE(ABORT, 'never'); END"
            await session.execute(text(f"CREATE TRIGGER never {check}"))
        else:
            check = f"CHECK (id <> '{deployment_id}' OR phase = 'waiting')"
            await session.execute(text(f"ALTER TABLE deployments ADD CONSTRAINT never {check}"))
    yield
    async with app.database.write() as session:  # PostgreSQL's is lent to other tests
        end = "DROP TRIGGER never" if app.database.is_sqlite else "ALTER TABLE deployments DROP CONSTRAINT never"
        await session.execute(text(end))


async def test_what_can_never_be_written_is_dropped_and_named_and_the_rest_is_written(
    app: Application, url: str, owner: Tenant, capsys: pytest.CaptureFixture[str]
) -> None:
    agent, (bad, good) = await deployment(app, owner, url, "bad", "good")
    reports = Reports(app.database, app.platform.clock)
    for held in (bad, good):
        reports.report(agent, Report(held, Phase.READY, 0, 0))
    async with refusing(app, bad):
        await reports.flush()
    assert await phases(app) == {bad: Phase.WAITING, good: Phase.READY}
    assert reports._reports == {}
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "dropped" in line]
    assert bad in line


async def test_what_cannot_be_written_now_is_written_later_and_the_newest_counts(
    app: Application, url: str, owner: Tenant
) -> None:
    agent, (held,) = await deployment(app, owner, url, "one")
    away = Database("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    reports = Reports(away, app.platform.clock)
    reports.report(agent, Report(held, Phase.PULLING, 1, 2))
    reports.released(agent, held)
    await reports.flush()
    reports.report(agent, Report(held, Phase.READY, 2, 2))
    assert len(reports._reports) == len(reports._released) == 1
    reports._database = app.database
    await reports.flush()
    assert await phases(app) == {held: Phase.READY}
    assert (reports._reports, reports._released) == ({}, {})
    await away.close()


async def test_links_end_in_time_while_the_database_takes_nothing(app: Application, url: str, owner: Tenant) -> None:
    _, token = await enroll(owner.http)
    async with linked(url, token) as link:
        await link.wanted(0)
        async with app.database.engine.connect() as other:  # on SQLite the one writer, from here on
            if not app.database.is_sqlite:
                await other.execute(text("LOCK TABLE agents, deployments"))
            app.links._reports.released(uuid.uuid4(), str(uuid.uuid4()))
            await asyncio.wait_for(app.links.stop(), 15)
        assert (await link.end())[0] == CloseCode.GOING_AWAY
