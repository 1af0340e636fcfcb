"""What a client sees when something breaks on the way, and what the agent hears when the client goes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from clock import Clock
from conftest import ON_SQLITE, Tenant
from link_agent import LinkAgent, answer, enroll, linked
from modelshare.server.app import Application
from modelshare.wire.link import INITIAL_CREDIT, Chunk, CloseCode, End, Head, Request
from served import wait_until
from server.router.conftest import Endpoint
from server.router.test_usage import usage

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app"), ON_SQLITE]


@pytest.fixture
async def second(endpoint: Endpoint, url: str, deployer: Tenant, ready: LinkAgent) -> AsyncIterator[LinkAgent]:
    """Another machine of the deployer, ready as well."""
    _, token = await enroll(deployer.http, name="second")
    async with linked(url, token) as agent:
        await agent.make_ready()

        async def listed() -> bool:
            agents = (await deployer.http.get("/v1/agents")).json()["data"]
            return [one["phase"] for agent in agents for one in agent["deployments"]] == ["ready", "ready"]

        await wait_until(listed)
        yield agent


async def started(endpoint: Endpoint, agent: LinkAgent) -> tuple[httpx.Response, Request]:
    """A streamed answer whose first event is there."""

    async def ask() -> httpx.Response:
        request = endpoint.http.build_request("POST", "/chat/completions", content=b"{}")
        return await endpoint.http.send(request, stream=True)

    asked = asyncio.ensure_future(ask())
    request, _ = await agent.request()
    await agent.send(Head(request.stream, 200, "text/event-stream"))
    await agent.send(Chunk(request.stream, b"data: 1\n\n"))
    return await asked, request


def last_event(body: bytes) -> dict[str, object]:
    event: dict[str, object] = json.loads(body.strip().rsplit(b"data: ", 1)[-1])
    return event


async def test_another_agent_takes_over_before_the_answer_began(
    endpoint: Endpoint, ready: LinkAgent, second: LinkAgent
) -> None:
    asked = asyncio.ensure_future(endpoint.chat(b'{"n": 1}'))
    first: LinkAgent | None = None

    async def taken() -> LinkAgent | None:
        return next((agent for agent in (ready, second) if not agent.requests.empty()), None)

    first = await wait_until(taken)
    assert first is not None
    other = second if first is ready else ready
    await first.socket.close()
    request, body = await other.request()
    assert body == b'{"n": 1}'
    await other.send(answer(request, b"{}"))
    assert (await asked).status_code == 200


async def test_busy_agents_share_the_work(endpoint: Endpoint, ready: LinkAgent, second: LinkAgent) -> None:
    asked = [asyncio.ensure_future(endpoint.chat()) for _ in range(4)]
    for agent in (ready, second, ready, second):
        request, _ = await agent.request()
        await agent.send(answer(request, b"{}"))
    assert [(await one).status_code for one in asked] == [200] * 4


async def test_nobody_is_left(endpoint: Endpoint, ready: LinkAgent) -> None:
    asked = asyncio.ensure_future(endpoint.chat())
    await ready.request()
    await ready.socket.close()
    answered = await asked
    assert answered.status_code == 503
    assert answered.headers["retry-after"]
    assert answered.json()["error"]["type"] == "server_error"


async def test_a_stream_that_breaks_ends_with_an_error_event(endpoint: Endpoint, ready: LinkAgent) -> None:
    streamed, _ = await started(endpoint, ready)
    await ready.socket.close()
    body = await streamed.aread()
    assert body.startswith(b"data: 1\n\n")
    assert last_event(body)["error"]["type"] == "server_error"  # type: ignore[index]


async def test_an_engine_that_breaks_off_says_so_in_the_stream(endpoint: Endpoint, ready: LinkAgent) -> None:
    streamed, request = await started(endpoint, ready)
    await ready.send(End(request.stream, "The engine ended.", 3, 1))
    assert "The engine ended." in str(last_event(await streamed.aread())["error"])


async def test_a_whole_answer_that_breaks_is_an_error(endpoint: Endpoint, ready: LinkAgent) -> None:
    asked = asyncio.ensure_future(endpoint.chat())
    request, _ = await ready.request()
    await ready.send(Head(request.stream, 200, "application/json"))
    await ready.send(Chunk(request.stream, b'{"half": '))
    await ready.send(End(request.stream, "The engine ended."))
    assert (await asked).status_code == 502


async def test_a_very_long_answer_that_breaks_is_cut_off(endpoint: Endpoint, ready: LinkAgent) -> None:
    async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
        await agent.send(Head(request.stream, 200, "application/json"))
        for _ in range(36):
            await agent.chunk(request, b"x" * (256 << 10))
        await agent.send(End(request.stream, "The engine ended."))

    ready.handler = serve
    with pytest.raises(httpx.RemoteProtocolError):
        await endpoint.chat()


async def test_a_client_that_goes_cancels_the_work(endpoint: Endpoint, ready: LinkAgent) -> None:
    streamed, request = await started(endpoint, ready)
    await streamed.aclose()
    await cancelled(ready, request)


async def test_a_client_that_goes_before_the_answer_cancels_the_work(endpoint: Endpoint, ready: LinkAgent) -> None:
    asked = asyncio.ensure_future(endpoint.chat())
    request, _ = await ready.request()
    asked.cancel()
    await cancelled(ready, request)
    (row,) = await usage(endpoint.tenant, 1)
    assert row["errors"] == row["completion_tokens"] == 0
    assert row["prompt_tokens"], "the engine has read the prompt"
    assert row["estimated"]


async def test_a_client_that_does_not_read_holds_the_agent_back(endpoint: Endpoint, ready: LinkAgent) -> None:
    sent = 0

    async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
        nonlocal sent
        await agent.send(Head(request.stream, 200, "text/event-stream"))
        while True:
            await agent.chunk(request, b"data: " + b"x" * 65_528 + b"\n\n")
            sent += 65_536

    ready.handler = serve
    request = endpoint.http.build_request("POST", "/chat/completions", content=b"{}")
    streamed = await endpoint.http.send(request, stream=True)

    async def holds() -> bool:
        before = sent
        await asyncio.sleep(0.5)
        return sent == before

    await wait_until(holds)
    assert INITIAL_CREDIT <= sent < 16 << 20  # what the sockets' buffers take, and no more
    await streamed.aclose()


async def test_more_than_the_credit_ends_the_link(endpoint: Endpoint, ready: LinkAgent) -> None:
    streamed, request = await started(endpoint, ready)
    event = b"data: " + b"x" * (INITIAL_CREDIT // 4) + b"\n\n"
    with contextlib.suppress(ConnectionError):
        while ready.closed is None:
            await ready.send(Chunk(request.stream, event))
    code, _ = await ready.end()
    assert code in {CloseCode.PROTOCOL, None}  # it resets the connection where more was under way: that may come first
    assert "error" in last_event(await streamed.aread())


@pytest.mark.parametrize("limits", [{"request_timeout_seconds": 1}], indirect=True)
async def test_an_answer_that_takes_too_long(
    limits: object, endpoint: Endpoint, ready: LinkAgent, deadlines: Clock
) -> None:
    asked = asyncio.ensure_future(endpoint.chat())
    request, _ = await ready.request()
    deadlines.now += 1
    answered = await asked
    assert answered.status_code == 504
    assert "longer than 1 s" in answered.json()["error"]["message"]
    await cancelled(ready, request)


@pytest.mark.parametrize("limits", [{"request_timeout_seconds": 2, "stream_idle_timeout_seconds": 1}], indirect=True)
async def test_a_stream_may_take_long_but_not_pause(
    app: Application, limits: object, endpoint: Endpoint, ready: LinkAgent, deadlines: Clock
) -> None:
    streamed, request = await started(endpoint, ready)
    parts = streamed.aiter_raw()
    assert await anext(parts) == b"data: 1\n\n"
    for _ in range(6):
        deadlines.now += 0.5
        await app._router._sweep()
        await ready.send(Chunk(request.stream, b"data: 2\n\n"))
        assert await anext(parts) == b"data: 2\n\n"
    deadlines.now += 1
    assert "paused" in str(last_event(b"".join([part async for part in parts]))["error"])
    await cancelled(ready, request)


async def test_a_restart_of_the_server_ends_streams_in_words(
    app: Application, endpoint: Endpoint, ready: LinkAgent
) -> None:
    streamed, _ = await started(endpoint, ready)
    await app.links.stop()
    assert "error" in last_event(await streamed.aread())


async def cancelled(agent: LinkAgent, request: Request) -> None:
    async def heard() -> bool:
        return request.stream in agent.cancelled

    await wait_until(heard)
