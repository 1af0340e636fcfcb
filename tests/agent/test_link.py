"""The link against a real WebSocket server: frames both ways, credit, cancelling, heartbeats, the way back."""

import asyncio

import pytest

from agent.peer import TOKEN, Peer, Recorder, linked
from agent.support import wait_until
from modelshare.agent.errors import Removed, Stop
from modelshare.agent.link import Link
from modelshare.agent.streams import Stream
from modelshare.wire.link import (
    BODY_SLICE,
    Answer,
    Body,
    Cancel,
    Chunk,
    CloseCode,
    Credit,
    Desired,
    End,
    Head,
    Hello,
    Ping,
    Released,
    Request,
)

pytestmark = pytest.mark.anyio


async def test_a_small_answer_is_one_frame(peer: Peer) -> None:
    async with linked(peer, Recorder()):
        await peer.ask(b"{}", stream=7)
        assert await peer.expect(Answer) == Answer(7, 200, "application/json", b"{}", 3, 4)


async def test_a_big_body_and_a_big_answer_travel_in_slices(peer: Peer) -> None:
    size = 2 * BODY_SLICE + 5
    async with linked(peer, Recorder()):
        await peer.send(Request(1, "dep_1", "completions", b"x" * BODY_SLICE, more=True, timeout=9, credit=10 * size))
        await peer.send(Body(1, b"x" * BODY_SLICE, more=True))
        await peer.send(Body(1, b"x" * 5, more=False))
        assert (await peer.expect(Head)).status == 200
        assert [len((await peer.expect(Chunk)).data) for _ in range(3)] == [BODY_SLICE, BODY_SLICE, 5]
        assert await peer.expect(End) == End(1, None, 3, 4)


async def test_a_stream_without_credit_waits_and_no_other_does(peer: Peer) -> None:
    async with linked(peer, Recorder()):
        await peer.ask(b"a" * 10, stream=1, credit=4)
        await peer.expect(Head)
        await peer.expect(Chunk, lambda chunk: chunk.data == b"aaaa")
        await peer.ask(b"b", stream=2)
        await peer.expect(Answer, lambda answer: answer.stream == 2)
        assert not peer.frames
        await peer.send(Credit(1, 100))
        await peer.expect(Chunk, lambda chunk: chunk.data == b"a" * 6)
        await peer.expect(End)


async def test_cancel_stops_the_work(peer: Peer) -> None:
    recorder = Recorder()
    started = asyncio.Event()

    async def for_ever(_: Stream) -> None:
        started.set()
        await asyncio.Event().wait()

    recorder.respond = for_ever
    async with linked(peer, recorder):
        await peer.ask(b"{}", stream=5)
        await started.wait()
        await peer.send(Cancel(5))
        await wait_until(lambda: recorder.cancelled == [5])


async def test_cancel_while_a_body_gathers_forgets_it(peer: Peer) -> None:
    async with linked(peer, Recorder()):
        await peer.send(Request(1, "dep_1", "completions", b"x", more=True, timeout=9, credit=9))
        await peer.send(Cancel(1))
        await peer.send(Body(1, b"y", more=False))
        await peer.ask(b"{}", stream=2)
        assert (await peer.expect(Answer)).stream == 2


async def test_a_cut_link_comes_back_and_ends_what_was_in_progress(peer: Peer) -> None:
    recorder = Recorder()
    recorder.respond = lambda _: asyncio.Event().wait()  # type: ignore[assignment,return-value]
    async with linked(peer, recorder):
        await peer.ask(b"{}", stream=5)
        await peer.want()
        await wait_until(lambda: len(recorder.wishes) == 1)
        assert peer.socket is not None
        await peer.socket.close(code=CloseCode.GOING_AWAY)
        await peer.expect(Hello)
        await peer.want(revision=2)
        await wait_until(lambda: recorder.wishes == [Desired(1, []), Desired(2, [])])
    assert recorder.cancelled == [5]
    assert peer.links == 2


async def test_frames_are_lost_only_while_there_is_no_link(peer: Peer) -> None:
    link = Link(peer.url, TOKEN, Recorder())
    assert not link.post(Released("dep_1"))
    async with linked(peer, Recorder()) as there:
        await wait_until(lambda: there.post(Released("dep_1")))
        await peer.expect(Released)


async def test_pings_go_out_and_a_silent_server_is_left(peer: Peer) -> None:
    async with linked(peer, Recorder(), heartbeat=0.02, dead_after=0.2):
        await peer.expect(Ping)
        await wait_until(lambda: peer.links >= 2)


async def test_an_unreachable_server_is_tried_again(peer: Peer) -> None:
    peer.refuse_with = 502
    async with linked(peer, Recorder(), heartbeat=5):
        peer.refuse_with = None
        await peer.expect(Hello)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_credential_ends_it(peer: Peer, status: int) -> None:
    peer.refuse_with = status
    with pytest.raises(Stop, match="does not know this agent"):
        await Link(peer.url, TOKEN, Recorder()).run()


async def test_another_protocol_ends_it(peer: Peer) -> None:
    peer.protocol = 99
    with pytest.raises(Stop, match="update this agent"):
        await Link(peer.url, TOKEN, Recorder()).run()


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (CloseCode.REMOVED, Removed, "was removed"),
        (CloseCode.REPLACED, Stop, "Another process"),
        (CloseCode.PROTOCOL, Stop, "Update this agent"),
    ],
)
async def test_final_close_codes_end_it(peer: Peer, code: CloseCode, error: type[Stop], words: str) -> None:
    running = asyncio.create_task(Link(peer.url, TOKEN, Recorder()).run())
    await peer.expect(Hello)
    assert peer.socket is not None
    await peer.socket.close(code=code, message=b"because")
    with pytest.raises(error, match=words):
        await running
