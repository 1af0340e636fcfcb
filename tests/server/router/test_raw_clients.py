"""Inference over a bare socket: however a client cuts, pipelines or leaves its requests."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from link_agent import LinkAgent, answer
from modelshare.server.router.relay import Relay
from modelshare.wire.link import Chunk, End, Head, Request
from served import wait_until
from server.router.conftest import Endpoint

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


@dataclass
class Socket:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    path: str
    key: str

    def request(self, body: bytes, *, route: str = "chat/completions", key: str | None = None, head: str = "") -> bytes:
        length = "" if "transfer-encoding" in head else f"content-length: {len(body)}\r\n"
        lines = f"POST {self.path}/{route} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key or self.key}\r\n"
        return f"{lines}{length}{head}\r\n".encode() + body

    async def answer(self) -> tuple[int, bytes]:
        """The next answer: its status and body."""
        async with asyncio.timeout(20):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            return int(head[9:12]), await self.reader.readexactly(int(length[1]) if length else 0)


@pytest.fixture
async def client(endpoint: Endpoint) -> AsyncIterator[Socket]:
    url = endpoint.http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    yield Socket(reader, writer, url.path.rstrip("/"), endpoint.tenant.project.api_key)
    writer.close()


@pytest.fixture
async def echoing(ready: LinkAgent) -> LinkAgent:
    """Answers every request with its body."""

    async def echo(agent: LinkAgent, request: Request, body: bytes) -> None:
        await agent.send(answer(request, body))

    ready.handler = echo
    return ready


@pytest.mark.usefixtures("echoing")
async def test_pipelined_requests_are_answered_in_order(client: Socket) -> None:
    bodies = [b'{"user": "%d"}' % number for number in range(20)]
    client.writer.write(b"".join(map(client.request, bodies)))
    assert [await client.answer() for _ in bodies] == [(200, body) for body in bodies]


@pytest.mark.usefixtures("echoing")
async def test_other_routes_and_refusals_leave_the_connection_usable(client: Socket) -> None:
    for status, request in (
        (200, client.request(b"{}")),
        (400, client.request(b"no JSON")),
        (401, client.request(b"{}", key="msk_unknown")),
        (404, client.request(b"{}", route="images")),
        (415, client.request(b"{}", head="content-encoding: gzip\r\n")),
        (200, b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n"),
        (200, client.request(b"{}")),
    ):
        client.writer.write(request)
        assert (await client.answer())[0] == status


@pytest.mark.usefixtures("echoing")
async def test_a_body_comes_in_any_pieces(client: Socket) -> None:
    body = b'{"prompt": "' + b"a" * 5000 + b'"}'
    request = client.request(body)
    for cut in (1, 20, request.index(b"\r\n\r\n") + 2, request.index(b"\r\n\r\n") + 4, len(request) - 1):
        client.writer.write(request[:cut])
        await client.writer.drain()
        await asyncio.sleep(0)
        client.writer.write(request[cut:])
        assert await client.answer() == (200, body)


@pytest.mark.usefixtures("echoing")
async def test_a_chunked_body_after_100_continue(client: Socket) -> None:
    request = client.request(b"", head="transfer-encoding: chunked\r\nexpect: 100-continue\r\n")
    client.writer.write(request)
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.writer.write(b'8\r\n{"user":\r\n4\r\n "a"\r\n1\r\n}\r\n0\r\n\r\n')
    assert await client.answer() == (200, b'{"user": "a"}')


async def test_who_may_not_call_is_refused_without_sending_the_body(client: Socket) -> None:
    client.writer.write(
        client.request(b"", key="msk_unknown", head="transfer-encoding: chunked\r\nexpect: 100-continue\r\n")
    )
    assert (await client.answer())[0] == 401


async def test_a_body_that_is_announced_too_long_is_refused_at_once(client: Socket, ready: LinkAgent) -> None:
    lines = client.request(b"").replace(b"content-length: 0", b"content-length: 3000000")
    client.writer.write(lines)
    assert (await client.answer())[0] == 413
    assert ready.requests.empty()


async def test_a_client_that_closes_its_half_gets_its_answer(client: Socket, ready: LinkAgent) -> None:
    client.writer.write(client.request(b"{}"))
    client.writer.write_eof()
    request, _ = await ready.request()
    await ready.send(answer(request, b'{"a": 1}'))
    assert await client.answer() == (200, b'{"a": 1}')


@pytest.mark.parametrize("is_answering", [True, False])
async def test_a_client_that_leaves_ends_the_work(client: Socket, ready: LinkAgent, is_answering: bool) -> None:
    client.writer.write(client.request(b'{"stream": true}'))
    request, _ = await ready.request()
    if is_answering:
        await ready.send(Head(request.stream, 200, "text/event-stream"))
        await ready.send(Chunk(request.stream, b"data: 1\n\n"))
        await client.reader.readuntil(b"data: 1\n\n")
    client.writer.transport.abort()

    async def is_cancelled() -> bool:
        return request.stream in ready.cancelled

    await wait_until(is_cancelled)


async def test_a_pipelined_request_waits_for_the_stream_before_it(client: Socket, ready: LinkAgent) -> None:
    client.writer.write(client.request(b'{"stream": true}') + client.request(b"{}"))
    first, _ = await ready.request()
    await ready.send(Head(first.stream, 200, "text/event-stream"))
    await ready.send(Chunk(first.stream, b"data: [DONE]\n\n"))
    assert ready.requests.empty()
    await ready.send(End(first.stream, None, 1, 1))
    second, _ = await ready.request()
    await ready.send(answer(second, b"{}"))
    streamed = await client.reader.readuntil(b"\r\n0\r\n\r\n")
    assert b"data: [DONE]\n\n" in streamed
    assert await client.answer() == (200, b"{}")


async def test_answers_that_a_client_does_not_read_are_not_produced(client: Socket, ready: LinkAgent) -> None:
    """However many requests it pipelines."""
    answered = 0

    async def stream(agent: LinkAgent, request: Request, body: bytes) -> None:
        nonlocal answered
        del body
        await agent.send(Head(request.stream, 200, "text/event-stream"))
        for _ in range(4):
            await agent.send(Chunk(request.stream, b"data: " + b"a" * 250_000 + b"\n\n"))
        await agent.send(End(request.stream, None, 1, 1))
        answered += 1

    ready.handler = stream
    client.writer.write(client.request(b'{"stream": true}') * 30)

    async def is_blocked() -> bool:
        return answered > 0

    await wait_until(is_blocked)
    for _ in range(20):  # more than enough for another request to arrive at the agent
        await client_is_served(client)
    assert answered < 25  # the operating system buffers some
    received, ends = b"", 0
    async with asyncio.timeout(60):
        while ends < 30:
            received = received[-6:] + await client.reader.read(1 << 20)
            ends += received.count(b"\r\n0\r\n\r\n")
            received = received[received.rfind(b"\r\n0\r\n\r\n") + 1 :]


async def client_is_served(client: Socket) -> None:
    """Another client is: the server had time for everybody."""
    host, port = client.writer.get_extra_info("peername")[:2]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_the_end_of_a_stream_is_held_back_for_the_count_but_nothing_else(
    client: Socket, ready: LinkAgent
) -> None:
    client.writer.write(client.request(b'{"stream": true}'))
    request, _ = await ready.request()
    await ready.send(Head(request.stream, 200, "text/event-stream"))
    for number in range(3):
        await ready.send(Chunk(request.stream, b"data: %d\n\ndata: [DONE]\n\n" % number))
    assert (await client.reader.readuntil(b"data: 1\n\ndata: [DONE]\n\n")).count(b"[DONE]") == 2
    await ready.send(End(request.stream, None, 1, 1))
    assert b"data: 2\n\ndata: [DONE]\n\n" in await client.reader.readuntil(b"\r\n0\r\n\r\n")


@pytest.mark.usefixtures("echoing")
async def test_bodies_are_freed_with_their_requests_not_by_the_garbage_collector(client: Socket) -> None:
    body = b'{"prompt": "' + b"a" * 100_000 + b'"}'
    gc.disable()
    try:
        for _ in range(5):
            client.writer.write(client.request(body))
            assert (await client.answer())[0] == 200
        relays = [each for each in gc.get_objects() if type(each) is Relay]
        assert sum(len(each._body) for each in relays) == 0
    finally:
        gc.enable()
