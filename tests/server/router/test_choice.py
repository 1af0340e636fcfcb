"""Which of several machines answers: the one that knows the conversation, while it is not too busy and not failing."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clock import Clock
from conftest import Tenant
from link_agent import LinkAgent, answer, enroll, linked
from modelshare.server.app import Application
from modelshare.server.fleet.links import AgentLinks
from modelshare.wire.link import Chunk, DeploymentLoad, End, Head, Ping, Request
from served import wait_until
from server.router.conftest import Endpoint
from shell import shell

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("running_app"),
    # The choice is made in memory: no query differs between the databases.
    pytest.mark.parametrize("lend", ["sqlite"], indirect=True),
]
MACHINES = 4


@dataclass
class Machines:
    """Four agents with the model."""

    endpoint: Endpoint
    links: AgentLinks
    served: list[tuple[int, bytes]] = field(default_factory=list)
    """Machine and body of each request, in order."""
    failing: set[int] = field(default_factory=set)
    """Machines whose engine answers with an error."""
    silent: set[int] = field(default_factory=set)
    """Machines that give no answer."""
    streaming: bool = False
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """Answers wait for it."""
    busy: Counter[int] = field(default_factory=Counter)
    agents: list[LinkAgent] = field(default_factory=list)

    async def say(self, *loads: tuple[int, int]) -> None:
        """Each machine says how many sequences it processes at once, and how many it has of other processes."""
        for agent, (slots, running) in zip(self.agents, loads, strict=True):
            (wanted,) = await agent.wanted()
            await agent.send(Ping(loads=[DeploymentLoad(wanted.deployment_id, slots, running, 0)]))

        async def is_heard() -> bool:
            return loads == tuple([await self.load_of(agent) for agent in self.agents])

        await wait_until(is_heard)

    async def load_of(self, agent: LinkAgent) -> tuple[int, int]:
        """As the server knows it."""
        link = self.links.get(uuid.UUID(agent.agent_id))
        assert link is not None
        (wanted,) = await agent.wanted()
        load = link.loads.of(wanted.deployment_id)
        return load.slots, load.here + load.elsewhere

    async def serve(self, number: int, agent: LinkAgent, request: Request, body: bytes) -> None:
        self.served.append((number, body))
        self.busy[number] += 1
        await self.held.wait()
        self.busy[number] -= 1
        if number in self.silent:
            return
        if number in self.failing and self.streaming:
            await agent.send(Head(request.stream, 200, "text/event-stream"))
            await agent.send(Chunk(request.stream, b"data: 1\n\n"))
            await agent.send(End(request.stream, "The engine ended."))
        else:
            await agent.send(answer(request, b"{}", status=500 if number in self.failing else 200))

    async def chat(self, *texts: str, **headers: str) -> int:
        """Asks in a conversation of these texts, by the user and the model in turns; returns the machine's number."""
        roles = ["user", "assistant"] * len(texts)
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
        body = json.dumps({"messages": messages}).encode()
        await self.endpoint.http.post("/chat/completions", content=body, headers=headers)
        return next(number for number, each in reversed(self.served) if each == body)

    async def have_served(self, count: int) -> bool:
        return len(self.served) == count

    async def prefix_cache(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = (await self.endpoint.tenant.http.get("/v1/endpoints/chat")).json()[
            "prefix_cache"
        ]
        return found


@pytest.fixture
async def machines(app: Application, endpoint: Endpoint, url: str, deployer: Tenant) -> AsyncIterator[Machines]:
    found = Machines(endpoint, app.links)
    found.held.set()

    async def ready() -> bool:
        agents = (await deployer.http.get("/v1/agents")).json()["data"]
        return [one["phase"] for agent in agents for one in agent["deployments"]] == ["ready"] * MACHINES

    async with AsyncExitStack() as stack:
        for number in range(MACHINES):
            agent_id, token = await enroll(deployer.http, name=f"box-{number}")

            async def serve(agent: LinkAgent, request: Request, body: bytes, number: int = number) -> None:
                await found.serve(number, agent, request, body)

            agent = await stack.enter_async_context(linked(url, token, agent_id=agent_id, handler=serve))
            await agent.make_ready()
            found.agents.append(agent)
        await wait_until(ready)
        yield found


async def test_conversations_go_to_the_machine_that_knows_them_and_the_load_is_even(machines: Machines) -> None:
    conversations, turns = 12, 10
    texts = [[f"conversation {number}"] for number in range(conversations)]
    homes: list[list[int]] = [[] for _ in texts]
    gate = asyncio.Semaphore(4)

    async def turn(number: int) -> None:
        async with gate:
            homes[number].append(await machines.chat(*texts[number]))
        texts[number] += ["an answer", "a question"]

    for _ in range(turns):
        await asyncio.gather(*(turn(number) for number in range(conversations)))
    warm = sum(max(Counter(each).values()) for each in homes)
    load = Counter(number for number, _ in machines.served)
    assert warm >= 0.9 * conversations * turns, homes
    assert max(load.values()) <= 1.25 * conversations * turns / MACHINES, load
    cache = await machines.prefix_cache()
    assert cache is not None
    assert cache["requests"] == conversations * (turns - 1)
    assert cache["hits"] >= 0.9 * cache["requests"]


async def test_what_everybody_asks_is_shared_by_the_machines(machines: Machines) -> None:
    machines.held.clear()
    asked = [asyncio.ensure_future(machines.chat("the same")) for _ in range(20)]

    async def all_are_there() -> bool:
        return len(machines.served) == len(asked)

    await wait_until(all_are_there)
    assert max(machines.busy.values()) <= 1.25 * len(asked) / MACHINES + 1, machines.busy
    machines.held.set()
    await asyncio.gather(*asked)


async def test_machines_share_by_size_and_a_full_one_gets_nothing(machines: Machines) -> None:
    await machines.say((12, 0), (4, 0), (4, 0), (4, 4))
    machines.held.clear()
    asked = [asyncio.ensure_future(machines.endpoint.http.post("/embeddings", json={"input": "a"})) for _ in range(20)]

    async def all_are_there() -> bool:
        return len(machines.served) == len(asked)

    await wait_until(all_are_there)
    assert machines.busy == {0: 12, 1: 4, 2: 4}
    machines.held.set()
    await asyncio.gather(*asked)


async def test_a_session_keeps_its_machine_whatever_it_says(machines: Machines) -> None:
    assert len({await machines.chat(f"text {number}", **{"X-Session-Id": "mine"}) for number in range(8)}) == 1
    assert len({await machines.chat(f"text {number}") for number in range(8)}) == MACHINES


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
async def test_a_machine_that_fails_is_left_out_and_comes_back(machines: Machines, is_stream: bool) -> None:
    home = await machines.chat("hello")
    machines.streaming = is_stream
    machines.failing = {home}
    asked = [await machines.chat("hello") for _ in range(8)]
    assert asked[:3] == [home] * 3
    assert set(asked[3:]) - {home}
    machines.failing = set()

    async def is_back() -> bool:
        return await machines.chat("hello") == home

    await wait_until(is_back)
    assert [await machines.chat("hello") for _ in range(5)] == [home] * 5


@pytest.mark.parametrize("limits", [{"request_timeout_seconds": 1}], indirect=True)
async def test_a_machine_that_gives_no_answer_is_left_out(
    app: Application, limits: object, machines: Machines, deadlines: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app._router.selector.circuits, "_clock", deadlines)
    home = await machines.chat("hello")
    machines.silent = {home}
    for served in (3, 5):
        asked = [asyncio.ensure_future(machines.chat("hello")) for _ in range(2)]
        await wait_until(partial(machines.have_served, served))
        deadlines.now += 1
        assert await asyncio.gather(*asked) == [home, home]
    assert await machines.chat("hello") != home


async def test_if_all_fail_requests_still_go_somewhere(machines: Machines) -> None:
    machines.failing = set(range(MACHINES))
    for _ in range(5 * MACHINES):
        await machines.chat("hello")
    assert len(machines.served) == 5 * MACHINES
    machines.failing = set()
    assert (await machines.endpoint.chat()).status_code == 200


async def test_the_hits_are_shown(machines: Machines, url: str, tmp_path: Path) -> None:
    assert await machines.prefix_cache() is None
    await machines.chat("hello")
    assert await machines.prefix_cache() is None, "nothing was repeated"
    for _ in range(4):
        await machines.chat("hello")
    assert await machines.prefix_cache() == {"requests": 4, "hits": 4}
    metrics = (await machines.endpoint.tenant.http.get("/metrics")).text
    assert 'modelshare_inference_prefix_requests_total{result="hit"} 4.0' in metrics
    terminal = shell(url, machines.endpoint.tenant.project.api_key, tmp_path)
    shown = await asyncio.to_thread(terminal.run, "endpoints", "show", "chat")
    assert "100% of 4 requests that continued a conversation" in shown.stdout, shown.stderr
