"""What an agent sends that means harm, or is out of its mind, costs it its link and its own requests, and nobody else
anything."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random

import httpx
import psutil
import pytest

import odd_frames
from conftest import ON_SQLITE, Tenant
from factories import make_model
from link_agent import LinkAgent, answer, enroll, linked
from modelshare.server.app import Application
from modelshare.wire.link import INITIAL_CREDIT, Chunk, CloseCode, End, Head, Request
from served import wait_until
from server.router.conftest import Endpoint

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app"), ON_SQLITE]
MIB = 1 << 20
SMALL = 20_000
JSON = "application/json"
ANSWERS: dict[str, Callable[[int], list[odd_frames.Fields]]] = {
    "no status": lambda stream: [["answer", stream, 0, JSON, b"{}", 3, 4]],
    "a status that switches protocols": lambda stream: [["answer", stream, 101, JSON, b"{}", 3, 4]],
    "a status without a body": lambda stream: [["answer", stream, 204, JSON, b"{}", 3, 4]],
    "a status beyond HTTP": lambda stream: [["head", stream, 1000, JSON], ["chunk", stream, b"{}"], ["end", stream]],
    "a header in the type": lambda stream: [["answer", stream, 200, "text/html\r\nSet-Cookie: a=b", b"{}", 3, 4]],
    "a type beyond Latin-1": lambda stream: [["head", stream, 200, "text/\u202e"], ["end", stream]],
    "more tokens than a database counts": lambda stream: [["answer", stream, 200, JSON, b"{}", 2**64 - 1, 0]],
    "fewer tokens than none": lambda stream: [["head", stream, 200, JSON], ["end", stream, None, -5, 0]],
    "two heads": lambda stream: [["head", stream, 200, JSON], ["head", stream, 200, JSON]],
    "a frame that is too long": lambda stream: [["answer", stream, 200, JSON, b"x" * (3 * MIB // 2), 3, 4]],
    "a frame that no WebSocket takes": lambda stream: [["answer", stream, 200, JSON, b"x" * 3 * MIB, 3, 4]],
    "no MessagePack": lambda _: [],
}


@pytest.fixture
async def bystander(app: Application, url: str, owner: Tenant) -> AsyncIterator["Bystander"]:
    """Another project with an endpoint and a machine of its own."""
    model_id = await make_model(app, owner.project.id, name="own")
    spec = {"slug": "own", "model": str(model_id), "tier": "self_hosted"}
    assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201
    agent_id, token = await enroll(owner.http, name="honest")
    headers = {"Authorization": f"Bearer {owner.project.api_key}"}

    async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
        await agent.send(answer(request, b'{"choices": []}', tokens=(3, 8)))

    base_url = f"{url}/{owner.project.id}/own/v1"
    async with (
        linked(url, token, agent_id=agent_id, handler=serve) as agent,
        httpx.AsyncClient(base_url=base_url, headers=headers) as http,
    ):
        await agent.make_ready()
        found = Bystander(owner, http)
        await wait_until(found.is_answered)
        yield found


class Bystander:
    """Counts its calls."""

    def __init__(self, tenant: Tenant, http: httpx.AsyncClient) -> None:
        self._tenant = tenant
        self._http = http
        self.calls = 0

    async def is_answered(self) -> bool:
        status = (await self._http.post("/chat/completions", content=b"{}")).status_code
        self.calls += status == 200
        return status == 200

    async def is_counted(self) -> bool:
        """Each call that was answered, with its tokens."""
        rows = (await self._tenant.http.get("/v1/usage")).json()["data"]
        done = sum(row["requests"] - row["errors"] for row in rows)
        return bool(done == self.calls and sum(row["completion_tokens"] for row in rows) == 8 * self.calls)


async def test_a_bad_answer_is_a_502_and_the_end_of_its_link(
    endpoint: Endpoint, url: str, deployer: Tenant, bystander: Bystander
) -> None:
    _, token = await enroll(deployer.http)
    for name, bad in ANSWERS.items():
        async with linked(url, token) as agent:
            await agent.make_ready()
            await endpoint.is_("active")
            asked = asyncio.ensure_future(endpoint.chat())
            request, _ = await agent.request()
            with contextlib.suppress(ConnectionError):
                for fields in bad(request.stream):
                    await agent.socket.send_bytes(odd_frames.encode(fields))
            if not bad(request.stream):
                await agent.socket.send_bytes(b"\xc1")
            answered = await asked
            assert await bystander.is_answered()
            assert (answered.status_code, answered.json()["error"]["type"]) == (502, "server_error"), name
            assert "set-cookie" not in answered.headers
            code, _ = await agent.end()
            if "WebSocket" not in name:  # there the connection may be reset before its end is read
                assert code == CloseCode.PROTOCOL, name
        await endpoint.is_("degraded")
    await wait_until(bystander.is_counted)


async def test_a_hello_out_of_bounds_leaves_nothing_behind(url: str, deployer: Tenant) -> None:
    _, token = await enroll(deployer.http)
    async with linked(url, token) as agent:
        await agent.wanted(0)
    for engines in (["\0"], ["x" * 201], ["x"] * 51):
        async with linked(url, token, hello=["hello", 1, "1", engines, "cpu", 1, 1]) as agent:  # type: ignore[arg-type]
            code, reason = await agent.end()
            assert (code, len(reason.encode()) <= 123) == (CloseCode.PROTOCOL, True)
    (listed,) = (await deployer.http.get("/v1/agents")).json()["data"]
    assert listed["capabilities"]["engines"] == ["llamacpp"]


async def heads(agent: LinkAgent, request: Request) -> None:
    for _ in range(300):
        await agent.socket.send_bytes(
            odd_frames.encode(["head", request.stream, 200, "text/event-stream" + "x" * 999_000])
        )


async def ends(agent: LinkAgent, request: Request) -> None:
    for _ in range(300):
        await agent.socket.send_bytes(odd_frames.encode(["end", request.stream, "x" * 999_000, 0, 0]))


async def small_chunks(agent: LinkAgent, request: Request) -> None:
    for _ in range(SMALL):
        await agent.send(Chunk(request.stream, b"x"))


async def late_chunks(agent: LinkAgent, request: Request) -> None:
    for _ in range(300):
        await agent.send(Chunk(request.stream + 1, bytes(250_000)))


@pytest.mark.parametrize("flood", [heads, ends, small_chunks, late_chunks])
async def test_a_flood_to_a_client_that_does_not_read_fills_no_memory(
    endpoint: Endpoint, ready: LinkAgent, flood: Callable[[LinkAgent, Request], Awaitable[None]]
) -> None:
    request = endpoint.http.build_request("POST", "/chat/completions", content=b"{}")
    asked = asyncio.ensure_future(endpoint.http.send(request, stream=True))
    stream, _ = await ready.request()
    await ready.send(Head(stream.stream, 200, "text/event-stream"))
    await ready.send(Chunk(stream.stream, b"data: 1\n\n"))
    streamed = await asked
    before = psutil.Process().memory_info().rss
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(flood(ready, stream), 30)
    if flood is small_chunks:
        await ready.send(End(stream.stream))
        body = (await streamed.aread()).removeprefix(b"data: 1\n\n")
        assert body == b"x" * SMALL
    else:
        assert (await ready.end())[0] in {CloseCode.PROTOCOL, None}  # the connection may be reset before that is read
    await streamed.aclose()
    assert psutil.Process().memory_info().rss - before < 8 * INITIAL_CREDIT + 40 * MIB


async def test_whatever_frames_come_others_are_answered_and_counted(
    endpoint: Endpoint, url: str, deployer: Tenant, bystander: Bystander
) -> None:
    random = Random(8)
    _, token = await enroll(deployer.http)
    before = psutil.Process().memory_info().rss
    sent = 0
    for _ in range(4):
        async with linked(url, token) as agent:
            held = [one.deployment_id for one in await agent.make_ready()]
            await endpoint.is_("active")
            asked = asyncio.ensure_future(endpoint.chat())
            streams = [(await agent.request())[0].stream]
            with contextlib.suppress(ConnectionError):
                while agent.closed is None:
                    honest = odd_frames.from_agent(random, held, streams)
                    bad = random.random() < 0.01
                    await agent.socket.send_bytes(
                        odd_frames.changed(random, honest) if bad else odd_frames.encode(honest)
                    )
                    sent += 1
            assert (await asked).status_code in {200, 502, 503}
            assert await bystander.is_answered()
        await endpoint.is_("degraded")
    assert sent > 50
    await wait_until(bystander.is_counted)
    assert psutil.Process().memory_info().rss - before < 64 * MIB
