"""One link without a socket: what it sends, what it makes of silence, what its end does to streams."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from modelshare.server.fleet.link import ClosedError, Link, StreamBrokenError
from modelshare.wire.link import (
    BODY_SLICE,
    DEAD_AFTER_SECONDS,
    HEARTBEAT_SECONDS,
    INITIAL_CREDIT,
    Body,
    Cancel,
    Chunk,
    CloseCode,
    Credit,
    End,
    FromServer,
    Head,
    Ping,
    Request,
    decode_from_server,
    encode,
)

pytestmark = pytest.mark.anyio


class Peer:
    """The other end of the WebSocket, in memory, with the clock that the link goes by."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: asyncio.Queue[FromServer] = asyncio.Queue()
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.link = Link(self._inbox.get, self._send, lambda: self.now)
        self.end = asyncio.ensure_future(self.link.run(lambda _: None, lambda _: None))

    def say(self, *frames: Any) -> None:
        for frame in frames:
            self._inbox.put_nowait({"type": "websocket.receive", "bytes": encode(frame)})

    async def heard(self) -> FromServer:
        return await asyncio.wait_for(self.sent.get(), 5)

    async def _send(self, message: Any) -> None:
        self.sent.put_nowait(decode_from_server(message["bytes"]))


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    found = Peer()
    yield found
    found.end.cancel()
    await asyncio.gather(found.end, return_exceptions=True)


async def test_a_long_body_goes_in_slices(peer: Peer) -> None:
    body = bytes(BODY_SLICE) + b"rest"
    async with peer.link.request("d", "completions", body, 30):
        assert await peer.heard() == Request(1, "d", "completions", body[:BODY_SLICE], True, 30, INITIAL_CREDIT)
        assert await peer.heard() == Body(1, b"rest", more=False)


async def test_leaving_early_cancels_and_leaving_late_does_not(peer: Peer) -> None:
    async with peer.link.request("d", "completions", b"", 30):
        await peer.heard()
        assert peer.link.busy == 1
    assert await peer.heard() == Cancel(1)
    assert peer.link.busy == 0
    async with peer.link.request("d", "completions", b"", 30) as stream:
        await peer.heard()
        peer.say(Head(2, 200, "text/plain"), End(2))
        assert await stream.next() == Head(2, 200, "text/plain")
        assert await stream.next() == End(2)
    async with peer.link.request("d", "completions", b"", 30):
        assert isinstance(await peer.heard(), Request)  # no Cancel came before it


async def test_credit_comes_back_for_what_was_taken(peer: Peer) -> None:
    async with peer.link.request("d", "completions", b"", 30) as stream:
        await peer.heard()
        for _ in range(3):
            peer.say(Chunk(1, bytes(INITIAL_CREDIT // 8)))
            await stream.next()
            if not peer.sent.empty():
                break
        assert await peer.heard() == Credit(1, INITIAL_CREDIT // 4)


async def test_silence_is_answered_with_a_ping_and_then_with_the_end(peer: Peer) -> None:
    peer.now = HEARTBEAT_SECONDS
    assert await peer.heard() == Ping()
    async with peer.link.request("d", "completions", b"", 30) as stream:
        peer.now = DEAD_AFTER_SECONDS
        why = await asyncio.wait_for(peer.end, 5)
        assert why.code == CloseCode.SILENT
        with pytest.raises(StreamBrokenError):
            await stream.next()
    with pytest.raises(StreamBrokenError):
        async with peer.link.request("d", "completions", b"", 30):
            pass


async def test_frames_that_are_there_are_taken_before_the_break_shows(peer: Peer) -> None:
    async with peer.link.request("d", "completions", b"", 30) as stream:
        peer.say(Head(1, 200, "text/plain"), Ping())
        assert await stream.next() == Head(1, 200, "text/plain")
        peer.say(Chunk(1, b"last"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        peer.link.close(ClosedError(CloseCode.SUSPENDED, "Suspended."))
        assert await stream.next() == Chunk(1, b"last")
        with pytest.raises(StreamBrokenError):
            await stream.next()
    assert (await peer.end).code == CloseCode.SUSPENDED


async def test_a_side_task_that_fails_ends_the_link() -> None:
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send(message: Any) -> None:
        del message

    async def fails() -> None:
        raise OSError("the database is away")

    why = await Link(inbox.get, send, lambda: 0.0).run(lambda _: None, lambda _: None, fails())
    assert why.code == CloseCode.GOING_AWAY
