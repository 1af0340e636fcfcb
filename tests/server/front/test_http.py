"""HTTP/1.1 to the letter, byte by byte, before an application that says what it was asked."""

import asyncio

import pytest

from modelshare.server.front.refusals import MAX_HEAD
from raw_http import GET, App, Client

pytestmark = pytest.mark.anyio


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
