"""A server that somebody else runs: here, llama.cpp under its own name for the model."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent.engines.conftest import Started, gguf_spec
from agent.engines.relay import HELLO, PUBLIC_NAME, ask, said, stream
from agent.support import serving, wait_until
from modelshare.agent.engines import llamacpp
from modelshare.agent.engines.base import Engine, EngineError, EngineSpec, ExternalServer
from modelshare.agent.engines.external import ExternalEngine
from modelshare.agent.engines.sharing import PromptCache
from modelshare.agent.engines.supervisor import ProcessEngine
from modelshare.agent.engines.watch import Timing
from modelshare.demo.tiny_model import REPLY

pytestmark = pytest.mark.anyio

QUICK = Timing(watch=0.05, strikes=2, probe_timeout=5.0)


@pytest.fixture
def spec(chat_gguf: Path) -> EngineSpec:
    return gguf_spec(chat_gguf)


@pytest.fixture
async def server(chat_engine: Engine) -> ExternalServer:
    key = chat_engine.headers["Authorization"].removeprefix("Bearer ")
    return ExternalServer(base_url=chat_engine.base_url, api_key=key, model="llama3:8b")


async def test_serves_under_the_public_name(server: ExternalServer, spec: EngineSpec, started: Started) -> None:
    engine = await started(ExternalEngine(server, spec))

    assert (await ask(engine, **HELLO))[0]["model"] == PUBLIC_NAME
    assert said(b"".join([piece async for piece in stream(engine, [], **HELLO)])) == REPLY


async def test_a_wrong_key_is_told(server: ExternalServer, spec: EngineSpec) -> None:
    with pytest.raises(EngineError, match=r"is not responding. Start the server, or correct its URL or key"):
        await ExternalEngine(ExternalServer(server.base_url, "wrong"), spec).start()


async def test_the_servers_end_is_noticed(spec: EngineSpec, state_dir: Path, started: Started) -> None:
    process = ProcessEngine(llamacpp.recipe(spec), state_dir)
    await process.start()
    key = process.headers["Authorization"].removeprefix("Bearer ")
    engine = await started(ExternalEngine(ExternalServer(process.base_url, key), spec, timing=QUICK))
    died = asyncio.create_task(engine.died())

    await process.stop()

    assert "is no longer responding" in await asyncio.wait_for(died, 60)


class Server:
    """Answers chats until it is `stuck`; refuses `cache_salt` where it is `strict`."""

    def __init__(self) -> None:
        self.url = ""
        self.stuck = False
        self.strict = False
        self.asked: list[dict[str, Any]] = []

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": []})

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        if self.stuck:
            await asyncio.Event().wait()
        if self.strict and "cache_salt" in body:
            return web.json_response({"error": {"message": "Unrecognized request argument"}}, status=400)
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
        return web.json_response({"choices": [{"message": {"content": "Yes."}}], "usage": usage})


@pytest.fixture
async def other() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/v1/models", server.models)
    app.router.add_post("/v1/chat/completions", server.chat)
    async with serving(app) as server.url:
        yield server


async def test_a_server_that_takes_requests_and_answers_none_is_noticed(
    other: Server, spec: EngineSpec, started: Started
) -> None:
    timing = Timing(watch=0.05, strikes=2, silent=120)
    engine = ExternalEngine(ExternalServer(other.url), spec, timing=timing)
    await started(engine)
    died = asyncio.create_task(engine.died())
    with engine.activity.asking(0):
        asked = len(other.asked)
        for _ in range(3):
            engine.activity._asked_since -= 1000
            await wait_until(lambda: engine.activity.silence < 500)
        assert len(other.asked) == asked + 3
        assert not died.done(), "it is asked, and answers"
        died.cancel()
        engine._patient = replace(engine._patient, silent=0.1)
        other.stuck = True
        assert "accepts requests but never answers them" in await asyncio.wait_for(engine.died(), 60)


@pytest.mark.parametrize("strict", [False, True])
async def test_a_servers_cache_is_salted_where_it_can_be(
    other: Server, spec: EngineSpec, started: Started, *, strict: bool
) -> None:
    other.strict = strict
    engine = await started(ExternalEngine(ExternalServer(other.url), spec))
    assert [("cache_salt" in body) for body in other.asked] == ([True, False] if strict else [True])
    assert engine.sharing.cache is (PromptCache.NONE if strict else PromptCache.SALTED)


async def test_what_its_cache_holds_is_not_told(other: Server, spec: EngineSpec, started: Started) -> None:
    answer, _ = await ask(await started(ExternalEngine(ExternalServer(other.url), spec)), **HELLO)
    assert "cached_tokens" not in json.dumps(answer)
