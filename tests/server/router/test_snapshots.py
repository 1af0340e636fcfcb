"""What a process remembers of endpoints: never what is from before a change that it has heard of."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from clock import Clock
from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.db import Database, notify
from modelshare.server.endpoints import service as endpoints
from modelshare.server.endpoints.service import ENDPOINTS_TOPIC
from modelshare.server.registry.service import MODELS_TOPIC
from modelshare.server.router.snapshots import Snapshots
from modelshare.server.settings import Settings
from modelshare.wire.endpoints import EndpointPatch, EndpointStatus
from slow_database import SlowDatabase

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(app: Application, settings: Settings) -> AsyncIterator[SlowDatabase]:
    database = SlowDatabase(settings.database)
    yield database
    await database.close()


@pytest.fixture
def snapshots(database: SlowDatabase, app: Application) -> Snapshots:
    return Snapshots(database, app.platform.tiers, Clock())


@pytest.fixture
async def chat(app: Application, owner: Tenant) -> tuple[str, str]:
    """An endpoint's project and slug."""
    model_id = await make_model(app, owner.project.id)
    spec = {"slug": "chat", "model": str(model_id), "tier": "self_hosted"}
    assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201
    return owner.project.id, "chat"


async def deactivate(app: Application, database: Database, tenant: Tenant) -> None:
    caller = await app.platform.authenticate(tenant.project.api_key, "127.0.0.1")
    assert caller is not None
    async with database.write() as session:
        patch, terms = EndpointPatch(is_active=False), app.platform.endpoint_policy
        await endpoints.change(session, caller, "chat", patch, terms, now=app.platform.now())


async def test_a_look_that_began_before_a_change_is_not_believed_after_it(
    app: Application, owner: Tenant, database: SlowDatabase, snapshots: Snapshots, chat: tuple[str, str]
) -> None:
    with database.held() as held:
        asked = [asyncio.ensure_future(snapshots.get(*chat)) for _ in range(3)]
        await held.wait()  # the endpoint was read as it was
        await deactivate(app, database, owner)
    found = await asyncio.gather(*asked, snapshots.get(*chat))
    assert [each and each.status for each in found] == [EndpointStatus.INACTIVE] * 4


async def test_a_look_during_the_change_of_something_else_needs_no_second(
    database: SlowDatabase, snapshots: Snapshots, chat: tuple[str, str]
) -> None:
    with database.held() as held:
        asked = asyncio.ensure_future(snapshots.get(*chat))
        await held.wait()
        async with database.write() as session:
            notify(session, ENDPOINTS_TOPIC, f"{chat[0]}/other")
            notify(session, MODELS_TOPIC, "018f0000-0000-7000-8000-000000000000")
    assert await asked is not None
    assert await snapshots.get(*chat) is not None
    assert database.reads == 1


async def test_an_endpoint_that_never_stops_changing_is_answered_from_the_last_look_and_not_remembered(
    database: SlowDatabase, snapshots: Snapshots, chat: tuple[str, str]
) -> None:
    async def change() -> Any:
        async with database.write() as session:
            notify(session, ENDPOINTS_TOPIC, "/".join(chat))

    database.after_read = change
    assert await snapshots.get(*chat) is not None
    looks = database.reads
    assert await snapshots.get(*chat) is not None
    assert database.reads > looks
