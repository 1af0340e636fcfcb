"""Usage is counted once, whatever becomes of the connection while it is written, and little is lost with a process."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from itertools import accumulate, pairwise
from pathlib import Path

import aiohttp
import httpx
import pytest
from sqlalchemy import func, select

import programs
from conftest import ON_SQLITE, new_tenant
from cut_database import DatabaseProxy, proxy_to
from factories import make_model
from link_agent import LinkAgent, answer, enroll, linked
from modelshare.server.app import STOP_SECONDS, Application
from modelshare.server.background import Ending
from modelshare.server.db import Database
from modelshare.server.endpoints.tables import UsageRow
from modelshare.server.router.metering import Meter, MeteredUsage
from modelshare.server.settings import Settings
from modelshare.wire.link import Request
from served import wait_until
from server.router.test_metering import KEY, endpoint

pytestmark = pytest.mark.anyio
ON_POSTGRES = pytest.mark.parametrize("lend", ["postgres"], indirect=True)
_SUMS = select(func.sum(UsageRow.requests), func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens))


async def counted(database: Database) -> tuple[int, int]:
    """Requests and tokens."""
    async with database.read() as session:
        requests, tokens = (await session.execute(_SUMS)).one()
    return int(requests or 0), int(tokens or 0)


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[DatabaseProxy]:
    async with proxy_to(database_url) as proxy:
        yield proxy


@ON_POSTGRES
@pytest.mark.parametrize("is_answered", [True, False], ids=["committed", "not committed"])
async def test_a_commit_that_is_not_confirmed_counts_once(
    app: Application, settings: Settings, proxy: DatabaseProxy, is_answered: bool
) -> None:
    database = Database(settings.model_copy(update={"database_url": proxy.url}).database)
    meter = Meter(database, app.platform.clock)
    for number in range(1, 4):
        meter.add(endpoint(app, "a"), KEY, MeteredUsage(1, 1), failed=False)
        if number == 2:
            proxy.cut_at(b"COMMIT", is_answered=is_answered)
            with pytest.raises(Exception, match=r"connection|closed"):
                await meter.flush()
            assert (await counted(app.database))[0] == (2 if is_answered else 1)
            meter.add(endpoint(app, "a"), KEY, MeteredUsage(1, 1), failed=False)
        await meter.flush()
    assert await counted(app.database) == (4, 8)
    await database.close()


async def test_a_write_that_is_cancelled_anywhere_counts_once(app: Application) -> None:
    meter = Meter(app.database, app.platform.clock)
    for steps in range(0, 60, 2):
        meter.add(endpoint(app, "a"), KEY, MeteredUsage(1, 1), failed=False)
        writing = asyncio.ensure_future(meter.flush())
        for _ in range(steps):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    await meter.flush()
    assert await counted(app.database) == (30, 60)


async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
    with contextlib.suppress(aiohttp.ClientConnectionError):  # the process is killed in between
        await agent.send(answer(request, b"{}", tokens=(3, 8)))


@ON_SQLITE
async def test_a_killed_process_loses_only_what_ended_in_its_last_moments(
    settings: Settings, database_url: str, tmp_path: Path
) -> None:
    made = Application(settings.model_copy(update={"data_dir": tmp_path / "serve" / "data"}))
    async with made.answering(Ending(STOP_SECONDS)):
        tenant = await new_tenant(made, "acme")
        model_id = await make_model(made, tenant.project.id)
        await tenant.http.aclose()
    with programs.serving(tmp_path / "serve", database_url=database_url) as server:
        headers = {"Authorization": f"Bearer {tenant.project.api_key}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=20) as http:
            agent_id, token = await enroll(http)
            spec = {"slug": "chat", "model": str(model_id), "tier": "self_hosted"}
            assert (await http.post("/v1/endpoints", json=spec)).status_code == 201
            async with linked(server.url, token, agent_id=agent_id, handler=serve) as link:
                await link.make_ready()

                async def is_active() -> bool:
                    return bool((await http.get("/v1/endpoints/chat")).json()["status"] == "active")

                await wait_until(is_active)
                ended: list[float] = []
                asking = [asyncio.ensure_future(_ask(http, tenant.project.id, ended)) for _ in range(8)]
                await wait_until(lambda: _has_run(ended, seconds=2.5))
                server.process.kill()
                await asyncio.gather(*asking)
    database = Database(settings.database)
    requests, tokens = await counted(database)
    await database.close()
    assert tokens == 11 * requests
    at_work = _at_work(ended)
    assert sum(each < at_work[-1] - 2 for each in at_work) <= requests <= len(ended) + len(asking)


async def _ask(http: httpx.AsyncClient, project_id: str, ended: list[float]) -> None:
    """Asks until the process is gone; notes when answers were there."""
    while True:
        try:
            answered = await http.post(f"/{project_id}/chat/v1/chat/completions", json={})
        except httpx.TransportError:
            return
        assert answered.status_code == 200, answered.text
        ended.append(time.monotonic())


async def _has_run(ended: list[float], *, seconds: float) -> bool:
    return bool(ended) and _at_work(ended)[-1] > seconds


def _at_work(ended: list[float]) -> list[float]:
    """When answers were there, in seconds since the first, without the times in which the server stood still."""
    return list(accumulate((min(after - before, 0.1) for before, after in pairwise(ended)), initial=0.0))
