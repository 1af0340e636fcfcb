"""One link without a socket: what it sends, what it makes of silence, what its end does to streams."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelshare.server.fleet.link import LINK_CREDIT, SMALL_CREDIT, AgentLink
from modelshare.server.fleet.streams import ClosedError, Stream, StreamBrokenError
from modelshare.server.front.websocket import Listener
from modelshare.wire.agents import Phase
from modelshare.wire.link import (
    BATCH_PROTOCOL,
    BODY_SLICE,
    DEAD_AFTER_SECONDS,
    HEARTBEAT_SECONDS,
    INITIAL_CREDIT,
    MAX_STREAMS,
    PROTOCOL,
    Answer,
    Body,
    Cancel,
    Chunk,
    CloseCode,
    Credit,
    DeploymentLoad,
    End,
    FromServer,
    Head,
    Hello,
    Ping,
    Report,
    Request,
    encode,
)
from modelshare.wire.link_messages import BATCH_FRAMES, read_from_server

pytestmark = pytest.mark.anyio


class Peer:
    """The other end of the WebSocket, in memory, with the clock that the link goes by."""

    def __init__(self, protocol: int = PROTOCOL) -> None:
        self.now = 0.0
        self.messages = 0
        self.sent: asyncio.Queue[FromServer] = asyncio.Queue()
        self.is_blocked = self.is_closed = False
        self.link = AgentLink(self, protocol, lambda: self.now, dead_after=DEAD_AFTER_SECONDS)
        self.end = asyncio.ensure_future(self.link.run(lambda _: None, lambda _: None))

    def say(self, *frames: Any) -> None:
        for frame in frames:
            self.link.message(encode(frame))

    async def heard(self) -> FromServer:
        return await asyncio.wait_for(self.sent.get(), 60)

    # The WebSocket, as the link uses it.

    def listen(self, listener: Listener) -> None:
        assert isinstance(listener, AgentLink)

    def post(self, data: bytes) -> None:
        self.messages += 1
        for frame in read_from_server(data):
            self.sent.put_nowait(frame)

    async def drain(self) -> None:
        pass


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    found = Peer()
    await asyncio.sleep(0)  # until the link listens
    yield found
    found.end.cancel()
    await asyncio.gather(found.end, return_exceptions=True)


async def test_a_long_body_goes_in_slices(peer: Peer) -> None:
    body = bytes(BODY_SLICE) + b"rest"
    async with peer.link.request("d", "completions", body, 30):
        assert await peer.heard() == Request(1, "d", "completions", body[:BODY_SLICE], True, 30, INITIAL_CREDIT)
        assert await peer.heard() == Body(1, b"rest", more=False)


async def test_requests_wait_in_turns_while_the_agent_does_not_read(peer: Peer) -> None:
    peer.is_blocked = True
    body = bytes(2 * BODY_SLICE)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(peer.link.request("d", "completions", body, 30))
        async with peer.link.request("d", "completions", b"", 30):
            pass  # it is over before it was sent
        assert len(peer.link._unsent) == 2
        await asyncio.sleep(0)
        assert peer.sent.empty()
        peer.is_blocked = False
        peer.link.writable()
        kinds = [(type(frame), frame.stream) for frame in [await peer.heard() for _ in range(4)]]  # type: ignore[union-attr]
        assert kinds == [(Request, 1), (Request, 2), (Body, 1), (Body, 2)]
        assert peer.sent.empty()


async def test_frames_of_one_round_share_a_message_if_the_agent_knows_that() -> None:
    for protocol, messages in ((PROTOCOL, 3), (BATCH_PROTOCOL - 1, 2 * BATCH_FRAMES + 1)):
        peer = Peer(protocol)
        for _ in range(2 * BATCH_FRAMES + 1):
            peer.link.post(Ping())
        await asyncio.sleep(0)
        assert (peer.messages, peer.sent.qsize()) == (messages, 2 * BATCH_FRAMES + 1)
        peer.end.cancel()
        await asyncio.gather(peer.end, return_exceptions=True)


async def test_how_busy_an_engine_is_counts_what_others_ask_for(peer: Peer) -> None:
    assert not peer.link.loads.of("d").is_full
    peer.say(Ping(loads=[DeploymentLoad("d", 4, 3, 1), DeploymentLoad("e", 4, 1, 0)]))
    assert (peer.link.loads.of("d").is_full, peer.link.loads.of("e").is_full, peer.link.busy) == (True, False, 5)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(peer.link.request("d", "completions", b"", 30))
        assert peer.link.busy == 6
        peer.say(Ping())  # says nothing about them
        assert peer.link.busy == 6
        peer.say(Ping(loads=[DeploymentLoad("d", 4, 1, 0)]))  # which is the request above
        assert (peer.link.loads.of("d").elsewhere, peer.link.busy) == (0, 1)
        peer.say(Ping(loads=[]))
        assert (peer.link.loads.of("d").slots, peer.link.busy) == (0, 1)
    assert peer.link.busy == 0


async def test_a_request_counts_as_its_sequences(peer: Peer) -> None:
    peer.say(Ping(loads=[DeploymentLoad("d", 4, 0, 0)]))
    request = peer.link.ask(Stream(), "d", "completions", b"", timeout=30, sequences=4)
    assert peer.link.loads.of("d").is_full
    request.close()
    assert (peer.link.loads.of("d").is_full, peer.link.busy) == (False, 0)


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
        peer.say(Head(1, 200, "text/plain"))
        await stream.next()
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
        why = await asyncio.wait_for(peer.end, 60)
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
    async def fails() -> None:
        raise OSError("the database is away")

    why = await AgentLink(Peer(), PROTOCOL, lambda: 0.0).run(lambda _: None, lambda _: None, fails())
    assert why.code == CloseCode.GOING_AWAY


HEAD = Head(1, 200, "text/event-stream")
ANSWER = Answer(1, 200, "application/json", b"{}")


@pytest.mark.parametrize(
    "frames",
    [
        [HEAD, HEAD],
        [Chunk(1, b"x")],
        [HEAD, ANSWER],
        [ANSWER, ANSWER],
        [ANSWER, End(1)],
        [HEAD, End(1), End(1)],
        [HEAD, End(1), Chunk(1, b"x")],
        [Hello(PROTOCOL, "1", [], "cpu", 0, 0)],
        [HEAD, *[Chunk(1, bytes(BODY_SLICE))] * 5],
    ],
)
async def test_what_is_out_of_turn_or_too_much_ends_the_link_and_the_answer(peer: Peer, frames: list[Any]) -> None:
    async with peer.link.request("d", "completions", b"", 30) as stream:
        peer.say(*frames)
        assert (await asyncio.wait_for(peer.end, 60)).code == CloseCode.PROTOCOL
        last = await stream.next()
        while isinstance(last, Head | Chunk):
            last = await stream.next()
        assert last in {ANSWER, End(1)} or (isinstance(last, End) and last.error)


@given(st.lists(st.integers(1, BODY_SLICE), max_size=40))
@settings(max_examples=20, deadline=None)
def test_chunks_that_nobody_takes_are_joined_and_none_is_lost(sizes: list[int]) -> None:
    async def run() -> None:
        peer = Peer()
        await asyncio.sleep(0)
        async with peer.link.request("d", "completions", b"", 30) as stream:
            chunks, left = [], INITIAL_CREDIT
            for number, size in enumerate(sizes):
                if size <= left:
                    left -= size
                    chunks.append(bytes([number]) * size)
            peer.say(HEAD, *(Chunk(1, data) for data in chunks), End(1))
            assert len(stream._frames) <= 2 + 1 + 2 * INITIAL_CREDIT // BODY_SLICE
            assert await stream.next() == HEAD
            got = b""
            while isinstance(frame := await stream.next(), Chunk):
                assert (frame.stream, len(frame.data) <= BODY_SLICE) == (1, True)
                got += frame.data
            assert got == b"".join(chunks)
        peer.end.cancel()
        await asyncio.gather(peer.end, return_exceptions=True)

    asyncio.run(run())


async def test_a_link_keeps_no_more_than_it_says_however_many_streams_it_has(peer: Peer) -> None:
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(peer.link.request("d", "completions", b"", 30)) for _ in range(MAX_STREAMS)
        ]
        assert {stream.request.window for stream in streams[:20]} == {INITIAL_CREDIT}
        assert streams[-1].request.window == SMALL_CREDIT
        assert sum(stream.request.window for stream in streams) <= LINK_CREDIT + MAX_STREAMS * SMALL_CREDIT
        with pytest.raises(StreamBrokenError):
            await stack.enter_async_context(peer.link.request("d", "completions", b"", 30))
    async with peer.link.request("d", "completions", b"", 30) as stream:
        assert stream.request.window == INITIAL_CREDIT


async def test_frames_of_a_stream_that_was_cancelled_are_late_and_end_the_link_when_they_do_not_end(peer: Peer) -> None:
    async with peer.link.request("d", "completions", b"", 30):
        await peer.heard()
    assert await peer.heard() == Cancel(1)
    peer.say(HEAD, *[Chunk(1, bytes(BODY_SLICE))] * 4, End(1))
    async with peer.link.request("d", "completions", b"", 30) as stream:
        peer.say(Answer(2, 200, "text/plain", b""))
        await stream.next()
    peer.say(*[Chunk(1, bytes(BODY_SLICE))] * 5)
    assert (await asyncio.wait_for(peer.end, 60)).code == CloseCode.PROTOCOL


async def test_reports_have_a_rate_and_what_is_asked_for_comes_on_top(peer: Peer) -> None:
    report = Report("d", Phase.PULLING, 0, 1)
    peer.link.expect(5000)
    peer.say(*[report] * 5900)
    async with peer.link.request("d", "completions", b"", 30) as stream:
        peer.say(ANSWER)
        assert await stream.next() == ANSWER
    peer.say(*[Ping()] * 200)
    assert (await asyncio.wait_for(peer.end, 60)).code == CloseCode.PROTOCOL
