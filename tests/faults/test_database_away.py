"""PostgreSQL is away for some seconds, cut off or mute: what is known goes on, the rest is told to try again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from agent.peer import Recorder
from clock import Clock
from conftest import Tenant, client_of, new_tenant
from cut_database import DatabaseProxy, proxy_to
from factories import make_model
from link_agent import LinkAgent, answer, enroll, linked
from modelshare.agent.link import Link
from modelshare.server import cache
from modelshare.server.app import Application
from modelshare.server.settings import Settings
from modelshare.wire.link import Chunk, End, Head, Request
from served import serving, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["postgres"], indirect=True)]
STREAM = b'{"stream": true}'


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[DatabaseProxy]:
    async with proxy_to(database_url) as proxy:
        yield proxy


@pytest.fixture
def settings(settings: Settings, proxy: DatabaseProxy) -> Settings:
    return settings.model_copy(update={"database_url": proxy.url, "database_grace_seconds": 30})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def app(settings: Settings, proxy: DatabaseProxy, clock: Clock) -> AsyncIterator[Application]:
    application = Application(settings, clock)
    async with application.running():
        yield application
        await proxy.open()


@dataclass
class Machine:
    """Answers chats at once, and streams as long as a test wants."""

    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, link: LinkAgent, request: Request, body: bytes) -> None:
        if body != STREAM:
            await link.send(answer(request, b"{}"))
            return
        await link.send(Head(request.stream, 200, "text/event-stream"))
        await link.send(Chunk(request.stream, b"data: 1\n\n"))
        await self.go_on.wait()
        await link.send(Chunk(request.stream, b"data: 2\n\n"))
        await link.send(End(request.stream, None, 3, 8))


@dataclass(frozen=True)
class Chats:
    http: httpx.AsyncClient
    url: str
    tenant: Tenant
    machine: Machine

    async def ask(self, key: str | None = None, body: bytes = b"{}") -> httpx.Response:
        headers = {"Authorization": f"Bearer {key or self.tenant.project.api_key}"}
        return await self.http.post(self.url, content=body, headers=headers)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[httpx.Response]:
        headers = {"Authorization": f"Bearer {self.tenant.project.api_key}"}
        async with self.http.stream("POST", self.url, content=STREAM, headers=headers) as response:
            yield response


@pytest.fixture
async def chats(app: Application) -> AsyncIterator[Chats]:
    tenant, machine = await new_tenant(app, "acme"), Machine()
    model_id = await make_model(app, tenant.project.id)
    async with serving(app) as url, tenant.http, httpx.AsyncClient() as http:
        agent_id, token = await enroll(tenant.http)
        spec = {"slug": "chat", "model": str(model_id), "tier": "self_hosted"}
        assert (await tenant.http.post("/v1/endpoints", json=spec)).status_code == 201
        async with linked(url, token, agent_id=agent_id, handler=machine.serve) as link:
            await link.make_ready()
            chats = Chats(http, f"{url}/{tenant.project.id}/chat/v1/chat/completions", tenant, machine)

            async def active() -> bool:
                return bool((await tenant.http.get("/v1/endpoints/chat")).json()["status"] == "active")

            await wait_until(active)
            yield chats


async def take_away(proxy: DatabaseProxy, how: str) -> None:
    if how == "cut":
        await proxy.cut()
    else:
        proxy.stall()


@pytest.mark.parametrize("how", ["cut", "stalled"])
async def test_inference_goes_on_by_what_is_known(
    chats: Chats, proxy: DatabaseProxy, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    assert (await chats.ask()).status_code == 200
    async with chats.stream() as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == "data: 1"
        await take_away(proxy, how)
        end = asyncio.get_running_loop().time() + 2
        statuses = []
        while asyncio.get_running_loop().time() < end:
            statuses.append((await chats.ask()).status_code)
            await asyncio.sleep(0.05)
        assert set(statuses) == {200}
        monkeypatch.setattr(cache, "_PATIENCE_SECONDS", 5.0)
        unknown = await chats.ask("ms_acme_" + "x" * 43)
        assert unknown.status_code == 503
        assert int(unknown.headers["retry-after"]) >= 1
        assert unknown.json()["error"]["type"] == "server_error"
        chats.machine.go_on.set()
        assert [line async for line in lines if line] == ["data: 2"]
    await proxy.open()

    async def counted() -> bool:
        answered = await chats.tenant.http.get("/v1/usage")
        rows = answered.json()["data"] if answered.status_code == 200 else []
        return bool(sum(row["requests"] for row in rows) >= len(statuses) + 1)

    await wait_until(counted, 60)
    assert (await chats.ask("ms_acme_" + "x" * 43)).status_code == 401


async def test_a_key_revoked_just_before_stays_refused(app: Application, chats: Chats, proxy: DatabaseProxy) -> None:
    made = (await chats.tenant.http.post("/v1/keys", json={"name": "app"})).json()
    assert (await chats.ask(made["key"])).status_code == 200
    assert (await chats.ask()).status_code == 200
    async with client_of(app, chats.tenant.project.api_key) as other:
        assert (await other.delete(f"/v1/keys/{made['id']}")).status_code in {200, 204}
    await proxy.cut()
    assert (await chats.ask(made["key"])).status_code == 503
    assert (await chats.ask()).status_code == 200
    await proxy.open()

    async def refused() -> bool:
        return (await chats.ask(made["key"])).status_code == 401

    await wait_until(refused, 60)


async def test_an_agent_that_wants_a_link_meanwhile_waits_for_the_database(
    app: Application, owner: Tenant, proxy: DatabaseProxy, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    async with serving(app) as url:
        _, token = await enroll(owner.http)
        await proxy.cut()
        linking = asyncio.create_task(Link(url, token, recorder, retry_first=0.01).run())

        async def told_twice() -> bool:
            return caplog.text.count("HTTP 503") > 1

        await wait_until(told_twice)
        await proxy.open()

        async def is_back() -> bool:
            return bool(recorder.received)

        await wait_until(is_back)
        linking.cancel()
        await asyncio.wait([linking])
    assert recorder.asked == 0, "nobody said that it has no right to a link"


async def test_not_for_longer_than_the_setting_says(chats: Chats, proxy: DatabaseProxy, clock: Clock) -> None:
    assert (await chats.ask()).status_code == 200
    await proxy.cut()
    clock.now += 28
    assert (await chats.ask()).status_code == 200
    clock.now += 4
    assert (await chats.ask()).status_code == 503
    await proxy.open()

    async def back() -> bool:
        return (await chats.ask()).status_code == 200

    await wait_until(back, 60)
