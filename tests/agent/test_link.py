"""The link against a real WebSocket server: frames both ways, credit, cancelling, heartbeats, the way back."""

import asyncio

import msgspec
import pytest

from agent.peer import TOKEN, Peer, Recorder, linked
from agent.support import wait_until
from link_recording import FROM_SERVER
from modelshare.agent import link as agent_link
from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.errors import RemovedError, StopError, UnknownAgentError
from modelshare.agent.link import RETRY_CAP, Link
from modelshare.agent.streams import Stream
from modelshare.wire.link import (
    BATCH_PROTOCOL,
    BODY_SLICE,
    MAX_FRAME,
    MAX_FRAMES,
    MAX_TEXT,
    MAX_TOKENS,
    OLDEST_PROTOCOL,
    Answer,
    Body,
    Cancel,
    Chunk,
    CloseCode,
    Credit,
    DeploymentLoad,
    Desired,
    End,
    Head,
    Hello,
    Ping,
    Released,
    Request,
)
from modelshare.wire.link_messages import BATCH_FRAMES
from modelshare.wire.verdict import Verdict

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
        assert all(isinstance(frame, Ping) for frame in peer.frames)
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


async def test_frames_of_one_round_share_messages(peer: Peer) -> None:
    count = 2 * BATCH_FRAMES + 1
    async with linked(peer, Recorder()) as link:
        await wait_until(lambda: link.post(Ping()))
        before = peer.messages
        for number in range(count):
            link.post(Released(str(number)))
        assert [(await peer.expect(Released)).deployment_id for _ in range(count)] == [str(one) for one in range(count)]
        assert peer.messages - before <= 4, "one may be the ping"


async def test_messages_do_not_become_too_large(peer: Peer) -> None:
    size = 5 * MAX_FRAME
    recorder = Recorder()
    recorder.serve = lambda stream: stream.answer(200, "text/plain", b"x" * size)  # type: ignore[method-assign]
    async with linked(peer, recorder):
        await peer.ask(b"", credit=size)
        await peer.expect(Head)
        await peer.expect(End)
    assert b"".join(frame.data for frame in peer.frames if isinstance(frame, Chunk)) == b"x" * size


async def test_a_message_with_several_frames_is_read_in_order(peer: Peer) -> None:
    asked = [Request(number, "dep_1", "completions", b"%d" % number, False, 9, 9) for number in range(MAX_FRAMES)]
    async with linked(peer, Recorder()):
        await peer.send(*asked)
        for number in range(MAX_FRAMES):
            assert (await peer.expect(Answer)).data == b"%d" % number


async def test_a_message_with_too_many_frames_ends_the_link(peer: Peer) -> None:
    async with linked(peer, Recorder()):
        first = peer.socket
        assert first is not None
        await peer.send(*[Ping()] * (MAX_FRAMES + 1))
        await wait_until(lambda: first.closed)
        assert first.close_code == CloseCode.PROTOCOL


async def test_a_server_of_the_version_before_gets_one_frame_a_message(peer: Peer) -> None:
    peer.protocol = BATCH_PROTOCOL - 1
    async with linked(peer, Recorder()) as link:
        await wait_until(lambda: link.post(Released("0")))
        for number in range(1, 10):
            link.post(Released(str(number)))
        for _ in range(10):
            await peer.expect(Released)
    assert peer.messages >= 11, "with the first frame, and maybe pings"


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
        await wait_until(lambda: len(recorder.received) == 1)
        assert peer.socket is not None
        await peer.socket.close(code=CloseCode.GOING_AWAY)
        await peer.expect(Hello)
        await peer.want(revision=2)
        await wait_until(lambda: recorder.received == [Desired(1, []), Desired(2, [])])
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


async def test_a_slot_that_becomes_free_is_told_at_once(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_link, "LOAD_SECONDS", 3600)
    busy = [DeploymentLoad("dep_1", slots=2, running=2, waiting=1)]
    async with linked(peer, Recorder(), loads=lambda: busy):
        assert (await peer.expect(Ping)).loads == busy
        busy = [DeploymentLoad("dep_1", slots=2, running=1, waiting=0)]
        assert (await peer.expect(Ping)).loads == busy


async def test_an_unreachable_server_is_tried_again(peer: Peer) -> None:
    peer.refuse_with = 502
    async with linked(peer, Recorder(), heartbeat=5):
        peer.refuse_with = None
        await peer.expect(Hello)


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 500, 503])
async def test_no_refused_handshake_is_final_by_itself(peer: Peer, status: int) -> None:
    peer.refuse_with = status
    recorder = Recorder()
    async with linked(peer, recorder, heartbeat=5):
        await wait_until(lambda: peer.refusals > 1)
        peer.refuse_with = None
        await peer.expect(Hello)
    assert bool(recorder.asked) == (status in {401, 403})


@pytest.mark.parametrize("code", [1000, 1002, 1011, 1013, *CloseCode, 4404, 4999])
async def test_no_close_is_final_by_itself(peer: Peer, code: int) -> None:
    recorder = Recorder()
    recorder.said = Verdict.KNOWN
    running = asyncio.create_task(Link(peer.url, TOKEN, recorder, retry_first=0.01, pauses={}).run())
    await peer.expect(Hello)
    assert peer.socket is not None
    await peer.socket.close(code=code, message=b"because")
    await peer.expect(Hello)
    running.cancel()
    await asyncio.wait([running])
    assert recorder.asked == (code == CloseCode.REMOVED)


@pytest.mark.parametrize("code", [CloseCode.SUSPENDED, CloseCode.PROTOCOL, CloseCode.REPLACED])
async def test_where_another_try_at_once_would_not_help_there_is_a_pause(
    peer: Peer, code: CloseCode, caplog: pytest.LogCaptureFixture
) -> None:
    async with linked(peer, Recorder()):
        assert peer.socket is not None
        await peer.socket.close(code=code, message=b"because")
        await wait_until(lambda: "because" in caplog.text)
        seconds = float(caplog.text.split("Reconnecting in ")[1].split(" s.")[0])
    assert 15 <= seconds <= 60


async def test_after_an_ordinary_loss_it_is_back_within_five_seconds() -> None:
    assert RETRY_CAP == 5


async def test_another_protocol_is_tried_again_later(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    peer.protocol = 99
    async with linked(peer, Recorder()):
        await wait_until(lambda: "version 99" in caplog.text)
        assert "this agent is too old" in caplog.text
        assert "Update whichever is older" in caplog.text


async def test_a_server_that_is_too_old_is_named(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    peer.protocol = OLDEST_PROTOCOL - 1
    async with linked(peer, Recorder()):
        await wait_until(lambda: "the server is too old" in caplog.text)


async def test_a_server_of_the_version_before_is_served(peer: Peer) -> None:
    """By the bytes that it sent then; what it does not say of requests and deployments is as it was."""
    peer.protocol = OLDEST_PROTOCOL
    recorder = Recorder()
    async with linked(peer, recorder):
        assert peer.socket is not None
        await wait_until(lambda: bool(recorder.welcomes))
        await peer.socket.send_bytes(msgspec.msgpack.encode(["weather", 1]))
        for frame in FROM_SERVER:
            await peer.socket.send_bytes(frame)
        whole = await peer.expect(Answer, lambda answer: answer.stream == 8)
        assert whole.data == b'{"prompt":"Hi"}'
        assert [one.served_name for one in recorder.received[0].deployments] == ["acme/tiny"]
    assert peer.links == 1


@pytest.mark.parametrize(
    ("verdict", "error", "words"),
    [(Verdict.REMOVED, RemovedError, "was removed"), (Verdict.UNKNOWN, UnknownAgentError, "does not know this agent")],
)
@pytest.mark.parametrize("refused", [True, False])
async def test_what_the_platform_has_signed_is_final(
    peer: Peer, verdict: Verdict, error: type[StopError], words: str, *, refused: bool
) -> None:
    recorder = Recorder()
    recorder.said = verdict
    peer.refuse_with = 403 if refused else None
    running = asyncio.create_task(Link(peer.url, TOKEN, recorder, retry_first=0.01).run())
    if not refused:
        await peer.expect(Hello)
        assert peer.socket is not None
        await peer.socket.close(code=CloseCode.REMOVED, message=b"because")
    with pytest.raises(error, match=words):
        await asyncio.wait_for(running, 20)


async def test_a_frame_out_of_bounds_ends_the_link_with_the_reason(peer: Peer) -> None:
    async with linked(peer, Recorder()):
        first = peer.socket
        assert first is not None
        await first.send_bytes(msgspec.msgpack.encode(["credit", 1, -1]))
        await wait_until(lambda: first.closed)
        assert first.close_code == CloseCode.PROTOCOL


async def test_what_an_engine_says_is_brought_into_bounds(peer: Peer) -> None:
    recorder = Recorder()

    async def odd(stream: Stream) -> None:
        if stream.id == 1:
            stream.answer(999, "application/json", b"{}", TokenUsage(-1, 1 << 64))
        else:
            stream.head(0, "text/plain")
            stream.end(TokenUsage(1 << 40, -7), "a\n\0\u202e\ud800" + "b" * 1000)

    recorder.respond = odd
    async with linked(peer, recorder):
        await peer.ask(b"{}", stream=1)
        assert await peer.expect(Answer) == Answer(1, 502, "application/json", b"{}", 0, MAX_TOKENS)
        await peer.ask(b"{}", stream=2)
        assert (await peer.expect(Head)).status == 502
        end = await peer.expect(End)
        assert (end.prompt_tokens, end.completion_tokens) == (MAX_TOKENS, 0)
        assert end.error == "a    " + "b" * (MAX_TEXT - 5)
