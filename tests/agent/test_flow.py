"""Many streams at once, and clients that do not read theirs."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.raw_engine import OK, Answer, Engine, running
from agent.support import Outgoing, relayed, wait_until
from modelshare.agent import relay as relay_module
from modelshare.agent.deployment import Serving
from modelshare.agent.engine_pool import EnginePool
from modelshare.agent.engines.base import EngineOptions, EngineSpec, ExternalServer, Format, Task
from modelshare.agent.engines.external import ExternalEngine
from modelshare.agent.relay import EngineRelay
from modelshare.agent.streams import Stream
from modelshare.wire.link import BODY_SLICE, Chunk, End, Frame, Head, Request
from modelshare.wire.link import Answer as WholeAnswer

pytestmark = pytest.mark.anyio

STREAMS = 1000
WORDS = 5
SPEC = EngineSpec(path=Path(), served_name="acme/tiny", format=Format.GGUF, task=Task.CHAT, context_length=2048)


def request(
    number: int, *, credit: int = 1 << 20, tenant: str = "a", timeout: float = 60, stream: bool = True, choices: int = 1
) -> Request:
    messages = [{"role": "user", "content": str(number)}]
    body = json.dumps({"messages": messages, "stream": stream, "n": choices}).encode()
    return Request(number, "dep", "chat/completions", body, False, timeout, credit, tenant)


def event(text: str) -> bytes:
    piece = {"id": "c", "model": "/abs/path", "secret": 1, "choices": [{"index": 0, "delta": {"content": text}}]}
    data = b"data: %b\n\n" % json.dumps(piece).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
BEGIN = OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@asynccontextmanager
async def relaying(answer: Answer, parallel: int) -> AsyncIterator[tuple[EngineRelay, ExternalEngine]]:
    async with running(Engine(answer)) as served, EnginePool() as pool:
        spec = replace(SPEC, options=EngineOptions(parallel=parallel))
        engine = ExternalEngine(ExternalServer(served.url), spec)
        yield EngineRelay(pool, lambda _: Serving(engine, engine.relay_for("acme/tiny"))), engine


async def test_a_thousand_streams_get_what_is_theirs() -> None:
    async def answer(engine: Engine, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = json.loads(engine.requests[-1].partition(b"\r\n\r\n")[2])["messages"][0]["content"]
        writer.write(BEGIN)
        for word in range(WORDS):
            writer.write(event(f"{number}-{word} "))
            await asyncio.sleep(0)
        writer.write(DONE)

    async def read(relay: EngineRelay, number: int) -> list[Frame]:
        return [frame async for frame in relayed(relay, request(number))]

    async with relaying(answer, STREAMS) as (relay, engine):
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(read(relay, number) for number in range(STREAMS)))
        assert engine.activity.running == 0
    for number, (head, *chunks, end) in enumerate(answers):
        assert isinstance(head, Head)
        assert isinstance(end, End)
        assert (end.error, end.completion_tokens >= WORDS) == (None, True)
        streamed = b"".join(chunk.data for chunk in chunks if isinstance(chunk, Chunk))
        *events, done, rest = streamed.split(b"\n\n")
        assert (done, rest) == (b"data: [DONE]", b"")
        pieces = [json.loads(one.removeprefix(b"data: ")) for one in events]
        assert {piece["model"] for piece in pieces} == {"acme/tiny"}
        assert not any("secret" in piece for piece in pieces)
        texts = [piece["choices"][0]["delta"]["content"] for piece in pieces]
        assert texts == [f"{number}-{word} " for word in range(WORDS)]


async def test_sequences_are_streamed_side_by_side() -> None:
    all_began = asyncio.Event()

    async def answer(_: Engine, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BEGIN + event("first"))
        await all_began.wait()
        writer.write(event("last") + DONE)

    async with relaying(answer, 4) as (relay, engine), asyncio.timeout(60):
        streamed = b""
        async for frame in relayed(relay, request(1, choices=4)):
            streamed += frame.data if isinstance(frame, Chunk) else b""
            if streamed.count(b"first") == 4:
                all_began.set()
        *events, done, rest = streamed.split(b"\n\n")
        choices = [json.loads(one.removeprefix(b"data: "))["choices"][0] for one in events]
        assert (done, rest) == (b"data: [DONE]", b"")
        assert (
            {choice["index"] for choice in choices[:4]} == {choice["index"] for choice in choices[4:]} == {0, 1, 2, 3}
        )
        assert engine.activity.running == 0


async def endless(_: Engine, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(BEGIN)
    while True:
        writer.write(event("x" * 50_000))
        await writer.drain()


async def test_a_client_that_reads_nothing_leaves_its_slot_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "_STALLED_SECONDS", 0.01)
    async with relaying(endless, 1) as (relay, engine):
        outgoing, over = Outgoing(), asyncio.Event()
        stuck = Stream(request(1, credit=10), outgoing, lambda _: over.set())
        relay.serve(stuck)
        await wait_until(lambda: stuck.waiting_bytes >= 1 << 20)
        assert stuck.waiting_bytes < 4 << 20, "the engine is held up"
        other = Stream(request(2, tenant="b"), Outgoing())
        relay.serve(other)
        await wait_until(lambda: not engine.turns.waiting)
        assert not over.is_set(), "what it has not read yet comes first"
        stuck.credit(1 << 30)
        frames = frames_of(outgoing)
        last = frames[-1]
        assert isinstance(last, End)
        assert (last.status, last.completion_tokens > 0) == (408, True)
        other.close()
        assert engine.activity.running == 0


async def test_a_client_that_is_alone_may_read_as_slowly_as_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "_STALLED_SECONDS", 0.0)
    async with relaying(endless, 1) as (relay, _):
        outgoing = Outgoing()
        stream = Stream(request(1, credit=10), outgoing)
        relay.serve(stream)
        for _ in range(3):
            await wait_until(lambda: stream.waiting_bytes >= 1 << 20)
            stream.credit(stream.waiting_bytes)
        stream.close()
        chunks = [frame for frame in frames_of(outgoing) if isinstance(frame, Chunk)]
        assert len(b"".join(chunk.data for chunk in chunks)) >= 3 << 20
        assert max(len(chunk.data) for chunk in chunks) <= BODY_SLICE


@pytest.mark.parametrize("credit", [0, 1 << 20])
async def test_a_stream_out_of_time_ends_at_once_with_what_was_counted(credit: int) -> None:
    async def answer(_: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BEGIN + event("one ") + event("two "))
        await reader.read()

    async with relaying(answer, 1) as (relay, engine):
        outgoing, over = Outgoing(), asyncio.Event()
        relay.serve(Stream(request(1, credit=credit), outgoing, lambda _: over.set()))
        (exchange,) = relay._open
        sequences = exchange._sequences
        assert sequences is not None
        await wait_until(lambda: sequences.count.usage.completion_tokens == 2)
        exchange._deadline = 0.0
        await asyncio.wait_for(over.wait(), 60)
        end = frames_of(outgoing)[-1]
        assert isinstance(end, End)
        assert (end.status, end.completion_tokens) == (504, 2)
        assert (engine.activity.running, engine.turns.waiting) == (0, 0)


async def test_a_whole_answer_out_of_time_is_an_error() -> None:
    async def answer(_: Engine, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await reader.read()

    async with relaying(answer, 1) as (relay, _):
        (frame,) = [frame async for frame in relayed(relay, request(1, timeout=0.1, stream=False))]
        assert isinstance(frame, WholeAnswer)
        assert frame.status == 504


async def test_a_cancelled_request_frees_its_slot_and_closes_its_connection() -> None:
    async with relaying(endless, 1) as (relay, engine):
        frames: AsyncGenerator[Frame, None] = relayed(relay, request(1))
        assert isinstance(await anext(frames), Head)
        await frames.aclose()
        assert engine.activity.running == 0
        assert [slot.number for slot in engine.turns._free] == [0]


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("stream", [True, False])
async def test_after_a_sequence_has_failed_none_of_its_request_begins(slots: int, *, stream: bool) -> None:
    refusal = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}"

    async def answer(_: Engine, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(refusal)

    async with relaying(answer, slots) as (relay, engine):
        (frame,) = [frame async for frame in relayed(relay, request(1, stream=stream, choices=20))]
        assert isinstance(frame, WholeAnswer)
        assert frame.status == 400
        assert (engine.activity.running, engine.turns.waiting, engine.turns._running) == (0, 0, {})
        assert next(engine.turns._count) == slots + 1, "the number of the next turn"


def frames_of(outgoing: Outgoing) -> list[Frame | None]:
    return [outgoing.frames.get_nowait() for _ in range(outgoing.frames.qsize())]
