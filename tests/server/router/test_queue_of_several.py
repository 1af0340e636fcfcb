"""Requests that wait in one process for what another one frees."""

import asyncio
import math
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from link_agent import LinkAgent, answer
from modelshare.server.app import Application
from modelshare.server.db import Database
from modelshare.server.router.admission import Admission
from modelshare.server.router.ledger import Ledger
from served import wait_until
from server.router.conftest import Endpoint
from server.router.test_queue import ONE_AT_ONCE, waiting

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


@pytest.mark.parametrize("lend", ["postgres"], indirect=True)
@pytest.mark.parametrize("limits", [ONE_AT_ONCE], indirect=True)
async def test_a_slot_that_is_freed_in_another_process_wakes_the_queue_here(
    limits: object, app: Application, endpoint: Endpoint, ready: LinkAgent
) -> None:
    made = (await endpoint.tenant.http.get(f"/v1/endpoints/{endpoint.slug}")).json()
    tier = app.platform.tiers.get("self_hosted")
    assert tier is not None
    async with another_process(app) as admission:
        gate = admission.gate(uuid.UUID(made["id"]), tier)
        if not gate.enter():
            await gate.enter_later()
        asked = asyncio.ensure_future(endpoint.chat())
        await waiting(endpoint, 1)
        await app._router._sweeping.stop()  # which would find it as well, but later

        async def is_wanted_here() -> bool:
            return gate._slots.wanted_until > -math.inf

        await wait_until(is_wanted_here)
        gate.leave()
        request, _ = await ready.request()
        await ready.send(answer(request, b"{}"))
        assert float((await asked).headers["x-queue-seconds"]) > 0


@asynccontextmanager
async def another_process(app: Application) -> AsyncIterator[Admission]:
    """Which counts limits together with this one."""
    database = Database(app.settings.database)
    await database.start()
    admission = Admission(ledger=Ledger(database, app.platform.clock))
    await admission.start()
    try:
        yield admission
        await admission.stop()
    finally:
        await database.close()
