"""32 clients fire bursts of random actions over real server processes: nothing that is always true is ever broken.

`RACE_RUNS=20 pytest tests/faults/test_race.py` runs it so many times, each time with other dice.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from conftest import Tenant, new_tenant
from factories import make_model
from invariants import contradictions, lost_updates, orphans
from link_agent import enroll, linked
from modelshare.server.accounts import service as accounts
from modelshare.server.app import Application
from modelshare.server.settings import Settings
from modelshare.wire.agents import Phase
from modelshare.wire.tiers import SELF_HOSTED
from programs import SECRET, Server, serving

pytestmark = pytest.mark.anyio
RUNS = int(os.environ.get("RACE_RUNS", "1"))
CLIENTS, BURSTS, ACTIONS = 32, 4, 5
MODELS = ("m0", "m1", "m2")
SLUGS = ("e0", "e1", "e2")
TIERS = (SELF_HOSTED, "free", "gpu_nvidia_shared")
PHASES = (Phase.LOADING, Phase.READY, Phase.FAILED)
EXPECTED = {
    "share": {200, 400},
    "unshare": {200, 404},
    "create": {201, 403, 404, 409},
    "change": {200, 403, 404, 409},
    "delete": {204, 404, 409},
    "delete model": {204, 404, 409},
    "feature": {200, 404},
    "suspend": {200},
}
NOISE = (
    "deadlock",
    "collided",
    "cannot reconcile the fleet",
    "cannot write",
    "cannot record heartbeats",
    "request failed",
)
"""What a server says in its log when one of its transactions failed."""


@dataclass
class Site:
    """Server processes on one database, and who uses them."""

    app: Application
    """Not running: a way to the database."""
    servers: list[Server]
    owner: Tenant
    others: list[Tenant]
    platform_key: str
    models: dict[str, str] = field(default_factory=dict)
    """Ids by name; the owner deletes a model and makes it again now and then."""
    agents: list[tuple[str, str]] = field(default_factory=list)
    """Shared agents: id and token."""
    codes: Counter[int] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    """Answers that should not have been."""

    @property
    def keys(self) -> list[str]:
        return [tenant.project.api_key for tenant in (self.owner, *self.others)]

    async def make(self, name: str) -> None:
        with contextlib.suppress(IntegrityError):  # another client was faster
            self.models[name] = str(await make_model(self.app, self.owner.project.id, name=name))


@contextlib.asynccontextmanager
async def client(server: Server, key: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=30) as http:
        yield http


@pytest.fixture
async def site(settings: Settings, tmp_path: Path) -> AsyncIterator[Site]:
    """Three processes on PostgreSQL, one on SQLite."""
    app = Application(settings)
    owner, *others = [await new_tenant(app, slug) for slug in ("acme", "borg", "cyan")]
    async with app.database.write() as session:
        platform_key = await accounts.create_platform_key(session, "operator", now=app.platform.now())
    shared: dict[str, Any] = {
        "database_url": settings.database_url,
        "secret": SECRET,
        "public_requests_per_minute": "1000000",
    }
    with contextlib.ExitStack() as stack:
        count = 1 if app.database.is_sqlite else 3
        servers = [stack.enter_context(serving(tmp_path / f"server{n}", **shared)) for n in range(count)]
        found = Site(app, servers, owner, others, platform_key)
        async with client(servers[0], platform_key) as operator:
            found.agents = [await enroll(operator, name=f"box{n}", tiers=list(TIERS[1:])) for n in range(2)]
        for name in MODELS:
            await found.make(name)
        yield found
    await app.database.close()


async def act(site: Site, http: httpx.AsyncClient, dice: random.Random, *, owner: bool) -> tuple[str, httpx.Response]:
    """One random action of a project; what it was, and the answer."""
    name, slug, tier = dice.choice(MODELS), dice.choice(SLUGS), dice.choice(TIERS)
    model = site.models[name]
    actions = ["create"] * 4 + ["delete", "move", "move", "off", "on", "share", "unshare"]
    match dice.choice(actions + ["share"] * 3 + ["unshare", "delete model"] if owner else actions):
        case "create":
            return "create", await http.post("/v1/endpoints", json={"slug": slug, "model": model, "tier": tier})
        case "delete":
            return "delete", await http.delete(f"/v1/endpoints/{slug}")
        case "move":
            return "change", await http.patch(f"/v1/endpoints/{slug}", json={"tier": tier})
        case "off" | "on" as switch:
            return "change", await http.patch(f"/v1/endpoints/{slug}", json={"is_active": switch == "on"})
        case "delete model":
            answer = await http.delete(f"/v1/models/{model}")
            if answer.status_code == 204:
                await site.make(name)
            return "delete model", answer
        case action:
            return action, await http.post(f"/v1/models/{model}/{action}")


async def operate(site: Site, http: httpx.AsyncClient, dice: random.Random) -> tuple[str, httpx.Response]:
    """One random action of the platform's operator."""
    if dice.random() < 0.5:
        model, featured = site.models[dice.choice(MODELS)], dice.random() < 0.5
        return "feature", await http.post(f"/v1/platform/catalog/{model}/feature", json={"featured": featured})
    agent_id, _ = dice.choice(site.agents)
    suspended = dice.random() < 0.3
    return "suspend", await http.patch(f"/v1/platform/agents/{agent_id}", json={"suspended": suspended})


async def work(site: Site, number: int, dice: random.Random) -> None:
    """A client's part of a burst."""
    is_operator = number % 16 == 15
    key = site.platform_key if is_operator else site.keys[number % 3]
    async with client(site.servers[number % len(site.servers)], key) as http:
        for _ in range(ACTIONS):
            if is_operator:
                action, answer = await operate(site, http, dice)
            else:
                action, answer = await act(site, http, dice, owner=number % 3 == 0)
            site.codes[answer.status_code] += 1
            if answer.status_code not in EXPECTED[action]:
                site.surprises.append(f"{action}: {answer.status_code} {answer.text}")


async def play(server: Server, token: str, dice: random.Random) -> None:
    """An agent that reports this and that of whatever it is to hold, and links again when it is put out."""
    while True:
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            async with linked(server.url, token) as agent:
                while agent.closed is None:
                    for wanted in agent.desired.deployments if agent.desired else []:
                        await agent.report(wanted.deployment_id, dice.choice(PHASES))
                    await asyncio.sleep(0.02)
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def playing(site: Site, run: int) -> AsyncIterator[None]:
    """The agents play as long as the block."""
    tasks = [
        asyncio.create_task(play(site.servers[n % len(site.servers)], token, random.Random(f"{run} agent {n}")))
        for n, (_, token) in enumerate(site.agents)
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def view(site: Site, server: Server) -> dict[str, Any]:
    """What a process shows of the catalog, and that all it shows of the models agrees."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(server, key)) for key in site.keys]
        catalog = (await clients[0].get("/v1/catalog/models?sort=recent")).json()["data"]
        entries = {entry["id"]: entry for entry in catalog}
        endpoints = [
            (http is clients[0], endpoint)
            for http in clients
            for endpoint in (await http.get("/v1/endpoints")).json()["data"]
        ]
        for model in (await clients[0].get("/v1/models?extended=true")).json()["data"]:
            used = [endpoint for _, endpoint in endpoints if endpoint["model"] == model["id"] and endpoint["is_active"]]
            footprint = (await clients[0].get(f"/v1/models/{model['id']}/catalog")).json()
            entry = entries.pop(model["id"], None)
            assert model["is_shared"] == footprint["is_shared"] == (entry is not None)
            assert footprint["endpoints_by_tier"] == dict(Counter(endpoint["tier"] for endpoint in used))
            assert model["status"] == ("active" if used else "ready")
            role, count = (entry["catalog_role"], len(used)) if entry else (None, 0)
            assert (model["catalog_role"], model["deployment_count"]) == (role, count)
            assert (footprint["catalog_role"], footprint["deployment_count"]) == (role, count)
            assert model["featured"] == footprint["featured"] == bool(entry and entry["featured"])
            if entry is not None:
                assert entry["deployment_count"] == count
                on_shared = [endpoint for endpoint in used if endpoint["tier"] != SELF_HOSTED]
                assert role == "deployable" or on_shared
        assert entries == {}, "what is in the catalog is a model"
        return {"catalog": catalog, "endpoints": [endpoint["id"] for _, endpoint in endpoints]}


async def check(site: Site) -> None:
    """What is always true, once nothing runs."""
    assert await contradictions(site.app.database) == 0
    assert await orphans(site.app.database, site.owner.project.id) == 0
    assert await lost_updates(site.app.database) == []
    first, *rest = [await view(site, server) for server in site.servers]
    assert [one for one in rest if one != first] == []


async def deadlocks(app: Application) -> int:
    """That PostgreSQL counted in this database; a process tells of its own when it ends."""
    if app.database.is_sqlite:
        return 0
    async with app.database.read() as session:
        statement = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(await session.scalar(text(statement)) or 0)


@pytest.mark.parametrize("run", range(RUNS))
async def test_bursts(site: Site, run: int) -> None:
    before = await deadlocks(site.app)
    async with playing(site, run):
        for burst in range(BURSTS):
            async with asyncio.TaskGroup() as group:
                dice = [random.Random(f"{run} {burst} {number}") for number in range(CLIENTS)]
                working = [group.create_task(work(site, number, dice[number])) for number in range(CLIENTS)]
                while not all(task.done() for task in working):
                    assert await contradictions(site.app.database) == 0
                    await asyncio.sleep(0.02)
            assert site.surprises == []
            await check(site)
    assert set(site.codes) >= {200, 201, 204, 403, 404, 409}, "all kinds of things happened"
    for server in site.servers:
        server.process.terminate()
        server.process.wait(20)
        lines = server.log.read_text().splitlines()
        assert [line for line in lines if any(word in line for word in NOISE)] == []
    assert await deadlocks(site.app) == before
