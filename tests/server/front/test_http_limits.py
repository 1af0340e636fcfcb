"""How long a connection may take, how many there may be, and how they end."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import pytest

from modelshare.server.front import overdue
from modelshare.server.front.server import Front
from modelshare.server.settings import Settings
from raw_http import GET, Answer, App, Client, connected
from served import fronted
from server.front.conftest import FastFront

pytestmark = pytest.mark.anyio
PATIENT = {"head_seconds": 60, "idle_seconds": 60, "stalled_seconds": 60, "per_address": 2}


@pytest.mark.parametrize("limits", [PATIENT], indirect=True)
async def test_silence(front: FastFront, url: str, client: Client) -> None:
    await front.later(60)
    await client.is_closed()
    async with connected(url) as second:
        await second.is_open()
        await front.later(60)
        await second.is_closed()


@pytest.mark.parametrize("limits", [PATIENT], indirect=True)
async def test_a_head_that_trickles_in(front: FastFront, client: Client) -> None:
    async with trickling(client, GET[:-2] + b"A: b\r\n" * 1000):
        await minute(front)
        (await client.answer()).is_problem(408, "headers")


@pytest.mark.parametrize("limits", [PATIENT], indirect=True)
@pytest.mark.parametrize("trickles", [False, True])
async def test_a_body_that_stalls(app: App, front: FastFront, client: Client, *, trickles: bool) -> None:
    client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\nabc")
    await app.began.wait()
    async with trickling(client, b" " * 8000 if trickles else b""):
        await minute(front)
        (await client.answer()).is_problem(408, "body")
    async with asyncio.timeout(60):
        await app.disconnected.wait()


@asynccontextmanager
async def trickling(client: Client, data: bytes) -> AsyncIterator[None]:
    """The client sends it byte by byte."""

    async def trickle() -> None:
        for byte in data:
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    task = asyncio.create_task(trickle())
    yield
    task.cancel()


async def minute(front: FastFront) -> None:
    """A minute passes, little by little."""
    for _ in range(6):
        await asyncio.sleep(0.1)
        await front.later(10)


@pytest.mark.parametrize("limits", [PATIENT], indirect=True)
async def test_a_body_that_comes_slowly_but_comes(app: App, front: FastFront, client: Client) -> None:
    client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n")
    for number in range(20):
        client.writer.write(b" " * 10_000)
        await app.has_received(10_000 * (number + 1))
        await front.later(10)
    assert (await client.answer()).json["body"] == 200_000


@pytest.mark.parametrize("limits", [PATIENT], indirect=True)
async def test_work_has_no_deadline_of_the_servers(app: App, front: FastFront, client: Client) -> None:
    client.writer.write(b"GET /gate HTTP/1.1\r\nHost: x\r\n\r\n")
    await app.began.wait()
    await front.later(3600)
    app.go.set()
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("limits", [PATIENT], indirect=True)
async def test_too_many_of_one_address(url: str) -> None:
    """The longest silent ones go; another address has its own."""
    async with (
        connected(url, "127.0.0.2") as other,
        connected(url) as first,
        connected(url) as second,
        connected(url) as third,
        connected(url) as fourth,
    ):
        first.writer.write(b"GET / HTTP/1.1\r\nA")
        (await first.answer()).is_problem(429, "Your address")
        await second.is_closed()
        for open_ in (third, fourth, other):
            await open_.is_open()


async def test_a_proxy_speaks_for_many(app: App) -> None:
    """Each client behind it has limits of its own, and its connections that say nothing are nobody's."""

    def began(client: str) -> bytes:
        return b"POST / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: %b\r\nContent-Length: 9\r\n\r\n" % client.encode()

    settings = Settings(
        trusted_proxies=["127.0.0.1"], **{f"connections_{name}": each for name, each in PATIENT.items()}
    )
    async with fronted(app, settings) as url, AsyncExitStack() as stack:
        greedy, others, idle = [
            [await stack.enter_async_context(connected(url)) for _ in range(4)] for _ in ("greedy", "others", "idle")
        ]
        for each in idle:
            await each.is_open()
        for number, each in enumerate(others):
            each.writer.write(began(f"192.0.2.{number}"))
        for number, each in enumerate(greedy):  # of IPv6 each has a whole network
            app.began.clear()
            each.writer.write(began(f"203.0.113.9, 2001:db8::{number}"))
            await app.began.wait()
        for each in greedy[:2]:
            (await each.answer()).is_problem(429, "Your address")
        for each in (*greedy[2:], *others):
            assert (await each.ask(b"123456789")).json["body"] == 9
        for each in idle:
            await each.is_open()


@pytest.mark.parametrize("limits", [{"total": 16, "per_address": 10}], indirect=True)
async def test_the_greediest_address_makes_room(url: str) -> None:
    async with connected(url, "127.0.0.2") as lone:
        await lone.is_open()
        parts = urlsplit(url)
        greedy = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(40)]
        async with connected(url, "127.0.0.3") as late:
            await late.is_open()
        await lone.is_open()
        for _, writer in greedy:
            writer.close()


async def test_stopping_lets_answers_end(app: App) -> None:
    async with AsyncExitStack() as clients:
        async with fronted(app) as url:
            idle, busy = [await clients.enter_async_context(connected(url)) for _ in range(2)]
            await idle.is_open()
            app.began.clear()
            busy.writer.write(b"GET /gate HTTP/1.1\r\nHost: x\r\n\r\n")
            await app.began.wait()
            asyncio.get_running_loop().call_later(0.2, app.go.set)
        assert (await busy.answer()).json["path"] == "/gate"
        await busy.is_closed()
        await idle.is_closed()


async def test_stopping_waits_for_so_long(app: App) -> None:
    async with AsyncExitStack() as clients:
        async with fronted(app, Settings(connections_stop_seconds=0.2)) as url:
            busy = await clients.enter_async_context(connected(url))
            busy.writer.write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
            await app.began.wait()
        await busy.is_closed()
    assert app.disconnected.is_set()


async def test_stopping_does_not_wait_for_a_body_that_does_not_come(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overdue, "_BODY_SECONDS", 0.1)
    async with AsyncExitStack() as clients:
        async with fronted(app, Settings(connections_stop_seconds=60)) as url:
            client = await clients.enter_async_context(connected(url))
            client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
            await app.began.wait()
            began = time.monotonic()
        assert time.monotonic() < began + 30
        (await client.answer()).is_problem(503, "shutting down")


async def test_clients_are_asked_to_connect_elsewhere_before_the_end(app: App) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        front = Front(app, Settings())
        async with front.serving(listener), connected(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            await client.is_open()
            front.leave()
            client.writer.write(GET)
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            await client.is_closed()


async def test_a_second_signal_ends_what_is_in_progress(app: App) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        front = Front(app, Settings(connections_stop_seconds=60))
        async with AsyncExitStack() as clients:
            began = time.monotonic()
            async with front.serving(listener):
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                busy = await clients.enter_async_context(connected(url))
                busy.writer.write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
                await app.began.wait()
                asyncio.get_running_loop().call_later(0.2, front.stop_now)
            await busy.is_closed()
            assert time.monotonic() < began + 30


async def test_a_client_that_uses_its_connection_at_the_last_moment_is_answered(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot know that the process stops: the answer before did not say so."""
    monkeypatch.setattr(overdue, "_REUSE_SECONDS", 60)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        front = Front(app, Settings())
        async with AsyncExitStack() as clients:
            async with front.serving(listener):
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                client = await clients.enter_async_context(connected(url))
                client.writer.write(b"GET /gate HTTP/1.1\r\nHost: x\r\n\r\n")
                await app.began.wait()
                front.leave()

                async def ask_again() -> Answer:
                    while not front.is_stopping:  # noqa: ASYNC110 - it has no event
                        await asyncio.sleep(0.01)
                    app.go.set()
                    assert "connection" not in (await client.answer()).headers
                    return await client.ask(GET)

                asking = asyncio.create_task(ask_again())
            answer = await asking
            assert (answer.status, answer.headers["connection"]) == (200, "close")
