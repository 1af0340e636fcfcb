"""The relay against an engine of any kind: a real HTTP server that fails in every way engines fail."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from agent.agents import ask, read_stream
from agent.peer import Peer, Recorder, linked
from agent.support import serving, wait_until
from modelshare.agent.deployment import Serving
from modelshare.agent.engine_pool import EnginePool
from modelshare.agent.engines.base import EngineSpec, ExternalServer, Format, Task
from modelshare.agent.engines.external import ExternalEngine
from modelshare.agent.relay import EngineRelay
from modelshare.wire.link import BODY_SLICE, Answer, Cancel, Chunk, End, Head

pytestmark = pytest.mark.anyio

FAILED = "The engine failed on this request; try again, or change the request."
REFUSED = "The engine rejected this request. Compare its fields with the API documentation."
SAID = {"index": 0, "message": {"role": "assistant", "content": "Hi"}}
WHOLE = {"choices": [SAID], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def relayed(peer: Peer, respond: Respond) -> AsyncIterator[list[web.Request]]:
    """A link to the peer whose requests go to an engine that answers as `respond` does."""
    seen: list[web.Request] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        await request.read()
        return await respond(request)

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/{route:.+}", handle)
    async with serving(app) as url, EnginePool() as pool:
        spec = EngineSpec(path=None, served_name="acme/tiny", format=Format.GGUF, task=Task.CHAT)  # type: ignore[arg-type]
        engine = ExternalEngine(ExternalServer(url, api_key="secret"), spec)
        recorder = Recorder()
        recorder.serve = EngineRelay(pool, lambda _: Serving(engine, engine.relay_for("acme/tiny"))).serve  # type: ignore[method-assign]
        async with linked(peer, recorder):
            yield seen


def events(*data: str) -> bytes:
    return "".join(f"data: {one}\n\n" for one in data).encode()


async def stream_of(request: web.Request, *pieces: bytes) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for piece in pieces:
        await answer.write(piece)
    return answer


async def test_the_engine_is_asked_with_its_secret_and_its_own_words(peer: Peer) -> None:
    async def respond(request: web.Request) -> web.Response:
        return web.json_response(WHOLE | {"system_fingerprint": await request.text()})

    async with relayed(peer, respond) as seen:
        await peer.ask(ask(model="whatever", temperature=0.5))
        answer = await peer.expect(Answer)
    assert seen[0].headers["Authorization"] == "Bearer secret"
    assert seen[0].path == "/v1/chat/completions"
    got = json.loads(json.loads(answer.data)["system_fingerprint"])
    assert (got["model"], got["temperature"]) == ("acme/tiny", 0.5)
    assert (answer.prompt_tokens, answer.completion_tokens) == (5, 2)


async def test_a_stream_gets_its_end_and_the_public_name(peer: Peer) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        piece = events('{"model": "/abs/path", "choices": []}')
        return await stream_of(request, piece[:10], piece[10:])

    async with relayed(peer, respond):
        await peer.ask(ask(stream=True))
        streamed, end = await read_stream(peer)
    assert streamed.endswith(b"data: [DONE]\n\n")
    assert json.loads(streamed.splitlines()[0][6:])["model"] == "acme/tiny"
    assert end.error is None


async def test_a_stream_that_breaks_off_says_so_and_has_no_end_marker(peer: Peer) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        answer = await stream_of(request, events('{"choices": []}'))
        assert request.transport is not None
        request.transport.abort()
        return answer

    async with relayed(peer, respond):
        await peer.ask(ask(stream=True))
        streamed, end = await read_stream(peer)
    assert b"[DONE]" not in streamed
    assert end.error == "The engine aborted its answer. Try again."


async def test_a_big_answer_travels_in_slices(peer: Peer) -> None:
    text = "x" * (2 * BODY_SLICE)
    body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()

    async def respond(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async with relayed(peer, respond):
        await peer.ask(ask())
        await peer.expect(Head, lambda head: head.status == 200)
        await peer.expect(End)
    got = json.loads(b"".join(one.data for one in peer.frames if isinstance(one, Chunk)))
    assert got["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(
    ("status", "passed", "message"),
    [
        (400, 400, REFUSED),
        (422, 422, REFUSED),
        (500, 500, FAILED),
        (401, 502, FAILED),
        (404, 502, FAILED),
        (302, 502, FAILED),
    ],
)
async def test_an_error_keeps_its_status_where_it_is_about_the_request(
    peer: Peer, status: int, passed: int, message: str
) -> None:
    async def respond(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "wrong at /home/me"}}, status=status)

    async with relayed(peer, respond):
        await peer.ask(ask())
        answer = await peer.expect(Answer)
    assert answer.status == passed
    assert json.loads(answer.data)["error"]["message"] == message


async def test_a_kept_connection_that_the_engine_closes_is_no_error(peer: Peer) -> None:
    used: set[asyncio.Transport] = set()

    async def respond(request: web.Request) -> web.Response:
        assert request.transport is not None
        if request.transport in used:  # as if it had been closed while the request was on its way
            request.transport.abort()
        used.add(request.transport)
        return web.json_response(WHOLE)

    async with relayed(peer, respond) as seen:
        for stream in range(4):
            await peer.ask(ask(), stream=stream)
            assert (await peer.expect(Answer)).status == 200
    assert len(seen) > 4


async def test_all_kept_connections_may_be_closed(peer: Peer) -> None:
    used: set[asyncio.BaseTransport] = set()
    together = asyncio.Barrier(4)

    async def respond(request: web.Request) -> web.Response:
        assert request.transport is not None
        if request.transport in used:
            request.transport.abort()
        elif len(used) < together.parties:
            used.add(request.transport)
            await together.wait()
        return web.json_response(WHOLE)

    async with relayed(peer, respond):
        for stream in range(together.parties):
            await peer.ask(ask(), stream=stream)
        for _ in range(together.parties):
            assert (await peer.expect(Answer)).status == 200
        await peer.ask(ask(), stream=together.parties)
        assert (await peer.expect(Answer)).status == 200


async def test_an_engine_that_is_gone_is_loading(peer: Peer) -> None:
    spec = EngineSpec(path=None, served_name="x", format=Format.GGUF, task=Task.CHAT)  # type: ignore[arg-type]
    engine = ExternalEngine(ExternalServer("http://127.0.0.1:9"), spec)
    async with EnginePool() as pool:
        recorder = Recorder()
        recorder.serve = EngineRelay(pool, lambda _: Serving(engine, engine.relay_for("x"))).serve  # type: ignore[method-assign]
        async with linked(peer, recorder):
            await peer.ask(ask())
            answer = await peer.expect(Answer)
    error = json.loads(answer.data)["error"]
    assert (answer.status, error["code"], error["type"]) == (503, "model_loading", "server_error")


async def test_cancel_closes_the_connection_to_the_engine(peer: Peer) -> None:
    gone = asyncio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        try:
            answer = await stream_of(request, events('{"choices": []}'))
            await asyncio.Event().wait()
        finally:
            gone.set()
        return answer

    async with relayed(peer, respond):
        await peer.ask(ask(stream=True))
        await peer.expect(Chunk)
        await peer.send(Cancel(1))
        await asyncio.wait_for(gone.wait(), 60)


async def test_a_slow_reader_slows_the_engine_down(peer: Peer) -> None:
    written = 0

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal written
        answer = await stream_of(request)
        while written < 1000:
            await answer.write(events(json.dumps({"choices": [{"delta": {"content": "x" * 100_000}}]})))
            written += 1
        return answer

    def received() -> int:
        return sum(len(one.data) for one in peer.frames if isinstance(one, Chunk))

    async with relayed(peer, respond):
        await peer.ask(ask(stream=True), credit=200_000)
        await wait_until(lambda: received() == 200_000)
        async with asyncio.timeout(60):
            before = 0
            while before < written:  # until it is held up
                before = written
                await asyncio.sleep(1)
        assert (received(), written < 1000) == (200_000, True)
        await peer.send(Cancel(1))
