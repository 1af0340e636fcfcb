"""HTTP/1.1 to the letter, byte by byte, before an application that says what it was asked."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.types import Receive, Scope, Send

from modelshare.server.front.refusals import MAX_HEAD
from modelshare.server.settings import Settings
from served import fronted

pytestmark = pytest.mark.anyio
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class App:
    """Answers what it was asked, as the path says."""

    def __init__(self) -> None:
        self.disconnected = asyncio.Event()
        self.go = asyncio.Event()
        self.began = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.began.set()
        if scope["path"] == "/break":
            raise RuntimeError("secret words of the inside")
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
        if scope["path"] in {"/wait", "/stream"}:
            assert (await receive())["more_body"] is False
            assert await receive() == {"type": "http.disconnect"}
            self.disconnected.set()
            return
        if scope["path"] == "/refuse":
            await say(send, 401, b"no")
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected.set()
                return
            body += message["body"]
            more = message["more_body"]
        if scope["path"] == "/gate":
            await self.go.wait()
        await self.answer(scope, body, send)

    async def answer(self, scope: Scope, body: bytes, send: Send) -> None:
        if scope["path"] == "/line-break":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b\r\nc: d")]})
        if scope["path"] == "/chunks":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for part in (b"one", b"", b"two"):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body"})
            return
        asked = {name: scope[name] for name in ("method", "path", "http_version", "client")}
        asked |= {"query": scope["query_string"].decode(), "raw_path": scope["raw_path"].decode(), "body": len(body)}
        await say(send, 200, json.dumps(asked).encode())


async def say(send: Send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_problem(self, status: int, *words: str) -> None:
        """In the API's envelope, with an id to quote, as the connection's last."""
        assert self.status == status
        assert self.headers["connection"] == "close"
        assert len(self.headers["x-request-id"]) == 32
        assert self.headers["x-content-type-options"] == "nosniff"
        assert self.headers["content-type"] == "application/json"
        error = self.json["error"]
        assert set(error) == {"message", "type", "code", "param"}
        assert all(word in error["message"] for word in words), error["message"]


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, data: bytes, *, head_only: bool = False) -> Answer:
        self.writer.write(data)
        return await self.answer(head_only=head_only)

    async def answer(self, *, head_only: bool = False) -> Answer:
        async with asyncio.timeout(60):
            line, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = dict(each.split(": ", 1) for each in lines)
            body = b""
            if headers.get("transfer-encoding") == "chunked" and not head_only:
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    body += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readexactly(2)
            elif not head_only:
                body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(line.split()[1]), headers, body)

    async def is_closed(self) -> None:
        async with asyncio.timeout(60):
            with suppress(ConnectionResetError):
                assert await self.reader.read() == b""

    async def is_open(self) -> None:
        assert (await self.ask(GET)).status == 200


@pytest.fixture
def app() -> App:
    return App()


@asynccontextmanager
async def connected(url: str, source: str = "127.0.0.1") -> AsyncIterator[Client]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, local_addr=(source, 0))
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


@pytest.fixture
def limits(request: pytest.FixtureRequest) -> dict[str, Any]:
    """With `@pytest.mark.parametrize("limits", [{...}], indirect=True)`, the settings `connections_…` are these."""
    found: dict[str, Any] = getattr(request, "param", {})
    return found


@pytest.fixture
async def url(app: App, limits: dict[str, Any]) -> AsyncIterator[str]:
    async with fronted(app, Settings(**{f"connections_{name}": value for name, value in limits.items()})) as served:
        yield served


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    async with connected(url) as found:
        yield found


async def test_a_request(client: Client) -> None:
    answer = await client.ask(b"GET /a%2Fb/%C3%A4?q=%20 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.json | {"client": 0} == {
        "method": "GET",
        "path": "/a/b/ä",
        "raw_path": "/a%2Fb/%C3%A4",
        "query": "q=%20",
        "http_version": "1.1",
        "client": 0,
        "body": 0,
    }
    assert answer.json["client"][0] == "127.0.0.1"
    assert answer.headers["date"].endswith(" GMT")
    assert "server" not in answer.headers
    await client.is_open()


async def test_several_at_once_are_answered_in_order(client: Client) -> None:
    post = b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    client.writer.write(b"".join(post % number for number in range(20)))
    for number in range(20):
        assert (await client.answer()).json["path"] == f"/{number}"
    await client.is_open()


async def test_more_than_anybody_sends_at_once(client: Client) -> None:
    client.writer.write(GET * 1000)
    assert (await client.answer()).status == 200
    answers = [await client.answer() for _ in range(33)]
    answers[-1].is_problem(400, "too many")
    await client.is_closed()


@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_in_pieces(client: Client, step: int) -> None:
    request = (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;a=b\r\nde\r\n0\r\nX: y\r\n\r\n"
    )
    for start in range(0, len(request), step):
        client.writer.write(request[start : start + step])
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.answer()).json["body"] == 5
    await client.is_open()


@pytest.mark.parametrize("expectation", [b"100-continue", b"100-Continue"])
async def test_told_to_go_on(client: Client, expectation: bytes) -> None:
    client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: %b\r\n\r\n" % expectation)
    assert (await client.answer()).status == 100
    assert (await client.ask(b"abc")).json["body"] == 3
    await client.is_open()


async def test_nobody_is_told_to_go_on_who_knows_no_such_thing(client: Client) -> None:
    request = b"POST / HTTP/1.0\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc"
    assert (await client.ask(request)).json["body"] == 3


async def test_head_has_no_body(client: Client) -> None:
    answer = await client.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", head_only=True)
    assert answer.status == 200
    assert int(answer.headers["content-length"]) > 0
    await client.is_open()


async def test_answers_of_unknown_length(client: Client) -> None:
    answer = await client.ask(b"GET /chunks HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (answer.headers["transfer-encoding"], answer.body) == ("chunked", b"onetwo")
    await client.is_open()
    client.writer.write(b"GET /chunks HTTP/1.0\r\n\r\n")
    assert (await client.reader.read()).endswith(b"connection: close\r\n\r\nonetwo")


async def test_the_last_request(client: Client) -> None:
    answer = await client.ask(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + GET)
    assert answer.headers["connection"] == "close"
    await client.is_closed()


async def test_another_protocol_is_not_spoken(client: Client) -> None:
    """The request is answered as if it had not been offered, body and all: so Java's client asks for everything."""
    head = (
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    )
    for _ in range(2):
        client.writer.write((head + b"Content-Length: 3\r\n\r\nabc") * 2)
        assert [(await client.answer()).json["body"] for _ in range(2)] == [3, 3]
    assert (await client.ask(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")).json["body"] == 2
    await client.is_open()


async def test_offers_of_another_protocol_without_end(client: Client) -> None:
    client.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" * 2000)
    answers = [await client.answer() for _ in range(34)]
    answers[-1].is_problem(400, "too many")


@pytest.mark.parametrize("url_", [b"http://x", b"http://x?q=%20", b"http://x/"])
async def test_a_url_in_place_of_a_path(client: Client, url_: bytes) -> None:
    assert (await client.ask(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % url_)).json["raw_path"] == "/"


@pytest.mark.parametrize("connection", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_client_that_sends_no_more_is_answered(
    app: App, client: Client, version: bytes, connection: bytes
) -> None:
    client.writer.write(b"GET /gate HTTP/%b\r\nHost: x\r\n%b\r\n" % (version, connection))
    client.writer.write_eof()
    await app.began.wait()
    assert await client.reader.readexactly(2) == b"HT", "by which a client that has left is known"
    app.go.set()
    assert (await client.answer()).json["path"] == "/gate"
    await client.is_closed()


async def test_a_client_that_sends_no_more_behind_several(app: App, client: Client) -> None:
    client.writer.write(b"GET /gate HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    client.writer.write_eof()
    await app.began.wait()
    app.go.set()
    assert [(await client.answer()).status for _ in range(3)] == [200] * 3
    await client.is_closed()


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: <script>\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"CONNECT /x HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /ä HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_no_request(client: Client, request_: bytes) -> None:
    (await client.ask(request_)).is_problem(400, "not a valid HTTP/1.1 request")
    await client.is_closed()


async def test_nonsense_behind_a_request(app: App, client: Client) -> None:
    """The request is answered all the same, first."""
    client.writer.write(b"GET /gate HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n")
    await app.began.wait()
    app.go.set()
    assert (await client.answer()).json["path"] == "/gate"
    (await client.answer()).is_problem(400)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * MAX_HEAD),
        b"GET / HTTP/1.1\r\nHost: x\r\nA: %b\r\n\r\n" % (b"a" * MAX_HEAD),
        b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n" % (b"A: b\r\n" * (MAX_HEAD // 6)),
        b"GET / HTTP/1.1\r\nHost: x\r\nA: %b" % (b"a" * MAX_HEAD * 8),
    ],
)
async def test_a_head_that_is_too_long(client: Client, head: bytes) -> None:
    (await client.ask(head)).is_problem(431, "64 KiB")


async def test_a_head_that_is_just_short_enough(client: Client) -> None:
    assert (await client.ask(b"GET / HTTP/1.1\r\nHost: x\r\nA: %b\r\n\r\n" % (b"a" * (MAX_HEAD - 100)))).status == 200


async def test_trailers_without_end(client: Client) -> None:
    client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    (await client.ask(b"A: %b" % (b"a" * MAX_HEAD * 8))).is_problem(431)


async def test_an_answer_before_the_body_is_there(client: Client) -> None:
    """It comes at once, what is still sent is read for nothing, and the answer is not lost."""
    client.writer.write(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (401, "close")
    client.writer.write(b" " * 20_000_000)
    async with asyncio.timeout(60):
        await client.writer.drain()
    await client.is_closed()


async def test_an_application_that_breaks(client: Client) -> None:
    (await client.ask(b"GET /break HTTP/1.1\r\nHost: x\r\n\r\n")).is_problem(500, "X-Request-Id")


async def test_a_header_that_would_be_two(client: Client) -> None:
    (await client.ask(b"GET /line-break HTTP/1.1\r\nHost: x\r\n\r\n")).is_problem(500, "X-Request-Id")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_client_that_leaves_is_noticed(app: App, client: Client, version: bytes) -> None:
    client.writer.write(b"GET /wait HTTP/%b\r\nHost: x\r\n\r\n" % version)
    await app.began.wait()
    client.writer.close()
    async with asyncio.timeout(60):
        await app.disconnected.wait()


async def test_a_client_that_leaves_a_silent_stream_is_noticed(app: App, client: Client) -> None:
    client.writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    await client.reader.readuntil(b"\r\n\r\n3\r\none\r\n")
    client.writer.close()
    async with asyncio.timeout(60):
        await app.disconnected.wait()


SOON = {"head_seconds": 0.3, "idle_seconds": 0.3, "stalled_seconds": 0.3}
PATIENT = {"head_seconds": 60, "idle_seconds": 60, "stalled_seconds": 60, "per_address": 2}


@pytest.mark.parametrize("limits", [SOON], indirect=True)
async def test_silence(url: str, client: Client) -> None:
    await client.is_closed()
    async with connected(url) as second:
        await second.is_open()
        await second.is_closed()


@pytest.mark.parametrize("limits", [SOON], indirect=True)
async def test_a_head_that_trickles_in(client: Client) -> None:
    async def trickle() -> None:
        for byte in GET[:-2] + b"A: b\r\n" * 1000:
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    (await client.answer()).is_problem(408, "headers")
    trickling.cancel()


@pytest.mark.parametrize("limits", [SOON], indirect=True)
@pytest.mark.parametrize("trickles", [False, True])
async def test_a_body_that_stalls(app: App, client: Client, *, trickles: bool) -> None:
    async def trickle() -> None:
        for _ in range(1000):
            client.writer.write(b" ")
            await asyncio.sleep(0.05)

    client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
    trickling = asyncio.create_task(trickle() if trickles else asyncio.sleep(0))
    (await client.answer()).is_problem(408, "body")
    trickling.cancel()
    async with asyncio.timeout(60):
        await app.disconnected.wait()


@pytest.mark.parametrize("limits", [SOON | {"stalled_seconds": 1.5}], indirect=True)
async def test_a_body_that_comes_slowly_but_comes(client: Client) -> None:
    client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n")
    for _ in range(20):
        client.writer.write(b" " * 10_000)
        await asyncio.sleep(0.1)
    assert (await client.answer()).json["body"] == 200_000


@pytest.mark.parametrize("limits", [SOON], indirect=True)
async def test_work_has_no_deadline_of_the_servers(app: App, client: Client) -> None:
    client.writer.write(b"GET /gate HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(1)
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
