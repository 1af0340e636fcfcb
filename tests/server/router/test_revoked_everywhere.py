"""Three processes on one database: what one takes away, all of them refuse, and say when."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from conftest import Tenant, client_of, running
from factories import make_model
from link_agent import LinkAgent, enroll, linked
from modelshare.server.accounts import sessions
from modelshare.server.app import Application, create_app
from modelshare.server.cache import CACHE_SECONDS
from modelshare.server.db import Database
from modelshare.server.http import SESSION_COOKIE
from modelshare.server.router import in_flight
from modelshare.server.settings import Settings
from modelshare.wire.link import Chunk, Head, Request
from persons import join, new_person, sign_in
from postgres import run_sql
from served import free_port, serving, wait_until

# One process has a SQLite database to itself.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["postgres"], indirect=True)]
STREAMS = 50


@dataclass(frozen=True)
class Process:
    app: Application
    url: str


@pytest.fixture
async def processes(settings: Settings) -> AsyncIterator[list[Process]]:
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for _ in range(3):
            port = free_port()
            app = create_app(settings.model_copy(update={"advertise_url": f"http://127.0.0.1:{port}"}))
            await stack.enter_async_context(running(app))
            found.append(Process(app, await stack.enter_async_context(serving(app, port))))
        yield found


@pytest.fixture
def app(processes: list[Process]) -> Application:
    """The process that tenants' clients reach."""
    return processes[0].app


@pytest.fixture
async def key(deployer: Tenant) -> dict[str, str]:
    made = await deployer.http.post("/v1/keys", json={"name": "app"})
    return dict(made.json())


@pytest.fixture
async def agent(processes: list[Process], deployer: Tenant) -> AsyncIterator[LinkAgent]:
    """The deployer's machine, linked to the third process, its endpoint `chat` ready; it begins streams, no more."""

    async def begin(link: LinkAgent, request: Request, body: bytes) -> None:
        await link.send(Head(request.stream, 200, "text/event-stream"))
        await link.send(Chunk(request.stream, b"data: 1\n\n"))

    model_id = await make_model(processes[0].app, deployer.project.id)
    agent_id, token = await enroll(deployer.http)
    body = {"slug": "chat", "model": str(model_id), "tier": "self_hosted"}
    created = await deployer.http.post("/v1/endpoints", json=body)
    assert created.status_code == 201, created.text
    async with linked(processes[2].url, token, agent_id=agent_id, handler=begin) as link:
        await link.make_ready()

        async def active() -> bool:
            return bool((await deployer.http.get("/v1/endpoints/chat")).json()["status"] == "active")

        await wait_until(active)
        yield link


async def confirmed(tenant: Tenant, action: str) -> None:
    """Waits until all three processes have confirmed the newest entry of this action."""

    async def check() -> bool:
        entries = (await tenant.http.get("/v1/audit")).json()["data"]
        entry = next(entry for entry in entries if entry["action"] == action)
        return len(entry["confirmations"]) == 3 and not entry["pending"]

    await wait_until(check)


@contextlib.asynccontextmanager
async def streams(
    url: str, tenant: Tenant, key: str, count: int = 1
) -> AsyncIterator[tuple[httpx.AsyncClient, list[httpx.Response]]]:
    """A client of the endpoint on the process at `url`, and streams that have begun."""
    async with httpx.AsyncClient(
        base_url=f"{url}/{tenant.project.id}/chat/v1",
        headers={"Authorization": f"Bearer {key}"},
        limits=httpx.Limits(max_connections=count + 1),
    ) as http:
        requests = [http.build_request("POST", "/chat/completions", content=b"{}") for _ in range(count)]
        begun = await asyncio.gather(*(http.send(request, stream=True) for request in requests))
        assert {one.status_code for one in begun} == {200}
        yield http, begun
        await asyncio.gather(*(one.aclose() for one in begun))


def error_of(body: bytes) -> dict[str, Any]:
    return dict(json.loads(body.strip().rsplit(b"data: ", 1)[-1])["error"])


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut is cut by the notification, not by the look twice a second. Comes before the processes."""
    monkeypatch.setattr(in_flight, "CHECK_SECONDS", 60)


async def connect_all(database: Database) -> None:
    """Opens all connections that the pool keeps."""
    all_are_open = asyncio.Barrier(8)

    async def connect() -> None:
        async with database.read() as session:
            await session.connection()
            await all_are_open.wait()

    await asyncio.gather(*(connect() for _ in range(8)))


@pytest.mark.usefixtures("told")
async def test_all_streams_of_a_revoked_key_are_cut(
    processes: list[Process], agent: LinkAgent, deployer: Tenant, key: dict[str, str]
) -> None:
    async with streams(processes[1].url, deployer, key["key"], STREAMS) as (_, begun):
        assert (await deployer.http.delete(f"/v1/keys/{key['id']}")).status_code == 204
        bodies = await asyncio.gather(*(one.aread() for one in begun))
        assert {error_of(body)["type"] for body in bodies} == {"authentication_error"}

        async def all_cancelled() -> bool:
            return len(set(agent.cancelled)) == STREAMS

        await wait_until(all_cancelled)
    await confirmed(deployer, "key.revoke")


@pytest.mark.usefixtures("told", "agent")
async def test_a_person_who_is_signed_out_elsewhere_is_cut_off(processes: list[Process], deployer: Tenant) -> None:
    person = await new_person(processes[0].app, "ada")
    await join(processes[0].app, person, deployer.project.id)
    token = await sign_in(processes[0].app, person)
    headers = {"Cookie": f"{SESSION_COOKIE}={token}", "Sec-Fetch-Site": "same-origin"}
    async with httpx.AsyncClient(base_url=f"{processes[1].url}/{deployer.project.id}/chat/v1", headers=headers) as http:
        request = http.build_request("POST", "/chat/completions", content=b"{}")
        streamed = await http.send(request, stream=True)
        assert streamed.status_code == 200
        async with processes[0].app.database.write() as session:
            await sessions.close_session(session, token)
        assert error_of(await streamed.aread())["type"] == "authentication_error"
        assert (await http.get("/models")).status_code == 401


async def test_an_agent_that_is_suspended_elsewhere_breaks_its_streams(
    processes: list[Process], agent: LinkAgent, deployer: Tenant
) -> None:
    async with streams(processes[1].url, deployer, deployer.project.api_key) as (http, (streamed,)):
        patch = {"suspended": True}
        assert (await deployer.http.patch(f"/v1/agents/{agent.agent_id}", json=patch)).status_code == 200
        assert error_of(await streamed.aread())["type"] == "server_error"
        await confirmed(deployer, "agent.suspend")
        assert (await http.post("/chat/completions", content=b"{}")).status_code == 503


async def test_an_endpoint_that_is_deactivated_elsewhere_refuses(
    processes: list[Process], agent: LinkAgent, deployer: Tenant
) -> None:
    async with streams(processes[1].url, deployer, deployer.project.api_key) as (http, _):
        await deployer.http.patch("/v1/endpoints/chat", json={"is_active": False})
        await confirmed(deployer, "endpoint.change")
        refused = await http.post("/chat/completions", content=b"{}")
        assert refused.json()["error"]["code"] == "endpoint_inactive"


async def test_a_process_that_hears_nothing_refuses_within_a_second_and_confirms_later(
    processes: list[Process],
    deployer: Tenant,
    key: dict[str, str],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A slow machine is no outage of the database, in which keys stay valid for longer.
    monkeypatch.setattr(processes[1].app._router.keys._cache, "_grace", 0)
    server, _, name = database_url.rpartition("/")
    other = client_of(processes[1].app, key["key"])
    async with other:
        assert (await other.get("/v1/models")).status_code == 200
        allow = f"ALTER DATABASE {name} ALLOW_CONNECTIONS"
        for process in processes:
            await connect_all(process.app.database)
        listening = f"datname = '{name}' AND query LIKE 'LISTEN%'"
        run_sql(f"{server}/postgres", f"{allow} false")  # what is open stays, nobody can listen anew
        try:
            run_sql(f"{server}/postgres", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listening}")
            assert (await deployer.http.delete(f"/v1/keys/{key['id']}")).status_code == 204
            revoked = time.monotonic()
            passed = [revoked]

            async def refused() -> bool:
                began = time.monotonic()
                status = (await other.get("/v1/models")).status_code
                passed.extend([began] if status == 200 else [])
                return status == 401

            await wait_until(refused)
            assert passed[-1] - revoked < CACHE_SECONDS  # however busy the machine: when the last one began that passed
            pending = (await deployer.http.get("/v1/audit")).json()["data"][0]["pending"]
            assert processes[1].app._confirmer.name in pending
        finally:
            run_sql(f"{server}/postgres", f"{allow} true")
        await confirmed(deployer, "key.revoke")
