"""A fleet of engines behind vllm-router, started as docs/engine-fleets.md says."""

import asyncio
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession, web

from agent.engines.conftest import Started, gguf_spec
from agent.engines.relay import HELLO, PUBLIC_NAME, ask, said, stream
from agent.support import serving
from modelshare.agent.engines.base import ExternalServer
from modelshare.agent.engines.external import ExternalEngine
from served import free_port

DOCUMENT = Path(__file__).parents[3] / "docs" / "engine-fleets.md"
PROGRAM = shutil.which("vllm-router", path=str(Path(sys.executable).parent))
pytestmark = [pytest.mark.anyio, pytest.mark.skipif(PROGRAM is None, reason="vllm-router is not installed")]


class FixedEngine:
    """Always gives the same answer."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked = 0
        self.app = web.Application()
        self.app.router.add_get("/health", self.health)
        self.app.router.add_get("/v1/models", self.models)
        self.app.router.add_post("/v1/chat/completions", self.chat)

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": PUBLIC_NAME, "object": "model"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked += 1
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        if not body.get("stream"):
            return web.json_response({"choices": [{"message": {"content": self.answer}}], "usage": usage})
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for choices in ([{"index": 0, "delta": {"content": self.answer}}], []):
            event = {"choices": choices, **({} if choices else {"usage": usage})}
            await answer.write(f"data: {web.json_response(event).text}\n\n".encode())
        await answer.write(b"data: [DONE]\n\n")
        return answer


@pytest.fixture
async def fleet() -> AsyncIterator[tuple[str, list[FixedEngine]]]:
    engines = [FixedEngine("Hello."), FixedEngine("Hello.")]
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(serving(engine.app)) for engine in engines]
        found = re.search(r"^(vllm-router .*) --worker-urls", DOCUMENT.read_text(), re.MULTILINE)
        assert found
        port, metrics = free_port(), free_port()
        words = shlex.split(found[1].replace("30000", str(port)).replace("cache_aware", "round_robin"))[1:]
        more = ("--worker-urls", *workers, "--prometheus-port", str(metrics), "--log-level", "warning")
        assert PROGRAM
        router = await asyncio.create_subprocess_exec(PROGRAM, *words, *more)
        try:
            await answers(f"http://127.0.0.1:{port}/v1/models")
            yield f"http://127.0.0.1:{port}/v1", engines
        finally:
            router.terminate()
            await router.wait()


async def answers(url: str) -> None:
    async with ClientSession() as http, asyncio.timeout(60):
        while True:
            try:
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return
            except ClientError:
                pass
            await asyncio.sleep(0.05)


async def test_an_agent_serves_from_all_engines_of_a_fleet(
    fleet: tuple[str, list[FixedEngine]], chat_gguf: Path, started: Started
) -> None:
    url, engines = fleet
    engine = await started(ExternalEngine(ExternalServer(url), gguf_spec(chat_gguf)))
    for _ in range(4):
        answer, _status = await ask(engine, **HELLO)
        assert answer["choices"][0]["message"]["content"] == "Hello."
        assert answer["model"] == PUBLIC_NAME
    assert said(b"".join([piece async for piece in stream(engine, [], **HELLO)])) == "Hello."
    assert all(each.asked for each in engines)
