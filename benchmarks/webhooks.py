"""From a committed change to a webhook's receiver, against posting to the same receiver directly.

    python benchmarks/webhooks.py [--events 2000] [--database-url postgresql://...]

The platform runs in this process on SQLite in a new folder, or on the (empty) database that is named; the receiver is a
process of its own. Directly means: eight at a time over connections of their own, as the platform sends.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from modelshare.server.accounts import service as accounts
from modelshare.server.app import Application
from modelshare.server.audit import service as audit
from modelshare.server.audit.webhooks.tables import WebhookRow
from modelshare.server.settings import Settings
from modelshare.wire.keys import ProjectCreate

AT_ONCE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--database-url")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        asyncio.run(_receive())
    else:
        asyncio.run(_measure(arguments.events, arguments.database_url))


async def _measure(count: int, database_url: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), database_url=database_url, webhooks_allow_private=True)
        app = Application(settings)
        async with _receiver() as url, app.running(), aiohttp.ClientSession() as http:
            project_id = await _project_with_webhook(app, f"{url}/hook")
            direct = await _post_directly(f"{url}/direct", count)
            began = time.time()
            await _emit(app, project_id, count)
            committed = time.time()
            arrived = await _arrivals(http, url, count)
            through = count / (max(arrived.values()) - committed)
            delays = [await _delay(app, http, url, project_id, count + number) for number in range(1, 101)]
            alone = [await _post_one(f"{url}/direct") for _ in range(100)]
    print(
        f"{'SQLite' if app.database.is_sqlite else 'PostgreSQL'}, {count} events committed in {committed - began:.2f} s"
    )
    print(f"direct                        {direct:6.0f} /s")
    print(f"through the outbox            {through:6.0f} /s   ratio {through / direct:.2f}")
    print(f"one, directly                 {1000 * statistics.median(alone):6.1f} ms median")
    p99 = statistics.quantiles(delays, n=100)[98]
    print(f"one, from commit to arrival   {1000 * statistics.median(delays):6.1f} ms median, {1000 * p99:.1f} ms p99")


async def _project_with_webhook(app: Application, url: str) -> str:
    now = app.platform.now()
    async with app.database.write() as session:
        request = ProjectCreate(name="Bench", slug=f"bench-{now}")
        project = await accounts.create_project(session, request, now=now, actor=audit.SYSTEM)
        session.add(WebhookRow(project_id=project.id, url=url, events=["model.ready"], created_at=now))
    return project.id


async def _emit(app: Application, project_id: str, count: int) -> None:
    async with app.database.write() as session:
        for number in range(count):
            data = {"model": "01a20f33-ce05-72c7-9ee6-48a7a3a248dd", "name": "tiny", "number": number}
            audit.emit(session, project_id=project_id, now=app.platform.now(), event="model.ready", data=data)


async def _delay(app: Application, http: aiohttp.ClientSession, url: str, project_id: str, total: int) -> float:
    """Seconds from one event's commit to its arrival."""
    await _emit(app, project_id, 1)
    committed = time.time()
    arrived = await _arrivals(http, url, total)
    return max(arrived.values()) - committed


async def _arrivals(http: aiohttp.ClientSession, url: str, count: int) -> dict[str, float]:
    """When each event arrived first, as soon as so many have."""
    while True:
        await asyncio.sleep(0.02)
        async with http.get(f"{url}/count") as answer:
            if int(await answer.text()) < count:
                continue
        async with http.get(f"{url}/arrivals") as answer:
            return dict(await answer.json())


async def _post_directly(url: str, count: int) -> float:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE, force_close=True)) as http:
        began = time.perf_counter()
        await asyncio.gather(*(_post(http, url) for _ in range(count)))
        return count / (time.perf_counter() - began)


async def _post_one(url: str) -> float:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        began = time.perf_counter()
        await _post(http, url)
        return time.perf_counter() - began


async def _post(http: aiohttp.ClientSession, url: str) -> None:
    async with http.post(url, data=b"x" * 250) as answer:
        answer.raise_for_status()


@asynccontextmanager
async def _receiver() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--receive", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


async def _receive() -> None:
    first: dict[str, float] = {}

    async def hook(request: web.Request) -> web.Response:
        await request.read()
        first.setdefault(request.headers.get("X-Modelshare-Event-Id", ""), time.time())
        return web.Response(status=204)

    async def direct(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=204)

    async def arrivals(_: web.Request) -> web.Response:
        return web.json_response(first)

    async def count(_: web.Request) -> web.Response:
        return web.Response(text=str(len(first)))

    app = web.Application()
    app.add_routes([web.post("/hook", hook), web.post("/direct", direct)])
    app.add_routes([web.get("/count", count), web.get("/arrivals", arrivals)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
