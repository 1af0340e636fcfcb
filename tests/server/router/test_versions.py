"""Versions change while requests come: each is answered, by a version that its endpoint may have."""

import asyncio
import contextlib
import itertools
import json
import random
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import httpx
import pytest

from answers import problem
from conftest import Tenant, new_tenant, running
from factories import add_version, make_model
from link_agent import LinkAgent, answer, answer_events, enroll, linked, refusal
from modelshare.server.app import Application, create_app
from modelshare.server.settings import Settings
from modelshare.wire.agents import Phase
from modelshare.wire.link import Request
from served import free_port, serving, wait_until
from server.router.conftest import Endpoint

pytestmark = pytest.mark.anyio
several = pytest.mark.parametrize("lend", ["postgres"], indirect=True)
"""One process has a SQLite database to itself."""
OLD, NEW = "1.0.0", "1.1.0"


@dataclass
class Machine:
    """Does as an agent does, but its engines only say which version they are; they are slow to start, and to answer."""

    link: LinkAgent
    fails: set[str] = field(default_factory=set)
    """Versions that do not start."""
    ready: dict[str, str] = field(default_factory=dict)
    """The version by deployment."""
    refused: int = 0

    async def hold(self) -> None:
        """Follows what it is to hold."""
        while True:
            desired = {one.deployment_id: one for one in self.link.desired.deployments} if self.link.desired else {}
            for gone in self.ready.keys() - desired.keys():
                del self.ready[gone]
            for new in desired.keys() - self.ready.keys():
                await asyncio.sleep(random.uniform(0, 0.03))
                if desired[new].version in self.fails:
                    await self.link.report(new, Phase.FAILED, reason="It needs 80 GB.")
                    continue
                self.ready[new] = desired[new].version
                await self.link.report(new, Phase.READY)
            await asyncio.sleep(0.002)

    async def serve(self, link: LinkAgent, request: Request, body: bytes) -> None:
        version = self.ready.get(request.deployment_id)
        if version is None:
            self.refused += 1
            await link.send(refusal(request))
            return
        await asyncio.sleep(random.uniform(0, 0.02))
        if json.loads(body)["stream"]:
            await answer_events(link, request, [json.dumps({"version": version}).encode(), b"[DONE]"])
        else:
            await link.send(answer(request, json.dumps({"version": version}).encode()))


@contextlib.asynccontextmanager
async def machine(url: str, token: str) -> AsyncIterator[Machine]:
    async with linked(url, token) as link:
        made = Machine(link)
        link.handler = made.serve
        holding = asyncio.ensure_future(made.hold())
        try:
            yield made
        finally:
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)


@dataclass
class Traffic:
    """Requests, with pauses in which the server, which runs in the same process, can do its other work."""

    failed: list[str] = field(default_factory=list)
    answered: dict[str, Counter[str]] = field(default_factory=dict)
    """By endpoint, how often each version answered."""

    @contextlib.asynccontextmanager
    async def on(self, tenant: Tenant, urls: list[str], slugs: list[str], clients: int = 2) -> AsyncIterator[None]:
        over = asyncio.Event()
        headers = {"Authorization": f"Bearer {tenant.project.api_key}"}
        async with contextlib.AsyncExitStack() as stack:
            tasks = []
            for url, slug in itertools.product(urls, slugs):
                base = f"{url}/{tenant.project.id}/{slug}/v1"
                http = await stack.enter_async_context(httpx.AsyncClient(base_url=base, headers=headers))
                tasks += [asyncio.ensure_future(self._ask(http, slug, over)) for _ in range(clients)]
            try:
                yield
            finally:
                over.set()
                await asyncio.gather(*tasks)

    def reaches(self, slug: str, version: str) -> Callable[[], Awaitable[bool]]:
        """Whether the endpoint has answered with the version since this was asked."""
        before = self.answered.setdefault(slug, Counter())[version]

        async def check() -> bool:
            return self.answered[slug][version] > before

        return check

    async def _ask(self, http: httpx.AsyncClient, slug: str, over: asyncio.Event) -> None:
        for streams in itertools.cycle([False, True]):
            if over.is_set():
                return
            got = await http.post("/chat/completions", json={"stream": streams})
            if got.status_code != 200 or (streams and not got.text.endswith("data: [DONE]\n\n")):
                self.failed.append(f"{slug}: {got.status_code} {got.text}")
                await asyncio.sleep(0.05)
                continue
            said = got.text.split("\n\n")[0].removeprefix("data: ")
            self.answered.setdefault(slug, Counter())[json.loads(said)["version"]] += 1
            await asyncio.sleep(0.02)


async def deploy(
    tenant: Tenant, model: uuid.UUID, slug: str, version: str = "latest", tier: str = "self_hosted"
) -> None:
    """An endpoint that answers."""
    spec = {"slug": slug, "model": str(model), "tier": tier, "version": version}
    assert (await tenant.http.post("/v1/endpoints", json=spec)).status_code == 201

    async def active() -> bool:
        return bool((await tenant.http.get(f"/v1/endpoints/{slug}")).json()["status"] == "active")

    await wait_until(active)


async def change(tenant: Tenant, model: uuid.UUID, action: str) -> None:
    """Promotes the new version, or goes back to the old one."""
    version = NEW if action == "promote" else OLD
    answered = await tenant.http.post(f"/v1/models/{model}/versions/{version}/{action}")
    assert answered.status_code == 200, answered.text


async def changes(tenant: Tenant, model: uuid.UUID, traffic: Traffic, slug: str, *, slow: int, quick: int) -> None:
    """Promotes and rolls back: `slow` times each until the version answers, `quick` times in a row; ends promoted."""
    for _ in range(slow):
        for action, version in (("promote", NEW), ("rollback", OLD)):
            await change(tenant, model, action)
            await wait_until(traffic.reaches(slug, version))
    for _ in range(quick):
        for action in ("promote", "rollback"):
            await change(tenant, model, action)
            await asyncio.sleep(random.uniform(0, 0.05))
    await change(tenant, model, "promote")
    await wait_until(traffic.reaches(slug, NEW))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Tiers without a limit of requests per minute: how many are sent depends on the machine's speed."""
    assert settings.tiers_file is not None
    tiers = settings.tiers_file.read_text(encoding="utf-8")
    unlimited = re.sub(r"^requests_per_minute = .*\n", "", tiers, flags=re.MULTILINE)
    settings.tiers_file.write_text(unlimited, encoding="utf-8")
    return settings


@pytest.fixture
async def model(app: Application, deployer: Tenant) -> uuid.UUID:
    """The deployer's own, of two versions; the old one is the latest."""
    made = await make_model(app, deployer.project.id)
    await add_version(app, made, NEW)
    return made


@pytest.mark.parametrize("tier", ["self_hosted", "cpu_amd_optimized"])
async def test_not_a_request_is_dropped(
    app: Application, url: str, deployer: Tenant, operator: httpx.AsyncClient, model: uuid.UUID, tier: str
) -> None:
    traffic = Traffic()
    enrolled = [
        await (enroll(deployer.http) if tier == "self_hosted" else enroll(operator, tiers=[tier])) for _ in range(2)
    ]
    async with contextlib.AsyncExitStack() as stack:
        for _, token in enrolled:
            await stack.enter_async_context(machine(url, token))
        await deploy(deployer, model, "follows", tier=tier)
        await deploy(deployer, model, "stays", OLD, tier=tier)
        async with traffic.on(deployer, [url], ["follows", "stays"]):
            await changes(deployer, model, traffic, "follows", slow=3, quick=6)
    assert traffic.failed == []
    assert set(traffic.answered["stays"]) == {OLD}


@several
@pytest.mark.parametrize("pinned", [True, False])
async def test_nor_where_several_processes_serve(settings: Settings, *, pinned: bool) -> None:
    """Clients reach three processes, two agents are linked to two of them."""
    ports = [free_port() for _ in range(3)]
    apps = [create_app(settings.model_copy(update={"advertise_url": f"http://127.0.0.1:{port}"})) for port in ports]
    traffic = Traffic()
    async with contextlib.AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(running(app))
        urls = [await stack.enter_async_context(serving(app, port)) for app, port in zip(apps, ports, strict=True)]
        tenant = await stack.enter_async_context(_tenant(apps[0]))
        model = await make_model(apps[0], tenant.project.id)
        await add_version(apps[0], model, NEW)
        machines = [await stack.enter_async_context(machine(url, (await enroll(tenant.http))[1])) for url in urls[:2]]
        await deploy(tenant, model, "follows")
        if pinned:
            await deploy(tenant, model, "stays", OLD)
        async with traffic.on(tenant, urls, ["follows", "stays"] if pinned else ["follows"], clients=1):
            await changes(tenant, model, traffic, "follows", slow=4, quick=15)
    print(traffic.answered, "refused:", sum(one.refused for one in machines))  # noqa: T201 - shown by -s
    assert traffic.failed == []
    assert not pinned or set(traffic.answered["stays"]) == {OLD}


async def test_a_request_on_its_way_to_a_version_that_goes(
    endpoint: Endpoint, ready: LinkAgent, app: Application, owner: Tenant
) -> None:
    """The agent hears of it first: it has let go of the deployment before the request comes to it."""
    model = uuid.UUID(endpoint.model_id)
    await add_version(app, model, NEW)
    asked = asyncio.ensure_future(endpoint.chat(b'{"n": 1}'))
    request, _ = await ready.request()
    await change(owner, model, "promote")
    (new,) = [one for one in await ready.wanted(2) if one.deployment_id != request.deployment_id]
    await ready.report(new.deployment_id, Phase.READY)
    await ready.wanted(1)
    await ready.send(refusal(request))
    again, body = await ready.request()
    assert (again.deployment_id, body) == (new.deployment_id, b'{"n": 1}')
    await ready.send(answer(again, b"{}"))
    assert (await asked).status_code == 200


async def test_a_refusal_with_nowhere_else_to_go_is_told(endpoint: Endpoint, ready: LinkAgent) -> None:
    asked = asyncio.ensure_future(endpoint.chat())
    request, _ = await ready.request()
    await ready.send(refusal(request))
    told = await asked
    assert problem(told) == (503, "server_error", "model_loading")
    assert told.headers["retry-after"]
    assert ready.requests.empty(), "it is not asked again for what it has refused"


async def test_a_new_version_that_does_not_start_leaves_the_old_one(
    endpoint: Endpoint, url: str, app: Application, owner: Tenant, deployer: Tenant
) -> None:
    model = uuid.UUID(endpoint.model_id)
    await add_version(app, model, NEW)
    traffic = Traffic()

    async def told() -> bool:
        shown = (await deployer.http.get("/v1/endpoints/chat")).json()
        return shown["status"] == "active" and "It needs 80 GB." in (shown["status_reason"] or "")

    _, token = await enroll(deployer.http)
    async with machine(url, token) as box:
        box.fails.add(NEW)
        await endpoint.is_("active")
        async with traffic.on(deployer, [url], ["chat"]):
            await change(owner, model, "promote")
            await wait_until(told)
            await wait_until(traffic.reaches("chat", OLD))
            await change(owner, model, "rollback")
            await wait_until(traffic.reaches("chat", OLD))
    assert traffic.failed == []
    assert set(traffic.answered["chat"]) == {OLD}


async def test_an_agent_that_links_anew_midway_keeps_the_old_version_until_the_new_one_is_there(
    endpoint: Endpoint, url: str, app: Application, owner: Tenant, deployer: Tenant
) -> None:
    model = uuid.UUID(endpoint.model_id)
    await add_version(app, model, NEW)
    _, token = await enroll(deployer.http)
    async with linked(url, token) as link:
        await link.make_ready()
        await endpoint.is_("active")
        await change(owner, model, "promote")
        await link.wanted(2)
    async with linked(url, token) as link:
        both = {one.version: one.deployment_id for one in await link.wanted(2)}
        await link.report(both[NEW], Phase.LOADING)
        await link.report(both[OLD], Phase.READY)

        async def is_back() -> bool:
            agents = (await deployer.http.get("/v1/agents")).json()["data"]
            return "ready" in [one["phase"] for one in agents[0]["deployments"]]

        await wait_until(is_back)
        asked = asyncio.ensure_future(endpoint.chat())
        request, _ = await link.request()
        assert request.deployment_id == both[OLD]
        await link.send(answer(request, b"{}"))
        assert (await asked).status_code == 200
        await link.report(both[NEW], Phase.READY)
        assert [one.version for one in await link.wanted(1)] == [NEW]


@contextlib.asynccontextmanager
async def _tenant(app: Application) -> AsyncIterator[Tenant]:
    tenant = await new_tenant(app, "borg")
    async with tenant.http:
        yield tenant
