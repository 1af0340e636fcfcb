"""An endpoint's version changes while reconcilers are at work: what is recorded to answer is never removed under it."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from conftest import Tenant
from factories import add_version, make_model
from link_agent import enroll
from modelshare.server.app import Application
from modelshare.server.db import Database
from modelshare.server.fleet.jobs import Reconciler
from modelshare.server.fleet.tables import AgentRow, DeploymentRow
from modelshare.server.router.snapshots import load_snapshot
from modelshare.server.settings import Settings
from modelshare.wire.agents import AgentState, Phase
from slow_database import SlowDatabase

pytestmark = pytest.mark.anyio
OLD, NEW = "1.0.0", "1.1.0"


class Gated(Database):
    """Its transactions do all of their work, and are committed once the gate is open."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.waits, self.gate = asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        async with super().write() as session:
            yield session
            self.waits.set()
            await self.gate.wait()


@pytest.fixture
async def model(app: Application, owner: Tenant) -> uuid.UUID:
    """Of two versions. One endpoint follows the latest, the old one, and another stays at that; both are served."""
    made = await make_model(app, owner.project.id)
    await add_version(app, made, NEW)
    await enroll(owner.http)
    async with app.database.write() as session:
        values = {"state": AgentState.ACTIVE, "linked_to": "http://10.0.0.9:8000", "link_token": uuid.uuid4()}
        await session.execute(update(AgentRow).values(last_seen_at=app.platform.now(), **values))
    for slug, version in (("follows", "latest"), ("stays", OLD)):
        spec = {"slug": slug, "model": str(made), "tier": "self_hosted", "version": version}
        assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201
    await place(app)
    await reconciler(app).reconcile()
    return made


def reconciler(app: Application, database: Database | None = None) -> Reconciler:
    return Reconciler(database or app.database, app.platform.tiers, app.platform.clock)


async def place(app: Application) -> None:
    """What the endpoints want is placed, and its agent has it ready."""
    await reconciler(app).reconcile()
    async with app.database.write() as session:
        await session.execute(update(DeploymentRow).values(phase=Phase.READY, routes=["chat/completions"]))


async def change(owner: Tenant, model: uuid.UUID, version: str) -> None:
    action = "promote" if version == NEW else "rollback"
    assert (await owner.http.post(f"/v1/models/{model}/versions/{version}/{action}")).status_code == 200


async def is_answered(app: Application, owner: Tenant) -> bool:
    async with app.database.read() as session:
        snapshot = await load_snapshot(session, app.platform.tiers, owner.project.id, "follows")
    return snapshot is not None and bool(snapshot.targets)


async def test_a_rollback_between_the_plan_and_its_locks(
    app: Application, owner: Tenant, model: uuid.UUID, settings: Settings
) -> None:
    await change(owner, model, NEW)
    await place(app)
    await reconciler(app).reconcile()
    async with app.database.write() as session:  # so that there is something to change on the agent
        await session.execute(update(DeploymentRow).values(max_concurrent=99))
    slow = SlowDatabase(settings.database)

    async def roll_back() -> None:
        slow.after_read = None
        await change(owner, model, OLD)

    slow.after_read = roll_back
    await reconciler(app, slow).reconcile()
    await slow.close()
    await change(owner, model, NEW)
    assert await is_answered(app, owner)


@pytest.mark.parametrize("lend", ["postgres"], indirect=True)
async def test_a_rollback_while_another_process_records_what_answers(
    app: Application, owner: Tenant, model: uuid.UUID, settings: Settings
) -> None:
    """On SQLite there is one writer."""
    await change(owner, model, NEW)
    await place(app)
    gated = Gated(settings.database)
    recording = asyncio.create_task(reconciler(app, gated).reconcile())
    await gated.waits.wait()
    await change(owner, model, OLD)
    removing = asyncio.create_task(reconciler(app).reconcile())
    await asyncio.wait([removing], timeout=1)  # it would be over by then, if it did not wait for the other one
    gated.gate.set()
    await asyncio.gather(recording, removing)
    await gated.close()
    await change(owner, model, NEW)
    assert await is_answered(app, owner)
