"""Calls to engines that answer in any way HTTP allows, and in some that it does not."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.raw_engine import HELLO, OK, Answer, Engine, running
from agent.support import wait_until
from middleboxes import CERTIFICATES
from modelshare.agent import engine_pool
from modelshare.agent.engine_pool import EngineCall, EngineLostError, EnginePool, EngineUnreachableError

pytestmark = pytest.mark.anyio


class Call(EngineCall):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 0
        self.headers: Mapping[bytes, bytes] = {}
        self.received = bytearray()
        self.error: Exception | None = None
        self.over = asyncio.Event()
        self.on_data: Callable[[], None] | None = None

    @property
    def body(self) -> bytes:
        return bytes(self.received)

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        assert not self.status
        self.status, self.headers = status, headers

    def on_body(self, data: bytes) -> None:
        assert not self.over.is_set()
        self.received += data
        if self.on_data is not None:
            self.on_data()

    def on_end(self) -> None:
        assert not self.over.is_set()
        self.over.set()

    def on_failure(self, error: Exception) -> None:
        assert not self.over.is_set()
        self.error = error
        self.over.set()

    async def ended(self) -> "Call":
        await asyncio.wait_for(self.over.wait(), 60)
        return self


class AskedEngine(Engine):
    """An engine with a pool of connections to it."""

    def __init__(self, answer: Answer | bytes) -> None:
        super().__init__(answer)
        self.pool = EnginePool()

    def ask(self, call: Call | None = None, headers: Mapping[str, str] | None = None) -> Call:
        asked = call or Call()
        self.pool.send(asked, self.url, "chat/completions", headers or {}, b"{}")
        return asked


@asynccontextmanager
async def asked(answer: Answer | bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[AskedEngine]:
    async with running(AskedEngine(answer), tls) as engine, engine.pool:
        yield engine


async def test_a_connection_is_used_again_and_again() -> None:
    async with asked(HELLO) as engine:
        for _ in range(5):
            call = await engine.ask(headers={"Authorization": "Bearer secret"}).ended()
            assert (call.status, call.body, call.error) == (200, b"hello", None)
        assert engine.connections == 1
    assert engine.requests[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nAuthorization: Bearer secret\r\n" in engine.requests[0]
    assert b"\r\naccept-encoding: identity\r\n" in engine.requests[0]
    assert engine.requests[0].endswith(b"content-length: 2\r\n\r\n{}")


COMPLETE = {
    "chunked": OK + b"transfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
    "trailers": OK + b"transfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx-time: 5\r\nretry-after: 9\r\n\r\n",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO,
    "hints": b"HTTP/1.1 103 Early Hints\r\nretry-after: 9\r\n\r\n" + HELLO,
    "lines": HELLO.replace(b"\r\n", b"\n"),
    "case": OK + b"CONTENT-LENGTH: 5\r\nX-Odd: a b\r\n\r\nhello",
}
CLOSING = {
    "close": OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello",
    "version-1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "more-after-it": HELLO + b"HTTP/1.1 200 OK\r\n",
    "garbage-after-it": HELLO + b"garbage",
}


@pytest.mark.parametrize("form", COMPLETE)
async def test_every_form_of_a_response_is_read_and_its_connection_kept(form: str) -> None:
    async with asked(COMPLETE[form]) as engine:
        for _ in range(2):
            call = await engine.ask().ended()
            assert (call.status, call.body, call.error) == (200, b"hello", None)
            assert b"retry-after" not in call.headers
        assert engine.connections == 1


@pytest.mark.parametrize("form", CLOSING)
async def test_after_some_responses_the_connection_is_not_kept(form: str) -> None:
    async with asked(CLOSING[form]) as engine:
        for _ in range(2):
            call = await engine.ask().ended()
            assert (call.status, call.body, call.error) == (200, b"hello", None)
        assert engine.connections == 2


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\n", OK, OK + b"connection: close\r\n"])
async def test_a_body_without_a_length_ends_with_the_connection(head: bytes) -> None:
    async def answer(_: Engine, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head + b"\r\nhel")
        await writer.drain()
        writer.write(b"lo")
        writer.close()

    async with asked(answer) as engine:
        call = await engine.ask().ended()
        assert (call.body, call.error) == (b"hello", None)


BROKEN = {
    "short": OK + b"content-length: 6\r\n\r\nhello",
    "short-and-close": OK + b"connection: close\r\ncontent-length: 6\r\n\r\nhello",
    "no-last-chunk": OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "half-a-head": OK,
    "nothing": b"",
    "other": b"SSH-2.0-OpenSSH_9\r\n",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello",
    "bad-chunk": OK + b"transfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    "two-lengths": OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("form", BROKEN)
async def test_a_response_that_is_not_complete_is_a_failure(form: str) -> None:
    async def answer(_: Engine, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BROKEN[form])
        writer.close()

    async with asked(answer) as engine:
        assert isinstance((await engine.ask().ended()).error, EngineLostError)
        assert engine.connections == 1, "it was a new connection, so nothing is repeated"


@pytest.mark.parametrize("start", [OK + b"x: ", OK + b"transfer-encoding: chunked\r\n\r\n0\r\nx: "])
async def test_a_head_without_an_end_is_a_failure(start: bytes) -> None:
    async def answer(_: Engine, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    async with asked(answer) as engine:
        assert isinstance((await engine.ask().ended()).error, EngineLostError)


async def test_a_request_is_repeated_once_where_the_engine_had_closed_the_kept_connection() -> None:
    async def answer(engine: Engine, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(engine.requests) > 1:
            writer.close()
        else:
            writer.write(HELLO)

    async with asked(answer) as engine:
        await engine.ask().ended()
        assert isinstance((await engine.ask().ended()).error, EngineLostError)
        assert (len(engine.requests), engine.connections) == (3, 2)


async def test_a_request_is_not_repeated_after_the_first_byte_of_a_response() -> None:
    async def answer(engine: Engine, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO if len(engine.requests) == 1 else b"H")
        if len(engine.requests) > 1:
            writer.close()

    async with asked(answer) as engine:
        await engine.ask().ended()
        assert isinstance((await engine.ask().ended()).error, EngineLostError)
        assert len(engine.requests) == 2


async def test_a_kept_connection_that_closes_or_speaks_unasked_is_not_used() -> None:
    answered = asyncio.Event()

    async def answer(_: Engine, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        await answered.wait()
        writer.write(HELLO)  # nobody asked

    async with asked(answer) as engine:
        await engine.ask().ended()
        answered.set()
        await wait_until(lambda: not engine.open)
        assert (await engine.ask().ended()).error is None
        assert engine.connections == 2


async def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_pool, "_IDLE_SECONDS", 0.05)
    async with asked(HELLO) as engine:
        await asyncio.gather(*(engine.ask().ended() for _ in range(5)))
        assert engine.connections == 5
        await wait_until(lambda: not engine.open)


async def endless(_: Engine, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"transfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        await writer.drain()


async def test_a_closed_call_closes_its_connection() -> None:
    async with asked(endless) as engine:
        call = Call()
        call.on_data = call.close
        engine.ask(call)
        await wait_until(lambda: bool(call.body) and not engine.open)
        assert not call.over.is_set()


async def test_a_call_may_be_closed_before_it_is_connected() -> None:
    async with asked(HELLO) as engine:
        call = engine.ask()
        call.close()
        assert (await engine.ask().ended()).body == b"hello"
        assert not call.over.is_set()


async def test_a_paused_call_holds_up_the_engine_until_it_goes_on() -> None:
    held_up = asyncio.Event()

    async def answer(*given: Any) -> None:
        writer: asyncio.StreamWriter = given[2]
        writer.write(OK + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(400):
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            try:
                await asyncio.wait_for(writer.drain(), 1)
            except TimeoutError:
                held_up.set()
                await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with asked(answer) as engine:
        call = Call()
        call.on_data = call.pause
        engine.ask(call)
        await asyncio.wait_for(held_up.wait(), 60)
        assert len(call.body) < 400 * 0x10000
        call.on_data = None
        call.resume()
        await call.ended()
        assert (len(call.body), call.error) == (400 * 0x10000, None)


@pytest.mark.parametrize("is_prompt", [True, False])
async def test_a_call_that_has_enough_keeps_its_connection_only_if_the_end_comes_soon(
    monkeypatch: pytest.MonkeyPatch, *, is_prompt: bool
) -> None:
    if is_prompt:
        monkeypatch.setattr(engine_pool, "_END_SECONDS", 60)
        monkeypatch.setattr(engine_pool, "_IDLE_SECONDS", 60)
    ends = asyncio.Event()

    async def answer(_: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await (ends.wait() if is_prompt else reader.read())
        writer.write(b"0\r\n\r\n")

    async with asked(answer) as engine:
        call = Call()
        call.on_data = call.finish
        engine.ask(call)
        await wait_until(lambda: bool(call.body))
        ends.set()
        idle = next(iter(engine.pool._origins.values()))._idle
        await wait_until(lambda: bool(idle) if is_prompt else not engine.open)
        assert not call.over.is_set()


async def test_whatever_a_callback_raises_ends_the_call_and_closes_the_connection() -> None:
    async with asked(endless) as engine:
        call = Call()

        def fail() -> None:
            raise ValueError("no")

        call.on_data = fail
        assert isinstance((await engine.ask(call).ended()).error, ValueError)
        await wait_until(lambda: not engine.open)


async def test_a_call_begun_by_the_last_callback_uses_the_connection_that_has_become_free() -> None:
    async with asked(HELLO) as engine:
        first, second = Call(), Call()

        def ask_again() -> None:
            engine.ask(second)

        first.on_data = ask_again
        engine.ask(first)
        assert (await second.ended()).body == b"hello"
        assert (await first.ended()).body == b"hello"
        assert engine.connections == 1


async def test_an_engine_that_is_not_there_is_unreachable() -> None:
    async with EnginePool() as pool:
        call = Call()
        pool.send(call, "http://127.0.0.1:9/v1", "chat/completions", {}, b"{}")
        assert isinstance((await call.ended()).error, EngineUnreachableError)


async def test_an_address_or_a_header_that_cannot_be_sent_is_refused() -> None:
    async with EnginePool() as pool:
        for url, headers in [("nowhere", {}), ("http://127.0.0.1:9", {"Authorization": "a\r\nx: b"})]:
            with pytest.raises(ValueError):  # noqa: PT011 - either
                pool.send(Call(), url, "completions", headers, b"{}")


async def test_an_engine_may_be_behind_tls_with_a_trusted_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(CERTIFICATES / "localhost.pem")
    async with asked(HELLO, served) as engine:
        assert isinstance((await engine.ask().ended()).error, EngineUnreachableError)
        trusting = ssl.create_default_context(cafile=str(CERTIFICATES / "authority.pem"))
        monkeypatch.setattr(engine_pool, "_tls", lambda: trusting)
        assert (await engine.ask().ended()).body == b"hello"


async def test_credentials_in_the_address_are_sent_unless_there_are_others() -> None:
    async with asked(HELLO) as engine:
        engine.url = engine.url.replace("//", "//user:pass@")
        await engine.ask().ended()
        await engine.ask(headers={"Authorization": "Bearer b"}).ended()
    assert b"\r\nauthorization: Basic dXNlcjpwYXNz\r\n" in engine.requests[0]
    assert engine.requests[1].lower().count(b"authorization") == 1
