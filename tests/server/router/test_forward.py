"""Two processes on one database: a client reaches one, the agent is linked to the other."""

import asyncio
import hmac
import socket
import time
import uuid
from collections.abc import AsyncIterator
from functools import partial

import aiohttp
import httpx
import pytest

from conftest import Tenant, running
from factories import make_model
from link_agent import LinkAgent, answer, enroll, hello_of, linked
from modelshare.server.app import Application, create_app
from modelshare.server.fleet.tables import AgentLinkRow
from modelshare.server.router import forward
from modelshare.server.router.forward import PREFIX
from modelshare.server.settings import Settings
from modelshare.wire.link import Chunk, CloseCode, End, Head, Request
from served import free_port, serving, wait_until

# One process has a SQLite database to itself.
FOR_EVER = 60
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["postgres"], indirect=True)]


@pytest.fixture
async def processes(settings: Settings) -> AsyncIterator[tuple[Application, str, str]]:
    """The first process, its URL and the second one's."""
    ports = free_port(), free_port()
    first, second = (
        create_app(settings.model_copy(update={"advertise_url": f"http://127.0.0.1:{port}", "handover_seconds": 1}))
        for port in ports
    )
    async with running(first), running(second), serving(first, ports[0]) as one, serving(second, ports[1]) as two:
        yield first, one, two


@pytest.fixture
def app(processes: tuple[Application, str, str]) -> Application:
    return processes[0]


@pytest.fixture
async def agent(processes: tuple[Application, str, str], deployer: Tenant) -> AsyncIterator[LinkAgent]:
    """The deployer's machine, linked to the second process, its endpoint `chat` ready."""
    app, _, second = processes
    model_id = await make_model(app, deployer.project.id)
    agent_id, token = await enroll(deployer.http)
    await deployer.http.post("/v1/endpoints", json={"slug": "chat", "model": str(model_id), "tier": "self_hosted"})
    async with linked(second, token, agent_id=agent_id) as link:
        await link.make_ready()

        async def active() -> bool:
            return bool((await deployer.http.get("/v1/endpoints/chat")).json()["status"] == "active")

        await wait_until(active)
        yield link


@pytest.fixture
async def client(processes: tuple[Application, str, str], deployer: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    """Calls the endpoint on the first process."""
    base_url = f"{processes[1]}/{deployer.project.id}/chat/v1"
    headers = {"Authorization": f"Bearer {deployer.project.api_key}"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers) as http:
        yield http


async def test_a_whole_answer(agent: LinkAgent, client: httpx.AsyncClient) -> None:
    sent = b'{"user": "%s"}' % (b"x" * 1_000_000)
    asked = asyncio.ensure_future(client.post("/chat/completions", content=sent))
    request, body = await agent.request()
    assert body == sent
    assert len(request.tenant) == 64
    await agent.send(answer(request, b'{"choices": []}'))
    answered = await asked
    assert (answered.status_code, answered.content) == (200, b'{"choices": []}')


async def test_a_stream_and_its_cancel(agent: LinkAgent, client: httpx.AsyncClient) -> None:
    async def ask() -> httpx.Response:
        return await client.send(client.build_request("POST", "/chat/completions", content=b"{}"), stream=True)

    asked = asyncio.ensure_future(ask())
    request, _ = await agent.request()
    await agent.send(Head(request.stream, 200, "text/event-stream"))
    await agent.send(Chunk(request.stream, b"data: 1\n\n"))
    streamed = await asked
    assert await anext(streamed.aiter_raw()) == b"data: 1\n\n"
    await streamed.aclose()
    await cancelled(agent, request)


async def test_a_client_that_goes_before_the_answer(agent: LinkAgent, client: httpx.AsyncClient) -> None:
    asked = asyncio.ensure_future(client.post("/chat/completions", content=b"{}"))
    request, _ = await agent.request()
    asked.cancel()
    await cancelled(agent, request)


async def test_a_slow_client_holds_the_agent_back(agent: LinkAgent, client: httpx.AsyncClient) -> None:
    sent = 0

    async def serve(link: LinkAgent, request: Request, body: bytes) -> None:
        nonlocal sent
        await link.send(Head(request.stream, 200, "text/event-stream"))
        while True:
            await link.chunk(request, b"data: " + b"x" * 65_528 + b"\n\n")
            sent += 65_536

    agent.handler = serve
    streamed = await client.send(client.build_request("POST", "/completions", content=b'{"prompt": ""}'), stream=True)

    async def holds() -> bool:
        before = sent
        await asyncio.sleep(0.5)
        return sent == before

    await wait_until(holds)
    assert sent < 32 << 20
    await streamed.aclose()


async def test_a_break_on_the_other_process_is_told(agent: LinkAgent, client: httpx.AsyncClient) -> None:
    async def serve(link: LinkAgent, request: Request, body: bytes) -> None:
        await link.send(Head(request.stream, 200, "text/event-stream"))
        await link.send(Chunk(request.stream, b"data: 1\n\n"))
        await link.socket.close()

    agent.handler = serve
    answered = await client.post("/chat/completions", content=b"{}")
    assert b'"error"' in answered.content


async def test_usage_is_counted_where_the_client_came_in(
    agent: LinkAgent, client: httpx.AsyncClient, deployer: Tenant
) -> None:
    async def serve(link: LinkAgent, request: Request, body: bytes) -> None:
        await link.send(Head(request.stream, 200, "application/json"))
        await link.send(Chunk(request.stream, b"{}"))
        await link.send(End(request.stream, None, 3, 8))

    agent.handler = serve
    assert (await client.post("/chat/completions", content=b"{}")).status_code == 200

    async def counted() -> bool:
        rows = (await deployer.http.get("/v1/usage")).json()["data"]
        return [(row["requests"], row["completion_tokens"]) for row in rows] == [(1, 8)]

    await wait_until(counted)


async def test_a_link_moves_to_another_process(
    processes: tuple[Application, str, str], agent: LinkAgent, client: httpx.AsyncClient, deployer: Tenant
) -> None:
    _, token = await enroll(deployer.http, name="other")
    async with linked(processes[1], token, handler=_answers) as here:
        await here.make_ready()
        async with linked(processes[2], token, handler=_answers) as there:
            await here.end()
            await there.make_ready()
            await agent.socket.close()

            async def answered() -> bool:
                return (await client.post("/chat/completions", content=b"{}")).status_code == 200

            await wait_until(answered)


async def test_an_agent_with_a_link_to_each_process_is_asked_where_the_client_came_in(
    processes: tuple[Application, str, str], agent: LinkAgent, client: httpx.AsyncClient, deployer: Tenant
) -> None:
    """One of its links reports, and is enough to make it ready on all."""
    model_links: list[LinkAgent] = []

    async def say(link: LinkAgent, request: Request, body: bytes) -> None:
        model_links.append(link)
        await link.send(answer(request, b"{}"))

    agent.handler = say
    _, token = await enroll(deployer.http, name="other")
    await agent.socket.close()
    run = hello_of("run")
    async with linked(processes[1], token, handler=say, hello=run) as here:
        await here.make_ready()
        name = await wait_until(lambda: named(here))
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with linked(processes[1], token, hello=run, linked_to=name):
                pass
        assert refused.value.status == 421
        async with linked(processes[2], token, handler=say, hello=run, linked_to=name) as there:
            await there.wanted()
            assert here.processes == [here.process, there.process] == there.processes
            for url, expected in zip(processes[1:], (here, there), strict=True):
                path = f"{url}/{deployer.project.id}/chat/v1/chat/completions"

                async def answered(path: str = path) -> bool:
                    return (await client.post(path, content=b"{}")).status_code == 200

                await wait_until(answered)
                assert model_links[-1] is expected
            await here.socket.close()
            assert (await client.post("/chat/completions", content=b"{}")).status_code == 200
            assert model_links[-1] is there

            async with linked(processes[1], token, hello=hello_of("another")) as other:
                assert (await there.end())[0] == CloseCode.REPLACED
                assert other.closed is None


async def test_a_process_that_is_gone_or_hangs_is_passed_over(
    processes: tuple[Application, str, str],
    agent: LinkAgent,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database does not know yet that two earlier connections of the agent are dead."""
    monkeypatch.setattr(forward, "_ACCEPT_SECONDS", 2.0)
    agent.handler = _answers
    app = processes[0]
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        addresses = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{hanging.getsockname()[1]}"
        async with app.database.write() as session:
            for number, address in enumerate(addresses):
                token, process = uuid.UUID(int=number), f"p-{number}"
                link = {"token": token, "process": process, "address": address, "seen_at": app.platform.now()}
                session.add(AgentLinkRow(agent_id=uuid.UUID(agent.agent_id), **link))
        await wait_until(partial(knows, client, app, addresses))
        async with asyncio.timeout(15):
            assert (await client.post("/chat/completions", content=b"{}")).status_code == 200


async def knows(client: httpx.AsyncClient, app: Application, addresses: tuple[str, ...]) -> bool:
    project, slug = client.base_url.path.strip("/").split("/")[:2]
    seen = await app._router.snapshots.get(project, slug, since=time.monotonic())
    return seen is not None and seen.targets[0].addresses[:2] == addresses


async def test_a_process_that_hangs_in_an_answer_is_noticed(
    processes: tuple[Application, str, str],
    agent: LinkAgent,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forward, "_SILENT_SECONDS", 0.3)
    monkeypatch.setattr(forward, "_BEAT_SECONDS", FOR_EVER)
    answered = await client.post("/chat/completions", content=b"{}")
    assert (answered.status_code, "disconnected" in answered.text) == (503, True)


async def named(link: LinkAgent) -> str:
    return link.process


async def test_every_process_sends_a_conversation_to_the_same_machine(
    processes: tuple[Application, str, str], agent: LinkAgent, client: httpx.AsyncClient, deployer: Tenant
) -> None:
    async def say(link: LinkAgent, request: Request, body: bytes) -> None:
        await link.send(answer(request, b"here" if link is here else b"there"))

    async def machine(url: str, body: bytes) -> bytes:
        return (await client.post(f"{url}/{deployer.project.id}/chat/v1/chat/completions", content=body)).content

    agent.handler = say
    _, token = await enroll(deployer.http, name="other")
    async with linked(processes[1], token, handler=say) as here:
        await here.make_ready()

        async def both_are_known() -> bool:
            return await machine(processes[1], b"{}") == b"here"

        async def agree() -> bool:
            first, second = [await machine(url, b'{"messages": [{"role": "user"}]}') for url in processes[1:]]
            return first == second

        await wait_until(both_are_known)
        await wait_until(agree)


async def test_strangers_get_nothing(processes: tuple[Application, str, str], agent: LinkAgent) -> None:
    assert agent.desired is not None
    path = f"{PREFIX}{agent.agent_id}/{agent.desired.deployments[0].deployment_id}/chat/completions"
    forged = {
        "x-modelshare-time": "1000",
        "x-modelshare-timeout": "30",
        "x-modelshare-digest": "0" * 64,
        "x-modelshare-signature": hmac.new(b"guess", b"", "sha256").hexdigest(),
    }
    async with httpx.AsyncClient(base_url=processes[2]) as http:
        for headers in ({}, forged, {**forged, "x-modelshare-time": "now"}):
            assert (await http.post(path, content=b"{}", headers=headers)).status_code == 404
    assert agent.requests.empty()


async def _answers(link: LinkAgent, request: Request, body: bytes) -> None:
    await link.send(answer(request, b"{}"))


async def cancelled(agent: LinkAgent, request: Request) -> None:
    async def heard() -> bool:
        return request.stream in agent.cancelled

    await wait_until(heard)


@pytest.mark.parametrize("limits", [{"requests_per_minute": 20, "max_concurrent_requests": 3}], indirect=True)
async def test_limits_hold_for_both_processes_together(
    limits: object, processes: tuple[Application, str, str], agent: LinkAgent, client: httpx.AsyncClient
) -> None:
    path = f"{client.base_url.path}chat/completions"
    urls = [f"{url}{path}" for url in processes[1:]]
    started = asyncio.get_running_loop().time()
    held = [asyncio.ensure_future(client.post(urls[number % 2], content=b"{}")) for number in range(3)]
    requests = [await agent.request() for _ in held]
    for url in urls:
        refused = await client.post(url, content=b"{}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "capacity_exceeded")
    for request, _ in requests:
        await agent.send(answer(request, b"{}"))
    assert [(await each).status_code for each in held] == [200] * 3

    async def serve(link: LinkAgent, request: Request, body: bytes) -> None:
        await link.send(answer(request, b"{}"))

    agent.handler = serve
    answers = [await client.post(urls[number % 2], content=b"{}") for number in range(40)]
    refilled = (asyncio.get_running_loop().time() - started) / 3
    let_in = [each for each in answers if each.status_code == 200]
    assert 27 <= len(let_in) <= 27 + 1 + refilled
    left = [int(each.headers["x-ratelimit-remaining-requests"]) for each in answers]
    assert all(abs(shown - min(20, 27 - number)) <= 2 + refilled for number, shown in enumerate(left[:27], 1))
    refused = answers[-1]
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 3
