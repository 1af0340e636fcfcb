"""Asks an engine as the agent's relay does."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp

from modelshare.agent.engines.base import Engine, Route
from modelshare.agent.engines.relay_rules import StreamRewriter, Usage, prepare_request, rewrite_answer

PUBLIC_NAME = "acme/tiny"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi there"}], "temperature": 0}


async def ask(engine: Engine, route: Route = Route.CHAT, **fields: Any) -> tuple[dict[str, Any], Usage]:
    """A whole answer."""
    policy = engine.relay_for(PUBLIC_NAME)
    prepared = prepare_request(json.dumps({"model": "whatever", **fields}).encode(), policy)
    url = f"{engine.base_url}/{route}"
    async with _session(engine) as http, http.post(url, data=prepared.body) as answer:
        body = await answer.read()
        assert answer.status == 200, body
    rewritten, usage = rewrite_answer(body, policy)
    return json.loads(rewritten), usage


async def stream(engine: Engine, rewriter: StreamRewriter, **fields: Any) -> AsyncGenerator[bytes, None]:
    """A streamed answer, piece by piece."""
    policy = engine.relay_for(PUBLIC_NAME)
    prepared = prepare_request(json.dumps({"model": "whatever", "stream": True, **fields}).encode(), policy)
    url = f"{engine.base_url}/{Route.CHAT}"
    async with _session(engine) as http, http.post(url, data=prepared.body) as answer:
        assert answer.status == 200, await answer.read()
        async for chunk in answer.content.iter_any():
            yield rewriter.feed(chunk)
    yield rewriter.finish()


def said(events: bytes) -> str:
    """The text of a stream, which must be whole: well-formed, under the public name, and ended."""
    *chunks, end, rest = events.decode().split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    contents = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    assert {content["model"] for content in contents} == {PUBLIC_NAME}
    choices = [choice for content in contents for choice in content["choices"]]
    assert len(choices) >= len(contents), "the usage that nobody asked for is hidden"
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def _session(engine: Engine) -> aiohttp.ClientSession:
    headers = engine.headers | {"Content-Type": "application/json"}
    return aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=60))
