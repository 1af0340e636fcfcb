"""A WebSocket: an application that says much to a peer that takes it slowly, and a peer that says much."""

import asyncio
import time
from urllib.parse import urlsplit

import aiohttp
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from modelshare.wire.link import LINK_PATH, MAX_DESIRED
from served import fronted

pytestmark = pytest.mark.anyio
HANDSHAKE = (
    f"GET {LINK_PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
).encode()
MASK = bytes(4)
UNFINISHED, FINISH = b"\x02\x81" + MASK + b"x", b"\x80\x83" + MASK + b"end"
CLOSE = b"\x88\x02" + (1000).to_bytes(2, "big")
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
            while not (said := await reader.read(1 << 16)).endswith(CLOSE):
                assert said
        took = time.monotonic() - began
        writer.write(b"\x88\x82" + MASK + CLOSE[2:])
        assert await reader.read() == b""
        writer.close()
    assert took > 0.4, "there was time for everybody else"
