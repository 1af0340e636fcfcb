"""WebSockets: frames byte by byte, peers that say or take much, and floods."""

import asyncio
import itertools
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Receive, Scope, Send

from modelshare.server.front.websocket import MESSAGES, WebSocket
from modelshare.server.settings import Settings
from modelshare.wire.link import LINK_PATH, MAX_DESIRED, MAX_FRAME
from served import fronted

pytestmark = pytest.mark.anyio
HANDSHAKE = (
    f"GET {LINK_PATH} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()
TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


async def echo(_: Scope, receive: Receive, send: Send) -> None:
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        data = message.get("bytes") or message["text"].encode()
        if data == b"close":
            await send({"type": "websocket.close", "code": 4400, "reason": "enough"})
        else:
            await send({"type": "websocket.send", "bytes": data})


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, masked: bool = True) -> bytes:
    """With a mask of zeros."""
    size, mask = len(data), 0x80 if masked else 0
    if size < 126:
        length = struct.pack("!B", mask | size)
    else:
        length = struct.pack("!BH", mask | 126, size) if size < 1 << 16 else struct.pack("!BQ", mask | 127, size)
    return bytes([(0x80 if fin else 0) | opcode]) + length + (bytes(4) if masked else b"") + data


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def take(self) -> tuple[int, bytes]:
        """The next frame: opcode and data."""
        async with asyncio.timeout(60):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0xF, await self.reader.readexactly(size)

    async def ask(self, *frames: bytes) -> tuple[int, bytes]:
        self.writer.write(b"".join(frames))
        return await self.take()

    async def is_closed(self, code: int) -> None:
        opcode, data = await self.take()
        assert (opcode, *struct.unpack("!H", data[:2])) == (CLOSE, code)
        async with asyncio.timeout(60):
            assert await self.reader.read() == b""


async def connect(url: str) -> Peer:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(HANDSHAKE)
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return Peer(reader, writer)


class Collector:
    """A listener that takes the WebSocket over and answers every message, in the callback."""

    def __init__(self, wire: WebSocket) -> None:
        self.wire = wire
        self.closed_with: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def message(self, data: bytes) -> int:
        self.wire.post(data)
        return 1

    def writable(self) -> None:
        pass

    def closed(self, code: int) -> None:
        if not self.closed_with.done():
            self.closed_with.set_result(code)


async def echo_in_callbacks(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    wire = scope["extensions"][MESSAGES]
    collector = Collector(wire)
    wire.listen(collector)
    await collector.closed_with


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with fronted(echo) as url:
        found = await connect(url)
        yield found
        found.writer.close()


async def test_messages(peer: Peer) -> None:
    assert await peer.ask(frame(BINARY, b"abc")) == (BINARY, b"abc")
    assert await peer.ask(frame(TEXT, "ä".encode())) == (BINARY, "ä".encode())
    assert await peer.ask(frame(PING, b"x" * 125)) == (PONG, b"x" * 125)
    pieces = frame(BINARY, b"a", fin=False), frame(PING), frame(CONT, b"b", fin=False), frame(CONT, b"c")
    assert await peer.ask(*pieces) == (PONG, b"")
    assert await peer.take() == (BINARY, b"abc")
    assert await peer.ask(frame(BINARY, bytes(MAX_FRAME))) == (BINARY, bytes(MAX_FRAME))


async def test_a_goodbye_is_said_back(peer: Peer) -> None:
    peer.writer.write(frame(CLOSE, struct.pack("!H", 1000)))
    await peer.is_closed(1000)


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (frame(BINARY, b"abc", masked=False), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, fin=False), 1002),
        (frame(CONT, b"a"), 1002),
        (frame(BINARY, b"a", fin=False) + frame(BINARY, b"b"), 1002),
        (frame(3), 1002),
        (bytes([0x80 | 0x40 | BINARY, 0x80, 0, 0, 0, 0]), 1002),
        (frame(CLOSE, b"x"), 1002),
        (frame(BINARY, bytes(2 * MAX_FRAME + 1)), 1009),
        (frame(BINARY, bytes(MAX_FRAME + 1), fin=False) + frame(CONT, bytes(MAX_FRAME)), 1009),
    ],
)
async def test_what_is_no_frame(peer: Peer, broken: bytes, code: int) -> None:
    """The peer hears why, whatever more it sends."""
    peer.writer.write(broken + frame(BINARY, bytes(MAX_FRAME)))
    await peer.is_closed(code)


async def test_a_goodbye_reaches_a_peer_that_still_sends(peer: Peer) -> None:
    peer.writer.write(frame(TEXT, b"close") + frame(BINARY, bytes(1 << 16)) * 20)
    opcode, data = await peer.take()
    assert (opcode, data[2:]) == (CLOSE, b"enough")
    peer.writer.write(frame(BINARY, b"late") + frame(CLOSE, data[:2]))
    async with asyncio.timeout(60):
        assert await peer.reader.read() == b""


async def test_stopping_closes_what_is_open(peer: Peer) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(fronted(echo, Settings(connections_stop_seconds=0.1)))
        polite, silent = await connect(url), await connect(url)
        ending = asyncio.create_task(stack.aclose())
        assert await polite.take() == (CLOSE, struct.pack("!H", 1001) + b"The server is restarting.")
        polite.writer.write(frame(CLOSE, struct.pack("!H", 1001)))
        await silent.is_closed(1001)
        await ending
    for each in (polite, silent):
        each.writer.close()


MASK = bytes(4)
UNFINISHED, FINISH = b"\x02\x81" + MASK + b"x", b"\x80\x83" + MASK + b"end"
GOODBYE = b"\x88\x02" + (1000).to_bytes(2, "big")
MANY = 12_000
FLOODS = {
    "pings": UNFINISHED + (b"\x89\x80" + MASK) * MANY + FINISH,
    "pongs": UNFINISHED + (b"\x8a\x80" + MASK) * MANY + FINISH,
    "parts": UNFINISHED + (b"\x00\x80" + MASK) * MANY + FINISH,
    "frames": (b"\x82\x81" + MASK + b"x") * MANY + UNFINISHED + FINISH,
}


def saying(number: int, size: int) -> ASGIApp:
    """An application that sends so many messages of this size, all at once, as if each were another request's."""

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.gather(*[send({"type": "websocket.send", "bytes": bytes(size)}) for _ in range(number)])
        await send({"type": "websocket.close", "code": 1000})

    return app


@pytest.mark.parametrize(("number", "size"), [(1, MAX_DESIRED), (100, 256 << 10)])
async def test_whatever_the_application_sends_arrives(number: int, size: int) -> None:
    async with (
        fronted(saying(number, size)) as url,
        aiohttp.ClientSession() as http,
        http.ws_connect(url + LINK_PATH, max_msg_size=MAX_DESIRED + 1) as link,
    ):
        received = [len(message.data) async for message in link]
        assert link.close_code == 1000
    assert received == [size] * number


async def until_the_end(_: Scope, receive: Receive, send: Send) -> None:
    """An application that closes the link when it hears of the end."""
    await receive()
    await send({"type": "websocket.accept"})
    while not (await receive()).get("bytes", b"").endswith(b"end"):
        pass
    await send({"type": "websocket.close", "code": 1000})


MESSAGES_IN_FRAMES: list[tuple[bytes, list[tuple[int, bytes]]]] = [
    (frame(BINARY, b""), [(BINARY, b"")]),
    (frame(BINARY, b"a" * 125), [(BINARY, b"a" * 125)]),
    (frame(BINARY, b"b" * 126), [(BINARY, b"b" * 126)]),
    (frame(BINARY, b"c" * 70_000), [(BINARY, b"c" * 70_000)]),
    (frame(PING, b"?"), [(PONG, b"?")]),
    (frame(BINARY, b"d", fin=False) + frame(CONT, b"e"), [(BINARY, b"de")]),
    (frame(BINARY, b"f", fin=False) + frame(PING) + frame(CONT, b"g"), [(PONG, b""), (BINARY, b"fg")]),
]


@given(st.lists(st.sampled_from(MESSAGES_IN_FRAMES), max_size=8), st.lists(st.integers(0, 80_000), max_size=12))
@settings(max_examples=25, deadline=None)
def test_messages_are_the_same_however_their_bytes_are_cut(
    messages: list[tuple[bytes, list[tuple[int, bytes]]]], cuts: list[int]
) -> None:
    data = b"".join(sent for sent, _ in messages)

    async def run() -> None:
        async with fronted(echo_in_callbacks) as url:
            peer = await connect(url)
            for start, end in itertools.pairwise([0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]):
                peer.writer.write(data[start:end])
                await peer.writer.drain()
                await asyncio.sleep(0)
            for expected in (each for _, answers in messages for each in answers):
                assert await peer.take() == expected
            peer.writer.close()

    asyncio.run(run())


@pytest.mark.parametrize("flood", FLOODS)
async def test_frames_without_number_are_held_to_a_rate(flood: str) -> None:
    async with fronted(until_the_end) as url:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        began = time.monotonic()
        writer.write(FLOODS[flood])
        async with asyncio.timeout(60):
            while not (said := await reader.read(1 << 16)).endswith(GOODBYE):
                assert said
        took = time.monotonic() - began
        writer.write(b"\x88\x82" + MASK + GOODBYE[2:])
        assert await reader.read() == b""
        writer.close()
    assert took > 0.4, "there was time for everybody else"
