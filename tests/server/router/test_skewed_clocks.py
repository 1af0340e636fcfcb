"""Three processes on one database, on machines whose clocks are minutes apart: nobody notices."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import httpx
import pytest
from structlog.testing import capture_logs

from conftest import Tenant, client_of, running
from factories import make_model
from link_agent import LinkAgent, answer, enroll, linked
from modelshare.server.app import Application
from modelshare.server.clock import DatabaseClock
from modelshare.server.fleet.jobs import Reconciler
from modelshare.server.settings import Settings
from modelshare.server.storage.local import FolderStore
from modelshare.server.storage.signed_urls import LinkState
from modelshare.wire.link import Request
from page_texts import lines
from persons import browser_of, new_person, sign_in
from served import free_port, serving, wait_until

# One process has a SQLite database to itself.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["postgres"], indirect=True)]
SKEWS = (0, 300, -300)


@dataclass(frozen=True)
class Process:
    app: Application
    url: str


def machine_clock(ahead: int) -> Callable[[], float]:
    return lambda: time.time() + ahead


async def read_precisely(clock: DatabaseClock) -> None:
    """The first time that is read counts however long that took; after it only one that was read quickly."""

    async def is_precise() -> bool:
        clock._base, began = None, time.monotonic()
        await clock.check()
        return time.monotonic() < began + 0.5

    await wait_until(is_precise)


@pytest.fixture
async def processes(settings: Settings) -> AsyncIterator[list[Process]]:
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for skew in SKEWS:
            port = free_port()
            here = settings.model_copy(update={"advertise_url": f"http://127.0.0.1:{port}"})
            app = Application(here, machine_clock(skew))
            await read_precisely(app.clock)
            await stack.enter_async_context(running(app))
            found.append(Process(app, await stack.enter_async_context(serving(app, port))))
        yield found


@pytest.fixture
def app(processes: list[Process]) -> Application:
    return processes[0].app


async def serve(link: LinkAgent, request: Request, body: bytes) -> None:
    await link.send(answer(request, b"{}"))


async def test_every_chat_is_answered(processes: list[Process], deployer: Tenant) -> None:
    model_id = await make_model(processes[0].app, deployer.project.id)
    spec = {"slug": "chat", "model": str(model_id), "tier": "self_hosted"}
    assert (await deployer.http.post("/v1/endpoints", json=spec)).status_code == 201
    headers = {"Authorization": f"Bearer {deployer.project.api_key}"}
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(headers=headers))
        for number, process in enumerate(processes):
            agent_id, token = await enroll(deployer.http, name=f"box-{number}")
            link = await stack.enter_async_context(linked(process.url, token, agent_id=agent_id, handler=serve))
            await link.make_ready()

        async def chat(process: Process) -> int:
            url = f"{process.url}/{deployer.project.id}/chat/v1/chat/completions"
            return (await http.post(url, json={})).status_code

        async def all_ready() -> bool:
            agents = (await deployer.http.get("/v1/agents")).json()["data"]
            phases = [each["phase"] for agent in agents for each in agent["deployments"]]
            return phases == ["ready"] * 3

        await wait_until(all_ready)
        for process in processes:
            tiers = process.app.platform.tiers
            await Reconciler(process.app.database, tiers, process.app.clock).reconcile()
        statuses = await asyncio.gather(*(chat(process) for process in processes * 20))
        assert statuses == [200] * 60
        agents = (await deployer.http.get("/v1/agents")).json()["data"]
        assert [agent["state"] for agent in agents] == ["active"] * 3


async def test_links_that_one_signs_hold_at_the_others_for_as_long_as_was_said(processes: list[Process]) -> None:
    def state(made: Process, asked: Process, seconds: int) -> LinkState:
        store = asked.app.platform.store
        assert isinstance(store, FolderStore)
        expires_at = made.app.platform.now() + seconds
        url = httpx.URL(made.app.platform.store.get_url("a/b", expires_at=expires_at, base_url=made.url))
        return store.check_link("a/b", url.query)

    for made in processes:
        for asked in processes:
            assert state(made, asked, 60) is LinkState.VALID
            assert state(made, asked, -1) is LinkState.EXPIRED


async def test_the_difference_is_said_in_log_and_health(settings: Settings) -> None:
    with capture_logs() as logs:
        app = Application(settings, machine_clock(300))
        await read_precisely(app.clock)
        async with running(app), client_of(app) as http:
            assert abs(app.clock() - time.time()) < 2
            assert (await http.get("/readyz")).json()["clock_skew_seconds"] == pytest.approx(300, abs=2)
            admin = await new_person(app, "ada", is_admin=True)
            async with browser_of(app, await sign_in(app, admin)) as browser:
                page = lines(await browser.get("/dashboard/-/platform"))
            assert re.search(r"Clock wrong This machine.s is (299|300|301) seconds ahead of the database.s", page)
    told = [line for line in logs if "clock" in line["event"]]
    assert [round(line["seconds_ahead"] / 10) for line in told] == [30]
