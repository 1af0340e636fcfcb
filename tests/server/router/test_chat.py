"""An answer on its way from the agent to the client: unchanged, whatever its form and size."""

import asyncio
import json

import httpx
import openai
import pytest

from answers import problem
from link_agent import LinkAgent, answer, answer_events
from modelshare.server.app import Application
from modelshare.wire.link import BODY_SLICE, Chunk, End, Head, Request
from server.router.conftest import Endpoint

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]

COMPLETION = {
    "id": "c-1",
    "object": "chat.completion",
    "created": 1,
    "model": "acme/tiny",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11},
}


def event(content: str) -> bytes:
    delta = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "acme/tiny", "choices": [delta]}
    return json.dumps(chunk).encode()


@pytest.mark.parametrize("route", ["chat/completions", "completions", "embeddings"])
async def test_a_whole_answer(endpoint: Endpoint, ready: LinkAgent, route: str) -> None:
    sent = b'{"prompt": "a", "input": "a"}'
    asked = asyncio.ensure_future(endpoint.http.post(f"/{route}", content=sent))
    request, body = await ready.request()
    assert (request.route, body) == (route, sent)
    await ready.send(answer(request, b'{"choices": []}'))
    answered = await asked
    assert (answered.status_code, answered.content) == (200, b'{"choices": []}')
    assert answered.headers["content-type"] == "application/json"
    assert answered.headers["content-length"] == "15"
    assert len(answered.headers["x-request-id"]) == 32


async def test_an_agent_tells_projects_apart_and_learns_nothing_of_them(
    app: Application, endpoint: Endpoint, ready: LinkAgent
) -> None:
    async def tenant() -> str:
        asked = asyncio.ensure_future(endpoint.chat())
        request, _ = await ready.request()
        await ready.send(answer(request, b"{}"))
        assert (await asked).status_code == 200
        return request.tenant

    own = endpoint.tenant.project.id
    named = await tenant()
    assert await tenant() == named
    assert own not in named
    tenants = {app._router.tenant(project) for project in (own, "proj_000000000000", "proj_000000000001")}
    assert len(tenants) == 3
    assert named in tenants


async def test_a_stream_passes_event_by_event(endpoint: Endpoint, ready: LinkAgent) -> None:
    async def ask() -> httpx.Response:
        request = endpoint.http.build_request("POST", "/chat/completions", content=b"{}")
        return await endpoint.http.send(request, stream=True)

    asked = asyncio.ensure_future(ask())
    request, _ = await ready.request()
    await ready.send(Head(request.stream, 200, "text/event-stream; charset=utf-8"))
    await ready.send(Chunk(request.stream, b"data: 1\n\n"))
    streamed = await asked
    assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert streamed.headers["cache-control"] == "no-cache"
    chunks = streamed.aiter_raw()
    assert await anext(chunks) == b"data: 1\n\n"
    await ready.send(Chunk(request.stream, b"data: 2\n\n"))
    assert await anext(chunks) == b"data: 2\n\n"
    await ready.send(End(request.stream))
    assert [chunk async for chunk in chunks] == []


async def test_the_openai_client_streams_and_does_not(endpoint: Endpoint, ready: LinkAgent) -> None:
    async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
        if json.loads(body).get("stream"):
            await answer_events(agent, request, [event("Hel"), event("lo."), b"[DONE]"])
        else:
            await agent.send(answer(request, json.dumps(COMPLETION).encode()))

    ready.handler = serve
    messages: list[openai.types.chat.ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hello?"}]
    async with openai.AsyncOpenAI(base_url=endpoint.base_url, api_key=endpoint.tenant.project.api_key) as client:
        whole = await client.chat.completions.create(model="any", messages=messages)
        assert whole.choices[0].message.content == "Hello."
        stream = await client.chat.completions.create(model="any", messages=messages, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello."
        assert [model.id async for model in client.models.list()] == ["acme/tiny"]


async def test_the_first_chunk_is_waited_for(endpoint: Endpoint, ready: LinkAgent) -> None:
    asked = asyncio.ensure_future(endpoint.chat())
    request, _ = await ready.request()
    await ready.send(Head(request.stream, 200, "text/event-stream"))
    await ready.send(End(request.stream, "The engine ran out of memory."))
    answered = await asked
    assert answered.status_code == 502
    assert "ran out of memory" in answered.json()["error"]["message"]


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_the_engines_status_passes(endpoint: Endpoint, ready: LinkAgent, status: int) -> None:
    asked = asyncio.ensure_future(endpoint.chat())
    request, _ = await ready.request()
    error = b'{"error": {"message": "no", "type": "invalid_request_error", "code": null, "param": null}}'
    await ready.send(answer(request, error, status=status))
    answered = await asked
    assert (answered.status_code, answered.content) == (status, error)
    assert ("retry-after" in answered.headers) == (status in {429, 503})


async def test_a_long_request_arrives_in_slices(endpoint: Endpoint, ready: LinkAgent) -> None:
    body = json.dumps({"messages": [{"content": "end" * 400_000}]}).encode()
    asked = asyncio.ensure_future(endpoint.chat(body))
    request, arrived = await ready.request()
    assert request.more
    assert len(request.body) == BODY_SLICE
    assert arrived == body
    await ready.send(answer(request, b"{}"))
    assert (await asked).status_code == 200


@pytest.mark.parametrize("size", [300_000, 12 << 20])
async def test_a_long_answer_is_whole(endpoint: Endpoint, ready: LinkAgent, size: int) -> None:
    content = b'"' + b"x" * (size - 2) + b'"'

    async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
        await agent.send(Head(request.stream, 200, "application/json"))
        for offset in range(0, size, BODY_SLICE):
            await agent.chunk(request, content[offset : offset + BODY_SLICE])
        await agent.send(End(request.stream, None, 3, 8))

    ready.handler = serve
    answered = await endpoint.http.post("/embeddings", content=b'{"input": "a"}')
    assert (answered.status_code, answered.content) == (200, content)


async def test_the_model_that_is_served(endpoint: Endpoint, ready: LinkAgent) -> None:
    listed = (await endpoint.http.get("/models")).json()
    (model,) = listed["data"]
    assert (listed["object"], model["id"], model["owned_by"]) == ("list", "acme/tiny", "acme")
    for name in ("acme%2Ftiny", "acme/tiny", "acme%2ftiny", "%61cme/tiny"):
        assert (await endpoint.http.get(f"/models/{name}")).json() == model, name
    for name in ("acme/other", "tiny", "acme%2Ftiny%2F", "acme%252Ftiny", "%00", ""):
        missing = await endpoint.http.get(f"/models/{name}")
        assert problem(missing) == (404, "not_found_error", "model_not_found"), name
    refused = await endpoint.http.delete("/models/acme%2Ftiny")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")


async def test_head_says_what_get_would(endpoint: Endpoint, ready: LinkAgent) -> None:
    for path in ("/models", "/models/acme%2Ftiny", "/models/other", "/chat/completions", "/nothing"):
        full, head = await endpoint.http.get(path), await endpoint.http.head(path)
        assert (head.status_code, head.content) == (full.status_code, b""), path
        for name in ("content-type", "content-length", "allow"):
            assert head.headers.get(name) == full.headers.get(name), path
    assert (await endpoint.http.get("/models")).status_code == 200, "the connection is as good as before"


async def test_many_at_once(endpoint: Endpoint, ready: LinkAgent) -> None:
    async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
        await asyncio.sleep(0)
        await agent.send(answer(request, body))

    ready.handler = serve
    limits = httpx.Limits(max_connections=100)
    headers = {"Authorization": f"Bearer {endpoint.tenant.project.api_key}"}
    async with httpx.AsyncClient(base_url=endpoint.base_url, headers=headers, limits=limits) as http:
        bodies = [json.dumps({"seed": number}).encode() for number in range(150)]
        busy = asyncio.Semaphore(90)

        async def ask(body: bytes) -> bytes:
            async with busy:
                answered = await http.post("/chat/completions", content=body)
            assert answered.status_code == 200, answered.text
            return answered.content

        assert await asyncio.gather(*map(ask, bodies)) == bodies
