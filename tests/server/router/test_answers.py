"""What comes of answers that cannot be believed: of an odd engine behind the agent's own relay, and of an agent."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from agent.support import relayed, serving
from conftest import ON_SQLITE
from link_agent import LinkAgent, answer
from modelshare.agent.deployment import Serving
from modelshare.agent.engine_pool import EnginePool
from modelshare.agent.engines.base import EngineSpec, ExternalServer, Format, Task
from modelshare.agent.engines.external import ExternalEngine
from modelshare.agent.relay import EngineRelay
from modelshare.wire.link import Answer, Chunk, End, Head, Request
from odd_engine import SECRET, TEXT, application
from server.router.conftest import Endpoint
from server.router.test_usage import usage

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app"), ON_SQLITE]
FAILED = "The engine failed on this request; try again, or change the request."
DONE = b"data: [DONE]\n\n"


@pytest.fixture
async def odd(ready: LinkAgent) -> AsyncIterator[LinkAgent]:
    """The machine, with an engine that does what it is asked to."""
    async with serving(application()) as url, EnginePool() as pool:
        spec = EngineSpec(path=Path(), served_name="acme/tiny", format=Format.GGUF, task=Task.CHAT)
        engine = ExternalEngine(ExternalServer(url), spec)
        relay = EngineRelay(pool, lambda _: Serving(engine, engine.relay_for("acme/tiny")))

        async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
            async for frame in relayed(relay, request, body):
                await agent.send(frame)  # type: ignore[arg-type]

        ready.handler = serve
        yield ready


@pytest.fixture
async def client(endpoint: Endpoint) -> AsyncIterator[openai.AsyncOpenAI]:
    key = endpoint.tenant.project.api_key
    async with openai.AsyncOpenAI(base_url=endpoint.base_url, api_key=key, max_retries=0) as client:
        yield client


def say(name: str) -> list[Any]:
    return [{"role": "user", "content": name}]


async def test_an_odd_engines_answers_are_counted_and_its_failures_told(
    endpoint: Endpoint, odd: LinkAgent, client: openai.AsyncOpenAI
) -> None:
    chats = client.chat.completions

    async def streamed(name: str) -> tuple[str, Any]:
        text, told = "", None
        options: Any = {"include_usage": True}
        async for chunk in await chats.create(model="m", messages=say(name), stream=True, stream_options=options):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            told = chunk.usage
        return text.strip(), told

    assert (await streamed("open"))[0] == TEXT
    (row,) = await usage(endpoint.tenant, 1)
    assert (row["prompt_tokens"], row["completion_tokens"], row["estimated"], row["errors"]) == (11, 7, False, 0)

    text, told = await streamed("usage-none")
    assert text == TEXT
    (row,) = await usage(endpoint.tenant, 2)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (11 + told.prompt_tokens, 7 + told.completion_tokens)
    assert told.completion_tokens >= 5
    assert row["estimated"] is True

    with pytest.raises(openai.APIError, match="The engine failed on this request") as broken:
        await streamed("error-event")
    assert broken.value.type == "server_error"
    (row,) = await usage(endpoint.tenant, 3)
    assert row["errors"] == 1
    assert row["completion_tokens"] >= 7 + told.completion_tokens + 5

    with pytest.raises(openai.InternalServerError, match="The engine failed on this request") as failed:
        await streamed("error-first")
    assert failed.value.status_code == 502
    with pytest.raises(openai.BadRequestError) as refused:
        await chats.create(model="m", messages=say("too-long"))
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.RateLimitError) as busy:
        await chats.create(model="m", messages=say("busy"))
    assert busy.value.response.headers["retry-after"] == "17"
    assert SECRET not in "".join(str(one.value) for one in (broken, failed, refused, busy))
    (row,) = await usage(endpoint.tenant, 6)
    assert row["errors"] == 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": "x"}, "stream_options"),
        ({"n": 0}, "n"),
        ({"max_tokens": "3"}, "max_tokens"),
    ],
)
async def test_what_cannot_be_counted_is_refused(
    endpoint: Endpoint, ready: LinkAgent, body: dict[str, Any], param: str
) -> None:
    refused = await endpoint.chat(json.dumps({"messages": say("Hi")} | body).encode())
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    (row,) = await usage(endpoint.tenant, 1)
    assert (row["errors"], row["prompt_tokens"], row["estimated"]) == (0, 0, False)


async def test_who_leaves_at_the_end_of_a_stream_is_counted_by_the_engine(endpoint: Endpoint, ready: LinkAgent) -> None:
    async def ask() -> httpx.Response:
        request = endpoint.http.build_request("POST", "/chat/completions", content=b'{"stream": true}')
        return await endpoint.http.send(request, stream=True)

    asked = asyncio.ensure_future(ask())
    request, _ = await ready.request()
    await ready.send(Head(request.stream, 200, "text/event-stream"))
    await ready.send(Chunk(request.stream, b"data: {}\n\ndata: [DO"))
    streamed = await asked
    got = streamed.aiter_raw()
    assert await anext(got) == b"data: {}\n\ndata: [DO"
    await ready.send(Chunk(request.stream, b"NE]\n\n"))
    rest = asyncio.ensure_future(anext(got))
    await asyncio.sleep(0)
    await ready.send(End(request.stream, None, 100, 50))
    assert await rest == b"NE]\n\n"
    await streamed.aclose()
    (row,) = await usage(endpoint.tenant, 1)
    assert (row["prompt_tokens"], row["completion_tokens"], row["estimated"]) == (100, 50, False)


@pytest.mark.parametrize("tokens", [((1 << 31) - 1, 1), (1, (1 << 31) - 1), (9000, 1), (1, 11), (0, 0)])
async def test_an_agents_count_that_cannot_be_is_replaced(
    endpoint: Endpoint, ready: LinkAgent, tokens: tuple[int, int]
) -> None:
    async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
        await agent.send(answer(request, b'{"choices": []}', tokens=tokens))

    ready.handler = serve
    assert (await endpoint.chat(b'{"max_tokens": 10}')).status_code == 200
    (row,) = await usage(endpoint.tenant, 1)
    assert (row["prompt_tokens"], row["completion_tokens"], row["estimated"]) == (5, 4, True)


@pytest.mark.parametrize(("status", "kind"), [(502, "server_error"), (400, "invalid_request_error")])
async def test_an_answer_that_broke_off_is_told_once_and_counted_as_an_error(
    endpoint: Endpoint, ready: LinkAgent, status: int, kind: str
) -> None:
    async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
        await agent.send(Head(request.stream, 200, "text/event-stream"))
        await agent.send(Chunk(request.stream, b"data: {}\n\n"))
        await agent.send(End(request.stream, "It broke off; try again.", 7, 3, estimated=True, status=status))

    ready.handler = serve
    streamed = await endpoint.chat(b'{"stream": true}')
    first, last = streamed.text.removesuffix("\n\n").split("\n\n")
    assert (first, streamed.status_code) == ("data: {}", 200)
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["message"], error["type"]) == ("It broke off; try again.", kind)
    (row,) = await usage(endpoint.tenant, 1)
    assert (row["errors"], row["prompt_tokens"], row["completion_tokens"], row["estimated"]) == (1, 7, 3, True)


async def test_an_error_counts_no_tokens(endpoint: Endpoint, ready: LinkAgent) -> None:
    async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
        await agent.send(Answer(request.stream, 503, "application/json", b"{}", retry_after=7))

    ready.handler = serve
    answered = await endpoint.chat()
    assert (answered.status_code, answered.headers["retry-after"]) == (503, "7")
    (row,) = await usage(endpoint.tenant, 1)
    assert (row["errors"], row["prompt_tokens"], row["completion_tokens"], row["estimated"]) == (1, 0, 0, False)
