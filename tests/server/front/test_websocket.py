"""A WebSocket before an application that says much, to a peer that takes it slowly."""

import asyncio

import aiohttp
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from modelshare.wire.link import LINK_PATH, MAX_DESIRED
from served import fronted

pytestmark = pytest.mark.anyio


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
